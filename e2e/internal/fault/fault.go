package fault

import (
	"context"
	"slices"
	"time"
)

// Event is one fault of a schedule.
type Event struct {
	// At is when it begins, from the start of the run.
	At   time.Duration
	Kind Kind
	// Lasts is how long it is kept up. What it takes to start a server again, or to do what a [Churn] does, comes on top.
	Lasts time.Duration
	// Param chooses within a kind: the server that a fault of the network is put before, in the order of backing.Names.
	Param int64
}

// Result is what became of an [Event].
type Result struct {
	Event Event
	Kind  Kind
	// At is when it began, from the start of the run, and Lasted how long it was in force.
	At, Lasted time.Duration
	// Recovery is how long the platform took, from the moment the fault was over, until it worked again for everybody: all
	// three services were ready, and a message that was published after the fault had been confirmed, stored and read. Time
	// in which another fault was in force does not count: nothing can recover from one fault under another.
	Recovery time.Duration
	// Elapsed is the same with that time in it.
	Elapsed time.Duration
	// Created is how long the tenant of a [TenantChurn] took from POST to consuming; 0 for other kinds.
	Created time.Duration
	// Applied is how long a change of a tenant took to be applied, from the moment that NATS was back; 0 for kinds that do
	// not concern NATS.
	Applied time.Duration
	// Err says why it could not be injected, undone or recovered from. It names the fault.
	Err error
}

// Probe publishes one message of a tenant of its own and returns when it has been confirmed, stored and read back, each
// through the public APIs. It is called by several goroutines at a time, and again after an error.
type Probe interface {
	RoundTrip(ctx context.Context) error
}

// Churn does the faults that concern tenants. Its owner keeps the ledger, which has to know of them. No method is called
// again before it has returned; Reconfigure may be called while another one runs, and two others never are.
type Churn interface {
	// ResizeStorm resizes several tenants many times in a row; the last one wins, and is awaited.
	ResizeStorm(ctx context.Context) error
	// CreateUseDelete creates a tenant, uses it and deletes it. created is the time from POST to consuming.
	CreateUseDelete(ctx context.Context) (created time.Duration, err error)
	// SuspendResume suspends a tenant while messages arrive, checks that none is consumed, and resumes it.
	SuspendResume(ctx context.Context) error
	// DeletedTenantInRetry deletes a tenant of which messages wait in the retry tiers.
	DeletedTenantInRetry(ctx context.Context) error
	// Reconfigure changes a tenant, which none of the others changes meanwhile, and returns when the change has been applied.
	Reconfigure(ctx context.Context) error
}

// String names the fault, and its server where it chooses one.
func (e Event) String() string {
	if slices.Contains(Networks(), e.Kind) {
		return string(e.Kind) + " (" + string(e.server()) + ")"
	}
	return string(e.Kind)
}
