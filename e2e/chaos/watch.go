package main

import (
	"context"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/e2e/internal/fault"
)

// death is the end of a service's process.
type death struct {
	service string
	at      time.Duration // from the start of the run
}

const (
	// watchInterval is shorter than any service is away when it is killed.
	watchInterval = 50 * time.Millisecond
	// watchSlack is how far the clocks of the watch and of a fault's result may be apart.
	watchSlack = 2 * time.Second
)

// watch notes when services end, until ctx does. A service that has ended is started again by nobody but the fault that
// ended it.
func (e *experiment) watch(ctx context.Context) (deaths []death) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	last := make(map[string]int) // pid of a process that ran
	for {
		for _, service := range e.platform.Services() {
			pid := 0
			if service.Running() {
				pid = service.PID()
			}
			if before := last[service.Name]; before != 0 && pid != before {
				deaths = append(deaths, death{service.Name, time.Since(e.began)})
			}
			last[service.Name] = pid
		}
		select {
		case <-ctx.Done():
			return deaths
		case <-tick.C:
		}
	}
}

// unexplained are the deaths that no fault was meant to bring about. The faults began that long after the start.
func unexplained(deaths []death, begin time.Duration, results []fault.Result) (left []death) {
	for _, d := range deaths {
		explained := false
		at := d.at - begin
		for _, r := range results {
			kills := r.Kind == fault.Kind("kill-"+d.service) || r.Kind == fault.Kind("term-"+d.service)
			if kills && at >= r.At-watchSlack && at <= r.At+r.Lasted+watchSlack {
				explained = true
			}
		}
		if !explained {
			left = append(left, d)
		}
	}
	return left
}
