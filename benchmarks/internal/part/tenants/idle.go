package tenants

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/report"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

// memory is what ingest-service takes, in bytes.
type memory struct{ resident, heap, stack int64 }

// memory collects garbage and then looks.
func (w *world) memory(ctx context.Context) (memory, error) {
	var m memory
	for range 2 { // what pools keep survives one collection
		body, err := w.ops(ctx, "/debug/pprof/heap?gc=1&debug=1")
		if err != nil {
			return m, err
		}
		var total int64
		for line := range bytes.Lines(body) {
			_, _ = fmt.Sscanf(string(line), "# HeapInuse = %d", &m.heap) // other lines do not match
			_, _ = fmt.Sscanf(string(line), "# Stack = %d / %d", &m.stack, &total)
		}
	}
	if m.heap == 0 || m.stack == 0 {
		return m, fmt.Errorf("the heap profile of ingest-service does not tell what is in use")
	}
	var err error
	m.resident, err = w.own.Memory(ctx, rig.Ingest)
	return m, err
}

// ops reads from the operations listener of ingest-service.
func (w *world) ops(ctx context.Context, path string) ([]byte, error) {
	return w.rig.Fetch(ctx, w.stack.Ingest.OpsURL+path)
}

// idling measures what tenants cost that nothing happens to. empty is the memory of ingest-service before the first.
func (p plan) idling(ctx context.Context, w *world, empty memory, rec report.Recorder) error {
	rec.Progress("%s: %s", part, p.name("idle"))
	if err := retry.Sleep(ctx, p.cooldown); err != nil {
		return err
	}
	// The garbage of creating them all; the pages that it leaves go back to the system meanwhile.
	if _, err := w.memory(ctx); err != nil {
		return err
	}
	services := []rig.Process{rig.Ingest, rig.Tenant, rig.Query}
	used := make([]time.Duration, len(services))
	for i, service := range services {
		var err error
		if used[i], err = w.own.CPU(ctx, service); err != nil {
			return err
		}
	}
	began := time.Now()
	if err := retry.Sleep(ctx, p.idle); err != nil {
		return err
	}
	for i, service := range services {
		now, err := w.own.CPU(ctx, service)
		if err != nil {
			return err
		}
		var share report.Series
		share.Add(100*float64(now-used[i])/float64(time.Since(began)), 0)
		result := share.Result(part, p.name("idle, CPU of "+string(service)), "% of a core", "<= 5 %")
		result.Note = fmt.Sprintf("over %.0f s", p.idle.Seconds())
		rec.Add(result)
	}
	full, err := w.memory(ctx)
	if err != nil {
		return err
	}
	perTenant := func(full, empty int64) float64 { return float64(full-empty) / (1 << 10) / float64(p.tenants) }
	var resident report.Series
	resident.Add(perTenant(full.resident, empty.resident), 0)
	result := resident.Result(part, p.name("idle, resident memory of ingest-service"), "KiB/tenant", "<= 32 KiB")
	result.Note = fmt.Sprintf("heap in use %.1f, stacks %.1f; without tenants the process has %d MiB",
		perTenant(full.heap, empty.heap), perTenant(full.stack, empty.stack), empty.resident>>20)
	rec.Add(result)
	return nil
}

// scrapes is how often the metrics are read.
const scrapes = 5

// scrape measures what it takes to read the metrics of all tenants.
func (p plan) scrape(ctx context.Context, w *world, rec report.Recorder) error {
	var took, size report.Series
	for range scrapes {
		began := time.Now()
		body, err := w.ops(ctx, "/metrics")
		if err != nil {
			return err
		}
		took.Add(float64(time.Since(began))/float64(time.Millisecond), 0)
		size.Add(float64(len(body))/(1<<20), 0)
	}
	rec.Add(took.Result(part, p.name("metrics of ingest-service, scrape"), "ms", "<= 1000 ms"))
	rec.Add(size.Result(part, p.name("metrics of ingest-service, size"), "MiB", ""))
	return nil
}
