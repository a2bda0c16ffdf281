package relay

import "context"

// Pass is one pass, for tests that decide what comes between its steps.
func (r *Relay) Pass(ctx context.Context, full bool) error { return r.pass(ctx, full) }

// OnConnect replaces what tells of connects to NATS. Call it before Run.
func (r *Relay) OnConnect(next func() <-chan struct{}) { r.connected = next }

// Notify tells the relay's Changes.
func (r *Relay) Notify() { r.options.Changes.Notify() }
