package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/e2e/internal/platform"
	"github.com/srireskianita/multi-tenant-messaging/e2e/internal/traffic"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

const (
	// drainLimit bounds a drain, which gives up much earlier when nothing moves.
	drainLimit = 15 * time.Minute
	// termLimit bounds the orderly end of a service.
	termLimit = time.Minute
)

// experiment is one run.
type experiment struct {
	options
	platform *platform.Platform
	traffic  *traffic.Traffic
	screen   *screen
	report   *report

	began   time.Time
	base    traffic.Progress  // at that time
	deaths  []death           // of services, as the watch has seen them
	before  map[string]sample // of each service
	servers string
}

// begin takes the first samples.
func (e *experiment) begin(ctx context.Context) error {
	load, err := e.traffic.Load(ctx)
	if err != nil {
		return err
	}
	source := func(name backing.Name) backing.Source { return e.platform.Backing.Process(name).Source() }
	e.servers = fmt.Sprintf("postgres %s (%s), rabbitmq %s (%s), nats (%s)", load.DatabaseVersion, source(backing.ServicePostgres),
		load.BrokerVersion, source(backing.ServiceRabbitMQ), source(backing.ServiceNATS))
	e.before, err = e.sampleAll(ctx)
	return err
}

// sampleAll samples every service.
func (e *experiment) sampleAll(ctx context.Context) (map[string]sample, error) {
	all := make(map[string]sample)
	for _, service := range e.platform.Services() {
		s, err := e.sample(ctx, service)
		if err != nil {
			return nil, err
		}
		all[service.Name] = s
	}
	return all, nil
}

// during runs the traffic, watches the services and shows the progress while fn works.
func (e *experiment) during(ctx context.Context, fn func(ctx context.Context) error) error {
	working, stop := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer stop()
	e.began, e.base = time.Now(), e.traffic.Progress()
	failed := make(chan error, 1)
	group.Go(func() { failed <- e.traffic.Run(working) })
	group.Go(func() { e.deaths = append(e.deaths, e.watch(working)...) })
	group.Go(func() { e.screen.show(working, e.progress) })
	err := fn(working)
	stop()
	return errors.Join(err, <-failed, ctx.Err())
}

func (e *experiment) progress() string {
	p := e.traffic.Progress()
	elapsed := time.Since(e.began)
	line := fmt.Sprintf("%s  %d tenants  confirmed %d (%.0f/s)  read %d  on their way %d", elapsed.Round(time.Second), p.Tenants,
		p.Confirmed, float64(p.Confirmed-e.base.Confirmed)/elapsed.Seconds(), p.Met, p.Unconfirmed+p.Unmet)
	if p.Wrong > 0 {
		line += fmt.Sprintf("  WRONG %d", p.Wrong)
	}
	return line
}

// drain waits for everything on its way. That something does not arrive is a failure, and no reason not to look at the rest.
func (e *experiment) drain(ctx context.Context) error {
	draining, cancel := context.WithTimeout(ctx, drainLimit)
	defer cancel()
	if err := e.traffic.Drain(draining, e.screen.say); err != nil {
		e.report.fail("%v", err)
	}
	return ctx.Err()
}

// end judges, asks all services to end in order, and completes the report.
func (e *experiment) end(ctx context.Context) error {
	if err := e.platform.Ready(ctx); err != nil {
		e.report.fail("in the end: %v", err)
	}
	e.screen.say("judging")
	v, err := e.traffic.Verdict(ctx)
	if err != nil {
		return fmt.Errorf("judge: %w", err)
	}
	after, err := e.sampleAll(ctx)
	if err != nil {
		e.report.fail("in the end: %v", err)
	}
	for _, service := range e.platform.Services() {
		stopping, cancel := context.WithTimeout(ctx, termLimit)
		status, err := service.Term(stopping)
		cancel()
		if err != nil {
			e.report.fail("%s, asked to end: %v", service.Name, err)
		} else if status != 0 {
			e.report.fail("%s, asked to end, ends with %d", service.Name, status)
		}
	}
	e.report.services(e.before, after)
	e.report.note("requests that the operator has repeated: %d; producers and readers leave repeats to the ledger", e.platform.Admin().Repeats())
	e.report.retention(v, !e.options.soak && e.duration >= chaosDuration)
	e.report.verdict(v, e.traffic.Hostile(), e.traffic.Remarks())
	return nil
}
