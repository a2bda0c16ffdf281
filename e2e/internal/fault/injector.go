package fault

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/e2e/internal/platform"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

const (
	// RecoveryLimit is how long a recovery may take, not counting the time in which other faults are in force, before it is
	// given up and is an error. It leaves room for a report to demand less.
	RecoveryLimit = 2 * time.Minute
	// undoTimeout bounds what brings back what a fault has taken away; RabbitMQ may take a minute to start on a busy machine.
	undoTimeout = 3 * time.Minute
	// actTimeout bounds what a fault does to a server or a service.
	actTimeout = time.Minute
	// churnTimeout bounds what tenants go through, which may wait for the end of another fault.
	churnTimeout = 4 * time.Minute
	// readyTimeout bounds one look at the readiness of the services.
	readyTimeout = 5 * time.Second
	recoveryPoll = 50 * time.Millisecond
)

// Injector makes the faults of a schedule happen and undoes each of them.
type Injector struct {
	platform *platform.Platform
	probe    Probe
	churn    Churn
	log      func(format string, args ...any)
}

// New makes an injector. log is told of every fault as it begins, when it is over, and when the platform has recovered from
// it; it is called from several goroutines.
func New(p *platform.Platform, probe Probe, churn Churn, log func(format string, args ...any)) *Injector {
	return &Injector{platform: p, probe: probe, churn: churn, log: log}
}

// Run makes the events happen, each at its time, and returns one result for each, in the order of events. It returns when
// every fault has been undone and recovered from, which may be later than the schedule says: an event that is due waits
// while two others are in force, while one is that concerns the same server, and until the platform has recovered from
// the last one of its kind. So ctx is not for ending a run that is late. When it ends, faults are cut short and undone, no
// further one begins, and recovery is not waited for; the results concerned have its error.
func (i *Injector) Run(ctx context.Context, events []Event) []Result {
	r := &run{Injector: i, start: time.Now(), gate: newGate(events), results: make([]Result, len(events))}
	var group sync.WaitGroup
	for n, event := range events {
		group.Go(func() {
			r.results[n] = Result{Event: event, Kind: event.Kind}
			if err := r.one(ctx, n); err != nil {
				r.results[n].Err = fmt.Errorf("%s: %w", event.Kind, err)
				r.say("%s: %v", event, err)
			}
		})
	}
	group.Wait()
	return r.results
}

// run is one Run. Each event has a goroutine that owns its result.
type run struct {
	*Injector
	start   time.Time
	gate    *gate
	results []Result
}

func (r *run) say(format string, args ...any) {
	r.log("%6.1fs  "+format, append([]any{time.Since(r.start).Seconds()}, args...)...)
}

// one is the life of event n.
func (r *run) one(ctx context.Context, n int) error {
	event, result := r.gate.events[n], &r.results[n]
	if err := retry.Sleep(ctx, time.Until(r.start.Add(event.At))); err != nil {
		return fmt.Errorf("not begun: %w", err)
	}
	if err := r.gate.enter(ctx, n); err != nil {
		return fmt.Errorf("not begun: %w", err)
	}
	result.At = time.Since(r.start)
	r.say("%s", event)
	failed := r.inject(ctx, event, result)
	at := r.gate.over(n)
	defer r.gate.healed(n)
	result.Lasted = at.end.Sub(at.begin)
	if ctx.Err() != nil {
		return errors.Join(failed, ctx.Err())
	}

	var applied error
	var group sync.WaitGroup
	if event.Kind.concernsNATS() {
		group.Go(func() { applied = r.reconfigure(ctx, n, at.end, result) })
	}
	if event.Kind == ChannelDisagrees {
		group.Go(func() { applied = r.agree(ctx, n, at.end) })
	}
	recovered := r.recover(ctx, n, at.end, result)
	group.Wait()
	if err := errors.Join(failed, recovered, applied); err != nil {
		return err
	}
	more := ""
	if result.Applied > 0 {
		more = fmt.Sprintf(", a change applied in %s", result.Applied.Round(time.Millisecond))
	}
	r.say("%s: lasted %s, recovered in %s%s", event, result.Lasted.Round(time.Millisecond),
		result.Recovery.Round(time.Millisecond), more)
	return nil
}

// recover returns when the platform works for everybody.
func (r *run) recover(ctx context.Context, n int, since time.Time, result *Result) error {
	for try := 0; ; try++ {
		err := r.works(ctx, try)
		result.Recovery, result.Elapsed = r.gate.quiet(n, since), time.Since(since)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case result.Recovery > RecoveryLimit:
			return fmt.Errorf("the platform has not recovered after %s: %w", result.Recovery.Round(time.Second), err)
		}
		if err := retry.Sleep(ctx, recoveryPoll); err != nil {
			return err
		}
	}
}

// works is nil if all services are ready and a message gets through.
func (r *run) works(ctx context.Context, try int) error {
	asking, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := r.platform.Ready(asking); err != nil {
		return err
	}
	// One that has got stuck with something that is away must not be waited for long, but a machine that is busy must be.
	probing, cancel := context.WithTimeout(ctx, readyTimeout*time.Duration(min(try+1, 6)))
	defer cancel()
	if err := r.probe.RoundTrip(probing); err != nil {
		return fmt.Errorf("a message does not get through: %w", err)
	}
	return nil
}

// reconfigure measures how long a change of a tenant takes to be applied.
func (r *run) reconfigure(ctx context.Context, n int, since time.Time, result *Result) error {
	ctx, cancel := context.WithTimeout(ctx, churnTimeout)
	defer cancel()
	if err := r.churn.Reconfigure(ctx); err != nil {
		return fmt.Errorf("a change is not applied: %w", err)
	}
	result.Applied = r.gate.quiet(n, since)
	return nil
}
