package tenants

import (
	"sync/atomic"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// disagreement is how control channel and registry disagree on a tenant. The registry counts.
type disagreement string

// The disagreements.
const (
	channelMissing disagreement = "missing" // the channel has not told of a tenant
	channelBehind  disagreement = "behind"  // it has told of an older generation
	channelForeign disagreement = "foreign" // it has told of what the registry has never said
	channelRetired disagreement = "retired" // it has told of a tenant that is deleted, or not of its deletion
)

func disagreements() []disagreement {
	return []disagreement{channelMissing, channelBehind, channelForeign, channelRetired}
}

// corrections counts the tenants of which the registry was right.
type corrections struct {
	log    *zap.Logger
	counts map[disagreement]*atomic.Int64 // never changed
}

func newCorrections(log *zap.Logger) *corrections {
	c := &corrections{log: log, counts: make(map[disagreement]*atomic.Int64)}
	for _, how := range disagreements() {
		c.counts[how] = new(atomic.Int64)
	}
	return c
}

// note counts one; spec is what counts from now on.
func (c *corrections) note(id uuid.UUID, how disagreement, spec contract.TenantSpec) {
	c.counts[how].Add(1)
	c.log.Warn("the control channel disagrees with the registry; the registry prevails", zap.Stringer("tenant_id", id),
		zap.String("how", string(how)), zap.String("state", string(spec.State)), zap.Int64("generation", spec.Generation))
}
