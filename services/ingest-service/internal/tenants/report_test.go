package tenants_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// Tenants with nothing to do cost next to nothing, and yet what the control channel has lost is put back.
func TestReportsOfIdleTenants(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const tenants = 240
		first := make([]contract.TenantSpec, tenants)
		for i := range first {
			first[i] = contract.TenantSpec{TenantID: uuid.NewString(), State: contract.DesiredActive, Workers: 1, Generation: 1}
		}
		p := newPlant()
		in := &instanceUnderTest{plant: p}
		in.start(first)
		defer in.stop()
		running := func() (n int) {
			p.mu.Lock()
			defer p.mu.Unlock()
			for _, status := range p.statuses {
				if status.State == contract.StateRunning {
					n++
				}
			}
			return n
		}
		<-time.After(convergence)
		synctest.Wait()
		require.Equal(t, tenants, running())

		p.mu.Lock()
		p.puts = 0
		p.mu.Unlock()
		<-time.After(contract.StatusRefresh)
		synctest.Wait()
		p.mu.Lock()
		require.InDelta(t, tenants, p.puts, 2, "each once")
		clear(p.statuses) // as a control channel does that was wiped
		p.beat = 1000
		p.mu.Unlock()

		<-time.After(convergence)
		synctest.Wait()
		require.Equal(t, tenants, running())
	})
}
