package tenants

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/consumer"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/status"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

// state is what is known of a tenant. It is a value: each of its methods that changes something returns the next one, waits for
// nothing and tells nobody. Its owner is the tenant, which acts on it.
type state struct {
	// What is wanted.
	spec       contract.TenantSpec
	registered bool // spec is what the registry says, not just the control channel
	vanished   bool // the control channel no longer names the tenant

	// What is there.
	provisioned bool // queue and partition
	unverified  bool // though provisioned, that is to be made sure of

	// What is consumed.
	share      int   // the workers of this instance that were applied last
	consuming  bool  // there is a consumer, and what it says counts
	standby    bool  // all workers belong to other instances, as is desired
	configured int64 // the generation for which the consumer, or the standby, was configured
	isolated   error // what the consumer says of deliveries that break the connection
	full       bool  // as much is stored as may be

	// What is reported.
	observed observation
	depth    status.Depth
}

// observation is the outcome of acting on a generation.
type observation struct {
	state      contract.ConsumerState
	generation int64
	fault      error // what is in the way
}

// equals reports whether both say the same.
func (o observation) equals(other observation) bool {
	return o.state == other.state && o.generation == other.generation && fmt.Sprint(o.fault) == fmt.Sprint(other.fault)
}

// newState is that of a tenant for which nothing was done yet.
func newState(spec contract.TenantSpec, registered bool) state {
	return state{
		spec: spec, registered: registered,
		observed: observation{state: contract.StateProvisioning}, depth: status.Depth{Ready: -1},
	}
}

var (
	errOutdated     = errors.New("an older generation arrived late and is ignored")
	errContradicted = errors.New("the control channel says something else than the registry and is ignored")
)

// want is s with another desired state. It fails if that is older than what is known, an update that was overtaken on its way,
// or contradicts the registry.
func (s state) want(spec contract.TenantSpec) (state, error) {
	switch {
	case spec.Generation < s.spec.Generation:
		return s, errOutdated
	case spec.Generation == s.spec.Generation && s.registered && spec != s.spec:
		return s, errContradicted
	}
	s.registered = s.registered && spec == s.spec
	s.spec, s.vanished = spec, false
	return s, nil
}

// vanish is s once the control channel no longer names the tenant.
func (s state) vanish() state {
	s.vanished = true
	return s
}

// correct is s with what the registry says as the desired state, and what was wrong, "" if nothing was. before is what was wanted
// before the registry was asked.
//
// What the control channel says was in the registry first. So what was wanted before and is newer than the registry cannot have
// come from there: somebody else has written it, or it is the other way round with what the registry says, which was restored
// from a backup. Either way the registry counts. The generation stays, since it only goes up: tenant-service lifts that of the
// registry above what was observed.
func (s state) correct(r store.Registration, before contract.TenantSpec) (next state, how disagreement) {
	spec, how := r.Spec, channelForeign
	switch {
	case r.Retired:
		how = channelRetired
		spec.Generation = max(spec.Generation, s.spec.Generation)
		s.vanished = true // nobody waits for the report of a teardown that is over for everybody else
		if s.spec.State == contract.DesiredDeleting {
			s.registered = true
			return s, ""
		}
	case spec.Generation > s.spec.Generation:
		how = channelBehind
	case spec.Generation < s.spec.Generation && s.spec != before:
		return s, "" // it has changed since the registry was asked
	default:
		spec.Generation = s.spec.Generation
	}
	s.registered = true
	if spec == s.spec {
		return s, ""
	}
	s.spec = spec
	return s, how
}

// deletionUnconfirmed reports whether the control channel alone says that the tenant is to be deleted.
func (s state) deletionUnconfirmed() bool {
	return s.spec.State == contract.DesiredDeleting && !s.registered &&
		s.observed.state != contract.StateDeleting && s.observed.state != contract.StateDeleted
}

// isOver reports whether the teardown is done and nobody waits for the report of it any more.
func (s state) isOver() bool { return s.observed.state == contract.StateDeleted && s.vanished }

// markMissing is s when the queue or the partition is known not to be there.
func (s state) markMissing() state {
	s.provisioned = false
	return s
}

// markProvisioned is s when queue and partition are assumed to be there.
func (s state) markProvisioned() state {
	s.provisioned = true
	return s
}

