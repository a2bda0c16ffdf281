// Package step names the steps on the way of a tenant to its desired state. A process that dies between two of them leaves what
// the first one has made, and the next process begins anew: tests make it die at each.
package step

import "github.com/google/uuid"

// Step is one step on that way, named by what is true once it is done.
type Step string

// The steps.
const (
	// Begun: the desired state was received, and nothing was done for it yet.
	Begun Step = "begun"
	// Attached: the partition is there.
	Attached Step = "partition attached"
	// Declared: the queue is there.
	Declared Step = "queue declared"
	// Bound: the queue can be trusted, and is bound.
	Bound Step = "queue bound"
	// ConsumerStarted: the consumer has been started.
	ConsumerStarted Step = "consumer started"
	// ConsumerConfigured: the running consumer has its new number of workers.
	ConsumerConfigured Step = "consumer configured"
	// ConsumerStopped: the consumer has finished what was in flight.
	ConsumerStopped Step = "consumer stopped"
	// QueueDeleted: the queue is gone, with what waited in it.
	QueueDeleted Step = "queue deleted"
	// PartitionDropped: the partition and the dead letters are gone, and the id is retired.
	PartitionDropped Step = "partition dropped"
	// QueueGone: the queue is gone for good, since no instance provisions a retired tenant.
	QueueGone Step = "queue gone for good"
	// Forgotten: metric series and whatever else others kept are gone.
	Forgotten Step = "forgotten"
	// Reported: the control channel says that the desired state is reached.
	Reported Step = "reported"
	// Released: the control channel does not name the tenant any more, and this instance has let go of it.
	Released Step = "released"
)

// All are all steps, in an order in which they may come.
func All() []Step {
	return []Step{
		Begun, Attached, Declared, Bound, ConsumerStarted, ConsumerConfigured, ConsumerStopped,
		QueueDeleted, PartitionDropped, QueueGone, Forgotten, Reported, Released,
	}
}

// Hook is told of every step once it is done, by the goroutine that has done it: the tenant's own, or one of the reporter's, of
// which several may call it at a time. A step may be done several times for one generation.
type Hook func(tenant uuid.UUID, generation int64, step Step)

// Done tells the hook, which may be nil: outside of tests there is none.
func (h Hook) Done(tenant uuid.UUID, generation int64, step Step) {
	if h != nil {
		h(tenant, generation, step)
	}
}
