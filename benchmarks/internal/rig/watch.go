package rig

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

// Samples are the metrics of a service at one moment, by series as it is written in the exposition:
// name{label="value",…}.
type Samples map[string]float64

// Sum adds up all series of a name.
func (s Samples) Sum(name string) (sum float64) {
	for series, value := range s {
		if rest, ok := strings.CutPrefix(series, name); ok && (rest == "" || rest[0] == '{') {
			sum += value
		}
	}
	return sum
}

// Metrics reads the metrics of a service with these names, or all. All cost the service about a millisecond, and with a
// thousand tenants ten.
func (r *Rig) Metrics(ctx context.Context, service *stack.Service, names ...string) (Samples, error) {
	body, err := r.scrape(ctx, service, names...)
	if err != nil {
		return nil, err
	}
	samples := Samples{}
	for line := range bytes.Lines(body) {
		series, value, ok := sample(line)
		if ok {
			samples[string(series)] = value
		}
	}
	return samples, nil
}

// sample parses a line of the exposition format; comments are none.
func sample(line []byte) (series []byte, value float64, ok bool) {
	line = bytes.TrimSpace(line)
	space := bytes.LastIndexByte(line, ' ')
	if space < 0 || line[0] == '#' {
		return nil, 0, false
	}
	value, err := strconv.ParseFloat(string(line[space+1:]), 64)
	return line[:space], value, err == nil
}

func (r *Rig) scrape(ctx context.Context, service *stack.Service, names ...string) ([]byte, error) {
	query := url.Values{"name[]": names}
	body, err := r.Fetch(ctx, service.OpsURL+"/metrics?"+query.Encode())
	if err != nil {
		return nil, fmt.Errorf("read the metrics of %s: %w", service.Instance, err)
	}
	return body, nil
}

const (
	// shortestLook and longestLook bound the pauses between two looks at a backlog: the end of a measurement is known to
	// within the shorter, and until the end is near there are few looks. Where a look takes long, because there are many
	// tenants, the pause is at least lookShare times as long.
	shortestLook = 5 * time.Millisecond
	lookShare    = 2
	longestLook  = 500 * time.Millisecond
	// nothingYet is the pause before the first message is stored.
	nothingYet = 20 * time.Millisecond
)

// Watch counts what ingest-service commits from now on. It does not outlive a restart of ingest-service.
type Watch struct {
	rig    *Rig
	series []byte             // that of one tenant; empty for all tenants together
	base   map[string]float64 // by series: a tenant that is deleted meanwhile takes its series along
	looks  int
}

// Looks is how often the metrics of ingest-service have been read for this: what they cost can be taken off.
func (w *Watch) Looks() int { return w.looks }

// StoredTotal is the counter of stored messages, by tenant.
const StoredTotal = "mtm_messages_stored_total"

// Watch begins to count the messages of tenant, or of all tenants for uuid.Nil.
func (r *Rig) Watch(ctx context.Context, tenant uuid.UUID) (*Watch, error) {
	w := &Watch{rig: r, base: map[string]float64{}}
	if tenant != uuid.Nil {
		w.series = fmt.Appendf(nil, `%s{tenant_id="%s"}`, StoredTotal, tenant)
	}
	err := w.each(ctx, func(series []byte, value float64) { w.base[string(series)] = value })
	return w, err
}

// each calls do for the counters that are watched.
func (w *Watch) each(ctx context.Context, do func(series []byte, value float64)) error {
	w.looks++
	body, err := w.rig.scrape(ctx, w.rig.Stack.Ingest, StoredTotal)
	if err != nil {
		return err
	}
	for line := range bytes.Lines(body) {
		if !bytes.HasPrefix(line, []byte(StoredTotal+"{")) {
			continue
		}
		if series, value, ok := sample(line); ok && (len(w.series) == 0 || bytes.Equal(series, w.series)) {
			do(series, value)
		}
	}
	return nil
}

// Await returns when n messages have been committed, and the time at which that was seen: at most about 10 ms later, and with
// a thousand tenants 50.
func (w *Watch) Await(ctx context.Context, n int) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, WaitLimit)
	defer cancel()
	began := time.Now()
	for {
		var done float64
		asked := time.Now()
		err := w.each(ctx, func(series []byte, value float64) { done += value - w.base[string(series)] })
		now := time.Now()
		if err != nil {
			return now, err
		}
		if done >= float64(n) {
			return now, nil
		}
		pause := nothingYet
		if done > 0 {
			left := time.Duration(float64(now.Sub(began)) / done * (float64(n) - done))
			pause = min(max(left*2/3, shortestLook, lookShare*now.Sub(asked)), longestLook)
		}
		if err := retry.Sleep(ctx, pause); err != nil {
			return now, fmt.Errorf("%.0f of %d messages are stored: %w", done, n, err)
		}
	}
}

// consumersPause is the time between two looks at how many tenants are consumed.
const consumersPause = 100 * time.Millisecond

// AwaitConsumers returns when ingest-service consumes the queues of at least n tenants.
func (r *Rig) AwaitConsumers(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, WaitLimit)
	defer cancel()
	tick := time.NewTicker(consumersPause)
	defer tick.Stop()
	for {
		samples, err := r.Metrics(ctx, r.Stack.Ingest, "mtm_consumers")
		if err != nil {
			return err
		}
		running := samples[`mtm_consumers{state="running"}`]
		if running >= float64(n) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%.0f of %d tenants are consumed: %w", running, n, ctx.Err())
		case <-tick.C:
		}
	}
}
