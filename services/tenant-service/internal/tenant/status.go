package tenant

import (
	"slices"
	"strings"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// StateUnknown is the observed state of a tenant that no living instance reports on.
const StateUnknown = "unknown"

// Status is what became of a tenant, summed up over the instances that report on it.
type Status struct {
	// State is the state of the instance that is furthest from what is desired, or [StateUnknown]. A tenant that every instance
	// takes for running runs once one of them has a worker: the others stand by.
	State string
	// Workers is the number of workers of all instances, among which they are divided.
	Workers int
	// QueueReady is how many messages wait in the tenant's queue, -1 if nobody knows it yet. All instances look at the same
	// queue, so it is the largest of their numbers and not the sum.
	QueueReady int64
	// QueueUnacked is how many messages the instances are working on together, -1 if nobody knows it yet.
	QueueUnacked int64
	// ObservedGeneration is the lowest generation that an instance has acted on, 0 if there is none.
	ObservedGeneration int64
	// Error is the error of the instance that State comes from.
	Error string
	// QueueLimits is what the tenant's queue is held to while that is not what its limits say; nil else. It comes from the instance that
	// has reported last of those that look.
	QueueLimits *contract.QueueLimits
	// Instances are all of them, in the order of their names.
	Instances []contract.TenantStatus
}

// Summarize sums up what instances report on a tenant in the given state.
func Summarize(desired State, reports []contract.TenantStatus) Status {
	sum := Status{State: StateUnknown, QueueReady: -1, QueueUnacked: -1}
	if len(reports) == 0 {
		if desired == Deleted {
			sum.State = string(contract.StateDeleted) // nobody reports on what is gone
		}
		return sum
	}
	sum.Instances = slices.SortedFunc(slices.Values(reports), func(a, b contract.TenantStatus) int {
		return strings.Compare(a.Instance, b.Instance)
	})
	sum.ObservedGeneration = reports[0].ObservedGeneration
	worst := -1
	var looked time.Time
	for _, report := range sum.Instances {
		if report.QueueLimits != nil && !report.ObservedAt.Before(looked) {
			looked, sum.QueueLimits = report.ObservedAt, report.QueueLimits
		}
		sum.Workers += report.Workers
		sum.QueueReady = max(sum.QueueReady, report.QueueReady)
		if report.QueueUnacked >= 0 {
			sum.QueueUnacked = max(sum.QueueUnacked, 0) + report.QueueUnacked
		}
		sum.ObservedGeneration = min(sum.ObservedGeneration, report.ObservedGeneration)
		if d := distance(desired, report.State); d > worst {
			worst, sum.State, sum.Error = d, string(report.State), report.Error
		}
	}
	if sum.State == string(contract.StateRunning) && sum.Workers == 0 {
		sum.State = string(contract.StateProvisioning) // the instance that is to consume has not begun yet
	}
	return sum
}

// goal is the observed state in which a desired state has been reached.
func goal(desired State) contract.ConsumerState {
	switch desired {
	case Active:
		return contract.StateRunning
	case Suspended:
		return contract.StateSuspended
	case Deleting, Deleted:
		return contract.StateDeleted
	}
	return ""
}

// distance orders observed states by how much an operator has to know of them: what has gone wrong
// before what is under way before what has been reached.
func distance(desired State, observed contract.ConsumerState) int {
	if observed == goal(desired) {
		return 0
	}
	order := []contract.ConsumerState{
		contract.StateDeleted, contract.StateRunning, contract.StateSuspended, contract.StateProvisioning,
		contract.StateDeleting, contract.StateStorageFull, contract.StatePaused, contract.StateFailed,
	}
	return 1 + slices.Index(order, observed) // a state of a newer version ranks like the goal
}

// Reached reports whether the instances have brought about what t wants. An active tenant whose storage is full is as it is to be: it
// is up to the tenant to make room, or to its limits, and no instance has anything left to do.
func (s Status) Reached(t Tenant) bool {
	reached := s.State == string(goal(t.State)) || t.State == Active && s.State == string(contract.StateStorageFull)
	return reached && s.ObservedGeneration >= t.Generation
}
