package status

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
)

// NATS is away: nothing tells this service that an instance has died, and yet it must not stay "running".
func TestReportsExpireByThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		directory := NewDirectory(nil, zap.NewNop())
		id := uuid.New()
		report := func(instance string, state contract.ConsumerState) {
			directory.observe(control.Entry[contract.TenantStatus]{
				Key:   contract.StatusKey(id.String(), instance),
				Value: contract.TenantStatus{TenantID: id.String(), Instance: instance, State: state, ObservedGeneration: 4},
			})
		}
		report("dead", contract.StateRunning)
		report("alive", contract.StateDeleted)
		changed, cancel := directory.Subscribe(id)
		defer cancel()

		<-time.After(contract.StatusTTL / 2)
		report("alive", contract.StateDeleted)
		<-changed
		directory.dropExpired(time.Now())
		require.Len(t, directory.Of(id), 2)
		require.Empty(t, directory.takeTorn())

		<-time.After(contract.StatusTTL/2 + time.Second)
		require.Len(t, directory.Of(id), 1, "expired, though nobody has swept yet")
		directory.dropExpired(time.Now())
		<-changed
		require.Contains(t, directory.takeTorn(), id, "the others are all done now")

		<-time.After(contract.StatusTTL)
		directory.dropExpired(time.Now())
		require.Empty(t, directory.Of(id))
		require.Empty(t, directory.reports, "nothing is kept of a tenant without reports")
	})
}