// markVerified is s once partition, queue and bindings were made sure of.
func (s state) markVerified() state {
	s.provisioned, s.unverified = true, false
	return s
}

// markUnverified is s when partition, queue and bindings are to be made sure of, while they are used.
func (s state) markUnverified() state {
	s.unverified = true
	return s
}

// withShare is s with a share of the workers that is being applied.
func (s state) withShare(share int) state {
	s.share = share
	return s
}

func (s state) needsShare(share int) bool {
	return s.spec.State == contract.DesiredActive && (share != s.share || !s.consuming && !s.standby)
}

// withConsumer is s with a consumer that is configured for a generation.
func (s state) withConsumer(generation int64) state {
	s.consuming, s.configured = true, generation
	return s
}

func (s state) withoutConsumer() state {
	s.consuming, s.configured, s.isolated = false, 0, nil
	return s
}

// withStandby is s when all workers belong to other instances, as a generation desires.
func (s state) withStandby(generation int64) state {
	s.standby, s.configured = true, generation
	return s
}

func (s state) withoutStandby() state {
	s.standby = false
	return s
}

func (s state) hasStorageLimit() bool {
	return s.spec.Limits.StoredMaxBytes > 0 && s.spec.State != contract.DesiredDeleting
}

func (s state) withFull(full bool) state {
	s.full = full
	return s
}

// withIsolation is s after the consumer has said what keeps it from consuming. That its deliveries break the connection stays true
// between two probes, whatever becomes of each.
func (s state) withIsolation(fault error) state {
	if fault == nil || errors.Is(fault, consumer.ErrIsolated) {
		s.isolated = fault
	}
	return s
}

// observeConsumer is s with what the consumer says of itself, or that none is needed here, as what is observed, and whether there
// is anything to say. It speaks of the generation that the consumer was configured for, which may not be the newest one that is
// wanted, and says nothing once the consumer has been stopped. delivering says that the broker delivers to it.
//
// That as much is stored as may be is said whether or not something waits, since producers are refused.
func (s state) observeConsumer(fault error, delivering bool) (next state, report bool) {
	if errors.Is(fault, consumer.ErrStorageFull) {
		fault, delivering = nil, false // whether it is full, or that is not known, is known here
	}
	switch {
	case !s.consuming && !s.standby:
		return s, false
	case s.isolated != nil:
		s.observed = observation{contract.StateFailed, s.configured, s.isolated}
	case fault == nil && s.full:
		s.observed = observation{contract.StateStorageFull, s.configured, consumer.ErrStorageFull}
	case fault == nil && s.consuming && delivering:
		s.standby = false
		s.observed = observation{contract.StateRunning, s.configured, nil}
	case fault == nil && !s.consuming:
		s.observed = observation{contract.StateRunning, s.configured, nil}
	case fault != nil && !errors.Is(fault, context.Canceled):
		s.observed = observation{contract.StatePaused, s.configured, fault}
	default:
		return s, false
	}
	return s, true
}

func (s state) observe(o observation) state {
	s.observed = o
	return s
}

func (s state) isDepthDue(now time.Time, activity status.Activity) bool {
	return s.provisioned && s.depth.IsDue(now, activity)
}

// observeDepth is s after a look at the queue. lost says that the queue is gone: a running consumer would notice; a suspended
// tenant has none.
func (s state) observeDepth(now time.Time, ready int64, activity status.Activity) (next state, report, lost bool) {
	s.depth, report = s.depth.Observe(now, ready, activity)
	if ready == provision.Missing && s.provisioned {
		return s.markMissing(), report, true
	}
	return s, report, false
}

// markReported is s once it was reported with so many messages that are being worked on.
func (s state) markReported(unacked int64) state {
	s.depth.Unacked = unacked
	return s
}

// status is what there is to say of the tenant. workers are those of its consumer.
func (s state) status(id uuid.UUID, now time.Time, workers int) contract.TenantStatus {
	report := contract.TenantStatus{
		TenantID:           id.String(),
		ObservedGeneration: s.observed.generation, State: s.observed.state,
		QueueReady: s.depth.Ready, QueueUnacked: s.depth.Unacked,
		ObservedAt: now,
	}
	if s.observed.state == contract.StateRunning && !s.standby {
		report.Workers = workers
	}
	if s.observed.fault != nil {
		report.Error = s.observed.fault.Error()
	}
	return report
}
