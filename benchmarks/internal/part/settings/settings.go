// Package settings measures what the settings of ingest-service that are about speed do to it: a backlog of one tenant is
// drained with the defaults and with each of them changed, in turns. It is why the defaults are what they are.
package settings

import (
	"context"
	"errors"
	"fmt"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/part/drain"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/report"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
)

const part = "settings"

// variant is a change of one setting. The empty one is the defaults.
type variant struct{ name, value string }

func (v variant) String() string {
	if v.name == "" {
		return "defaults"
	}
	return v.name + "=" + v.value
}

// load is a backlog of so many messages of so many bytes, with the settings that may matter to it.
type load struct {
	name     string
	size     int
	backlog  int
	variants []variant
}

func loads(quick bool) []load {
	small := load{name: "1 KB", size: 1 << 10, backlog: 40_000, variants: []variant{
		{},
		{"INGEST_PREFETCH", "250"},
		{"INGEST_PREFETCH", "1000"},
		{"INGEST_PREFETCH", "4000"},
		{"INGEST_PREFETCH", "8000"},
		{"INGEST_BATCH_MESSAGES", "100"},
		{"INGEST_BATCH_MESSAGES", "250"},
		{"INGEST_BATCH_MESSAGES", "2000"},
		{"INGEST_BATCH_DELAY", "0s"},
		{"INGEST_BATCH_DELAY", "20ms"},
		{"DATABASE_MAX_CONNS", "4"},
		{"DATABASE_MAX_CONNS", "32"},
	}}
	large := load{name: "16 KB", size: 16 << 10, backlog: 6000, variants: []variant{
		{},
		{"INGEST_BATCH_BYTES", "1048576"},
		{"INGEST_BATCH_BYTES", "16777216"},
		{"INGEST_UNACKED_BYTES", "16777216"},
	}}
	if quick {
		small.backlog, small.variants = 10_000, small.variants[:2]
		return []load{small}
	}
	return []load{small, large}
}

// Run is the part.
func Run(ctx context.Context, r *rig.Rig, rec report.Recorder) (err error) {
	defer func() { err = errors.Join(err, r.Configure(context.WithoutCancel(ctx), nil)) }()
	for _, l := range loads(r.Quick) {
		series := make([]report.Series, len(l.variants))
		for round := range r.Rounds {
			var defaults float64
			for i, v := range l.variants {
				rate, err := l.measure(ctx, r, v)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", l.name, v, err)
				}
				if i == 0 {
					defaults = rate
					series[i].Add(rate, 0)
				} else {
					series[i].Add(rate, defaults)
				}
				rec.Progress("settings, round %d of %d: %s, %s: %.0f msg/s", round+1, r.Rounds, l.name, v, rate)
			}
		}
		for i, v := range l.variants {
			result := series[i].Result(part, fmt.Sprintf("drain %s, %s", l.name, v), "msg/s", "")
			if i > 0 {
				result.Note = "held against the defaults"
			}
			rec.Add(result)
		}
	}
	return nil
}

func (l load) measure(ctx context.Context, r *rig.Rig, v variant) (perSecond float64, err error) {
	var settings map[string]string
	if v.name != "" {
		settings = map[string]string{v.name: v.value}
	}
	if err := r.Configure(ctx, settings); err != nil {
		return 0, err
	}
	return drain.Rate(ctx, r, drain.Platform, rig.Workers, l.backlog, rig.Payload(l.size))
}
