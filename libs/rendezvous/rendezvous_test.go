package rendezvous_test

import (
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/libs/rendezvous"
)

// Two instances that both take a tenant for theirs would let through twice its limits. Whoever comes or goes, the others keep what
// they own.
func TestOwnerAgainstModel(t *testing.T) {
	t.Parallel()
	require.Empty(t, rendezvous.Owner(uuid.New(), nil))
	rapid.Check(t, func(rt *rapid.T) {
		tenant := uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(rt, "tenant"))
		instances := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]{1,3}-[0-9]`), 1, 12, rapid.ID).Draw(rt, "instances")
		owner := rendezvous.Owner(tenant, instances)
		for _, other := range instances {
			require.Equal(rt, other != owner, rendezvous.Above(tenant, owner, other), "the owner ranks above all others")
		}
		require.Equal(rt, owner, rendezvous.Owner(tenant, slices.Sorted(slices.Values(instances))), "in whatever order they are known")
		require.Contains(rt, []string{owner, "the new one"}, rendezvous.Owner(tenant, append(slices.Clone(instances), "the new one")))
		gone := rapid.SampledFrom(instances).Draw(rt, "gone")
		left := slices.DeleteFunc(slices.Clone(instances), func(instance string) bool { return instance == gone })
		if gone != owner {
			require.Equal(rt, owner, rendezvous.Owner(tenant, left))
		}
	})
}

// Instances of two versions run side by side, and have to agree.
func TestOwnerStays(t *testing.T) {
	t.Parallel()
	tenant := uuid.MustParse("6f1c2b1e-5a59-4a1b-9f5e-2f4f0e3f7a11")
	require.Equal(t, "ingest-2", rendezvous.Owner(tenant, []string{"ingest-1", "ingest-2", "ingest-3"}))
}
