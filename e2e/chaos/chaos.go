package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/e2e/internal/fault"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

const (
	// recoveryLimit is how long the platform may take to work again for everybody.
	recoveryLimit = time.Minute
	// warmUp is undisturbed. RabbitMQ saves half a second late that it has a new quorum queue (the directory of ra, a dets
	// file); killed in between, it starts that queue anew without a leader (seen with 4.0.5).
	warmUp = 3 * time.Second
	// wanted is how often each kind of fault occurs in a run of [chaosDuration] or longer.
	wanted = 2
)

// chaos disturbs.
func (e *experiment) chaos(ctx context.Context) error {
	events := fault.Schedule(e.duration, e.seed)
	e.screen.say("chaos: %s, %d faults, %.0f messages/s", e.servers, len(events), e.rate)
	var results []fault.Result
	var disturbed time.Time
	err := e.during(ctx, func(ctx context.Context) error {
		if err := retry.Sleep(ctx, warmUp); err != nil {
			return err
		}
		disturbed = time.Now()
		say := func(format string, args ...any) {
			if ctx.Err() == nil { // else every fault that was still to come would have its line
				e.screen.say(format, args...)
			}
		}
		results = fault.New(e.platform, e.traffic, e.traffic, say).Run(ctx, events)
		return retry.Sleep(ctx, time.Until(disturbed.Add(e.duration)))
	})
	if err != nil {
		return fmt.Errorf("interrupted: %w", err)
	}
	took := time.Since(disturbed)
	if err := e.drain(ctx); err != nil {
		return err
	}
	e.report.title = fmt.Sprintf("chaos: seed %d, %s, %d tenants, %.0f messages/s, %s", e.seed, took.Round(time.Second), e.tenants, e.rate, e.servers)
	complete := e.duration >= chaosDuration
	e.report.faults(results, complete)
	e.report.limits(e.traffic.Limits(), complete)
	revoked := e.traffic.Revocations()
	e.report.revocations(revoked, overdue(revoked.Late, disturbed, results), complete)
	for _, err := range e.traffic.Failures() {
		e.report.fail("%v", err)
	}
	for _, d := range unexplained(e.deaths, disturbed.Sub(e.began), results) {
		e.report.fail("%s ended without being told to after %s", d.service, d.at.Round(time.Millisecond))
	}
	return nil
}

// faults adds the table of faults, and fails what was not injected or not recovered from.
func (r *report) faults(results []fault.Result, complete bool) {
	faults := table{header: []string{"fault", "times", "recovery p50", "max"}}
	var created, applied []time.Duration
	for _, kind := range fault.Kinds() {
		var recovery []time.Duration
		for _, result := range results {
			if result.Kind != kind {
				continue
			}
			if result.Err != nil {
				r.fail("%v", result.Err)
				continue
			}
			recovery = append(recovery, result.Recovery)
			if result.Recovery > recoveryLimit {
				r.fail("%s: recovered only after %s, the limit is %s", kind, result.Recovery.Round(time.Millisecond), recoveryLimit)
			}
			if result.Created > 0 {
				created = append(created, result.Created)
			}
			if result.Applied > 0 {
				applied = append(applied, result.Applied)
			}
		}
		if complete && len(recovery) < wanted {
			r.fail("%s: injected and recovered from %d times, not %d", kind, len(recovery), wanted)
		}
		faults.add(string(kind), len(recovery), median(recovery), longest(recovery))
	}
	times := table{header: []string{"time", "measured", "p50", "max"}}
	times.add("POST /tenants → consuming", len(created), median(created), longest(created))
	times.add("NATS restart → applied change", len(applied), median(applied), longest(applied))
	r.tables = append(r.tables, faults, times)
}

// median of durations; of none it is 0.
func median(all []time.Duration) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[(len(sorted)-1)/2]
}

func longest(all []time.Duration) time.Duration {
	if len(all) == 0 {
		return 0
	}
	return slices.Max(all)
}
