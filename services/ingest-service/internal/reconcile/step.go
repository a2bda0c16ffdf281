package reconcile

import (
	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// Step is one step on the way of a tenant to its desired state. A process that dies between two of them leaves what the
// first one has made, and the next process begins anew.
type Step string

// The steps, each named by what is true once it is done.
const (
	// StepBegun: the desired state was taken in, and nothing was done for it yet.
	StepBegun Step = "begun"
	// StepAttached: the partition is there.
	StepAttached Step = "partition attached"
	// StepDeclared: the queue is there.
	StepDeclared Step = "queue declared"
	// StepBound: the queue can be trusted, and is bound.
	StepBound Step = "queue bound"
	// StepConsumerStarted: the consumer has been started.
	StepConsumerStarted Step = "consumer started"
	// StepConsumerConfigured: the running consumer has its new number of workers.
	StepConsumerConfigured Step = "consumer configured"
	// StepConsumerStopped: the consumer has finished what was in flight.
	StepConsumerStopped Step = "consumer stopped"
	// StepQueueDeleted: the queue is gone, with what waited in it.
	StepQueueDeleted Step = "queue deleted"
	// StepPartitionDropped: the partition and the dead letters are gone, and the id is retired.
	StepPartitionDropped Step = "partition dropped"
	// StepQueueGone: the queue is gone for good, since no instance provisions a retired tenant.
	StepQueueGone Step = "queue gone for good"
	// StepForgotten: metric series and whatever else others kept are gone.
	StepForgotten Step = "forgotten"
	// StepReported: the control channel says that the desired state is reached.
	StepReported Step = "reported"
	// StepReleased: the control channel does not name the tenant any more, and this instance has let go of it.
	StepReleased Step = "released"
)

// Steps are all steps, in an order in which they may come.
func Steps() []Step {
	return []Step{
		StepBegun, StepAttached, StepDeclared, StepBound, StepConsumerStarted, StepConsumerConfigured, StepConsumerStopped,
		StepQueueDeleted, StepPartitionDropped, StepQueueGone, StepForgotten, StepReported, StepReleased,
	}
}

// Hook is told of every step once it is done, by the goroutine that has done it: the tenant's own, or one of the reporter's, of
// which several may call it at a time. A step may be done several times for one generation. It is where tests make a process die.
type Hook func(tenant uuid.UUID, generation int64, step Step)

// step tells the hook, if there is one.
func (c *Controller) step(tenant uuid.UUID, generation int64, step Step) {
	if c.deps.Step != nil {
		c.deps.Step(tenant, generation, step)
	}
}

// isGoal reports whether state is one in which a desired state has been reached.
func isGoal(state contract.ConsumerState) bool {
	return state == contract.StateRunning || state == contract.StateSuspended || state == contract.StateDeleted
}
