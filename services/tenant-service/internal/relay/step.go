package relay

import "github.com/google/uuid"

// Step is one step of a change on its way from the registry to the instances, and back. A process that dies between two of
// them leaves what the first one has made; another replica, or the next process, continues from there.
type Step string

// The steps, each named by what is true once it is done.
const (
	// StepCommitted: the change is in the registry. The store does that, and tells.
	StepCommitted Step = "committed"
	// StepRead: it is known what the bucket has, and so what is to be written.
	StepRead Step = "bucket read"
	// StepPublished: the bucket has the change.
	StepPublished Step = "published"
	// StepMarked: the registry knows that.
	StepMarked Step = "marked as published"
	// StepReported: the instances report that nothing of the tenant is left, and nothing was done about it yet.
	StepReported Step = "teardown reported"
	// StepRetired: the tenant is deleted in the registry. The store does that, and tells.
	StepRetired Step = "retired"
	// StepWithdrawn: the tenant is gone from the bucket.
	StepWithdrawn Step = "withdrawn"
)

// Steps are all steps, in their order.
func Steps() []Step {
	return []Step{StepCommitted, StepRead, StepPublished, StepMarked, StepReported, StepRetired, StepWithdrawn}
}

// Hook is told of every step of a tenant once it is done, by the goroutine that has done it. It is where tests make a process
// die, or have somebody else go first.
type Hook func(id uuid.UUID, step Step)

// done tells the hook, if there is one.
func (h Hook) done(id uuid.UUID, step Step) {
	if h != nil {
		h(id, step)
	}
}

func (r *Relay) step(id uuid.UUID, step Step) { r.options.Step.done(id, step) }
