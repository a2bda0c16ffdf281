package batch

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

// Gate stands in front of the database for all workers of the process. When one of them finds the database away, the
// gate closes and all wait; one goroutine probes it with growing, jittered pauses, and opens the gate when it answers.
// It is a circuit breaker that lets callers wait instead of refusing them, with the probe as its half-open state: ten
// thousand tenants cost a broken database one question at a time.
type Gate struct {
	probe func(ctx context.Context) error
	log   *zap.Logger

	mu     sync.Mutex
	err    error         // guarded by mu: why the gate is closed; nil while it is open
	opened chan struct{} // guarded by mu: closed while the gate is open
	closed chan struct{} // guarded by mu: closed while the gate is closed
}

// NewGate returns an open gate. probe asks the database whether it answers and can be written to.
func NewGate(probe func(ctx context.Context) error, log *zap.Logger) *Gate {
	opened := make(chan struct{})
	close(opened)
	return &Gate{probe: probe, log: log, opened: opened, closed: make(chan struct{})}
}

// Wait returns nil once the gate is open, and the reason why it is closed if ctx ends first.
func (g *Gate) Wait(ctx context.Context) error {
	for {
		g.mu.Lock()
		err, opened := g.err, g.opened
		g.mu.Unlock()
		if err == nil {
			return nil
		}
		select {
		case <-opened:
		case <-ctx.Done():
			return fmt.Errorf("the database is away: %w (%w)", err, ctx.Err())
		}
	}
}

// Err is why the gate is closed; nil while it is open.
func (g *Gate) Err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// Close closes the gate because of err.
func (g *Gate) Close(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return
	}
	g.err = err
	g.opened = make(chan struct{})
	close(g.closed)
}

func (g *Gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = nil
	g.closed = make(chan struct{})
	close(g.opened)
}

// stableAfter is how long a gate must have been open for the next outage to begin with short pauses again. A database that
// answers the probe and refuses what is written closes it sooner than that.
const stableAfter = 10 * time.Second

// Run probes while the gate is closed, until ctx ends. It tells report why the gate is closed, nil while it is open, first and
// after every change.
func (g *Gate) Run(ctx context.Context, report func(error)) error {
	report(g.Err())
	pauses := retry.Backoff(50*time.Millisecond, 2*time.Second)
	for {
		g.mu.Lock()
		closed := g.closed
		g.mu.Unlock()
		opened := time.Now()
		select {
		case <-ctx.Done():
			return nil
		case <-closed:
		}
		again := time.Since(opened) < stableAfter
		if !again {
			pauses.Reset()
		}
		report(g.Err())
		g.log.Warn("the database is away; writing pauses", zap.Error(g.Err()))
		if !g.probeUntilUp(ctx, pauses, again) {
			return nil
		}
		g.open()
		report(nil)
		g.log.Info("the database is back; writing resumes")
	}
}

// probeUntilUp returns true once the probe is answered, and false when ctx ends. It begins with a pause if the last answer
// proved worth nothing.
func (g *Gate) probeUntilUp(ctx context.Context, pauses backoff.BackOff, pauseFirst bool) bool {
	for {
		if !pauseFirst && g.probe(ctx) == nil {
			return true
		}
		pauseFirst = false
		if retry.Sleep(ctx, pauses.NextBackOff()) != nil {
			return false
		}
	}
}
