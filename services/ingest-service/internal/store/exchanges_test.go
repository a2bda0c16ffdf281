package store_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

// Whoever wants an exchange is found, page by page, and nobody else: not who has none, nor who is being deleted, nor, in the look that is
// repeated every second, who has wanted one for long.
func TestExchangesWanted(t *testing.T) {
	f := newFixture(t)
	const each = store.RegistryPage + 3
	_, err := f.operator.Exec(t.Context(), `
		INSERT INTO tenants (id, name, workers, state, exchange_since)
		SELECT gen_random_uuid(), since || state, 1, state, CASE since WHEN 'none' THEN NULL WHEN 'long' THEN now() - interval '1 hour' ELSE now() END
		FROM generate_series(1, $1), unnest(ARRAY['none', 'long', 'now']) AS since, unnest(ARRAY['active', 'suspended', 'deleting', 'deleted']) AS state`, each)
	require.NoError(t, err)
	for within, want := range map[time.Duration]int{0: 4 * each, time.Minute: 2 * each} {
		var wanted []uuid.UUID
		for behind := uuid.Nil; ; behind = wanted[len(wanted)-1] {
			page, err := f.store.ExchangesWanted(t.Context(), behind, within)
			require.NoError(t, err)
			wanted = append(wanted, page...)
			if len(page) < store.RegistryPage {
				break
			}
		}
		require.Len(t, wanted, want)
		require.True(t, slices.IsSortedFunc(wanted, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) }))
		require.Equal(t, want, f.count(t, `SELECT count(*) FROM tenants WHERE id = ANY ($1) AND state IN ('active', 'suspended')
			AND exchange_since > now() - CASE WHEN $2 THEN interval '2 hours' ELSE interval '1 minute' END`, wanted, within == 0))
	}
}
