package members_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/libs/rendezvous"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/members"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shares are those of all instances.
func shares(tenant uuid.UUID, workers int, instances []string) map[string]int {
	all := make(map[string]int, len(instances))
	for _, instance := range instances {
		all[instance] = members.Share(tenant, workers, instance, instances)
	}
	return all
}

// An operator pays for, and a database stands, the number of workers that was configured: not more, and not fewer, however many
// instances there are. And when one comes or goes, nobody else's consumers are disturbed.
func TestSharesAgainstModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		tenant := uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(rt, "tenant"))
		workers := rapid.IntRange(1, 64).Draw(rt, "workers")
		instances := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]{1,3}-[0-9]`), 1, 12, rapid.ID).Draw(rt, "instances")
		before := shares(tenant, workers, instances)

		require.Equal(rt, 1, members.Share(tenant, 1, rendezvous.Owner(tenant, instances), instances), "a single worker is where the bucket of the tenant is")

		sum, least, most := 0, workers, 0
		for _, share := range before {
			sum, least, most = sum+share, min(least, share), max(most, share)
		}
		require.Equal(rt, workers, sum, "the total")
		require.LessOrEqual(rt, most-least, 1, "as even as possible")
		require.Equal(rt, before, shares(tenant, workers, slices.Sorted(slices.Values(instances))), "in whatever order they are known")
		require.Zero(rt, members.Share(tenant, workers, "somebody else", instances))

		joined := shares(tenant, workers, append(slices.Clone(instances), "the new one"))
		for _, instance := range instances {
			require.LessOrEqual(rt, joined[instance], before[instance], "%s grows though another one has come", instance)
		}
		moved := 0
		for _, instance := range instances {
			moved += before[instance] - joined[instance]
		}
		require.Equal(rt, joined["the new one"], moved, "what moves is what the new one gets")

		gone := instances[rapid.IntRange(0, len(instances)-1).Draw(rt, "gone")]
		left := slices.DeleteFunc(slices.Clone(instances), func(instance string) bool { return instance == gone })
		for instance, share := range shares(tenant, workers, left) {
			require.GreaterOrEqual(rt, share, before[instance], "%s shrinks though another one has gone", instance)
		}

		more := shares(tenant, workers+1, instances)
		grown := 0
		for _, instance := range instances {
			require.GreaterOrEqual(rt, more[instance], before[instance], "%s shrinks though there are more workers", instance)
			grown += more[instance] - before[instance]
		}
		require.Equal(rt, 1, grown)
	})
}

// The tenants of one worker are spread: no instance has all of them, whatever it is called.
func TestSharesDifferByTenant(t *testing.T) {
	t.Parallel()
	const tenants = 3000
	instances := []string{"ingest-1", "ingest-2", "ingest-3"}
	of := make(map[string]int)
	for i := range tenants {
		for instance, share := range shares(uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, i)), 1, instances) {
			of[instance] += share
		}
	}
	for _, instance := range instances {
		require.InDelta(t, tenants/len(instances), of[instance], float64(tenants)/15, instance)
	}
}

// Instances of two versions divide the work between them: the rank is a contract.
func TestSharesStay(t *testing.T) {
	t.Parallel()
	instances := []string{"ingest-1", "ingest-2", "ingest-3"}
	require.Equal(t, map[string]int{"ingest-1": 2, "ingest-2": 2, "ingest-3": 1}, shares(uuid.MustParse("6f1c2b1e-5a59-4a1b-9f5e-2f4f0e3f7a11"), 5, instances))
}
