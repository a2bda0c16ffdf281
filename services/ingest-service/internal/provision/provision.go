// Package provision makes what a tenant needs, which is a partition, a queue and its bindings, and removes it. It also declares
// the exchanges and queues that all tenants share, and the screen for headers of producers.
//
// Each operation can be repeated, and starts from the beginning after any fault: there is no state on disk to get out of step.
// A tenant that had been provisioned before this instance started is assumed to be so still (see [Existing]), and verified by
// provisioning it once more.
package provision

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/step"
)

// Partitions makes and drops tenants' partitions; store.Store does.
type Partitions interface {
	Attach(ctx context.Context, tenant uuid.UUID) error
	Drop(ctx context.Context, tenant uuid.UUID) error
	// AttachedLongerThan are the tenants whose partition is at least so old and not dropped, the youngest first.
	AttachedLongerThan(ctx context.Context, age time.Duration) ([]uuid.UUID, error)
}

// Queues makes and removes tenants' queues; Topology does.
type Queues interface {
	Declare(ctx context.Context, tenant uuid.UUID) error
	// Bind binds a queue that was declared once it can be trusted, and returns then.
	Bind(ctx context.Context, tenant uuid.UUID) error
	Delete(ctx context.Context, tenant uuid.UUID) error
}

// Provisioner provisions tenants, a limited number of them at a time. It is safe for concurrent use.
type Provisioner struct {
	partitions Partitions
	queues     Queues
	slots      chan struct{} // held while a partition is made, or a tenant removed
	declares   chan struct{} // held while a queue is made
}

// declaresPerSlot is how many queues are made while one partition is. To make a queue is half a dozen requests, each of
// which waits for its answer and costs next to nothing meanwhile; the database is busy with a partition.
const declaresPerSlot = 4

// New returns a provisioner that creates at most concurrency partitions at a time.
func New(partitions Partitions, queues Queues, concurrency int) *Provisioner {
	return &Provisioner{
		partitions: partitions, queues: queues,
		slots:    make(chan struct{}, concurrency),
		declares: make(chan struct{}, declaresPerSlot*concurrency),
	}
}

// Provision makes the partition, then the queue, while other tenants are at the other of the two, and then its bindings. done is
// told of each step.
func (p *Provisioner) Provision(ctx context.Context, tenant uuid.UUID, done func(step.Step)) error {
	err := holding(ctx, p.slots, func() error { return p.partitions.Attach(ctx, tenant) })
	if err != nil {
		return err
	}
	done(step.Attached)
	err = holding(ctx, p.declares, func() error { return p.queues.Declare(ctx, tenant) })
	if err != nil {
		return err
	}
	done(step.Declared)
	if err := p.queues.Bind(ctx, tenant); err != nil {
		return err
	}
	done(step.Bound)
	return nil
}

// Remove removes the queue and the partition. The queue is deleted once more at the end: another instance, which does not know
// of the deletion yet, may have made it again until the id was retired.
func (p *Provisioner) Remove(ctx context.Context, tenant uuid.UUID, done func(step.Step)) error {
	return holding(ctx, p.slots, func() error {
		if err := p.queues.Delete(ctx, tenant); err != nil {
			return err
		}
		done(step.QueueDeleted)
		if err := p.partitions.Drop(ctx, tenant); err != nil {
			return err
		}
		done(step.PartitionDropped)
		if err := p.queues.Delete(ctx, tenant); err != nil {
			return err
		}
		done(step.QueueGone)
		return nil
	})
}

// holding calls do while it holds one of slots.
func holding(ctx context.Context, slots chan struct{}, do func() error) error {
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
		return do()
	case <-ctx.Done():
		return ctx.Err()
	}
}
