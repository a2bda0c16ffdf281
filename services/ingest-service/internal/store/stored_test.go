package store_test

import (
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// The limit of a tenant is held by what is counted of it and what was removed since, of all tenants that are asked for together, also of
// those of which nothing is counted. It writes nothing, so it holds back no reader.
func TestStoredBytes(t *testing.T) {
	f := newFixture(t)
	var tenants []uuid.UUID
	want := make(map[uuid.UUID]string)
	for i := range 3 {
		tenant := f.attached(t)
		tenants = append(tenants, tenant)
		batch := messages(10 * i)
		size := 0
		for _, m := range batch {
			size += len(m.Payload)
		}
		if i > 0 {
			_, err := f.store.Insert(t.Context(), tenant, batch)
			require.NoError(t, err)
			rollUp(t, f.store, tenant)
			_, err = f.operator.Exec(t.Context(), `SELECT usage_removed($1, 1, $2)`, tenant, i)
			require.NoError(t, err)
		}
		want[tenant] = fmt.Sprint(size, " less ", i*min(i, 1))
	}
	for range 1100 { // more than are asked for in one statement
		tenant := uuid.New()
		tenants = append(tenants, tenant)
		want[tenant] = "0 less 0"
	}
	got := make(map[uuid.UUID]string)
	require.NoError(t, f.store.StoredBytes(t.Context(), tenants, func(tenant uuid.UUID, counted, removed int64) {
		got[tenant] = fmt.Sprint(counted, " less ", removed)
	}))
	require.Equal(t, want, got)
	// In a transaction of the test, which sees whether it has an id after that.
	connection, err := f.operator.Acquire(t.Context())
	require.NoError(t, err)
	defer connection.Release()
	tx, err := connection.Begin(t.Context())
	require.NoError(t, err)
	var id *string
	_, err = tx.Exec(t.Context(), `SET LOCAL ROLE mtm_ingest`)
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT FROM stored_bytes($1)`, tenants)
	require.NoError(t, err)
	require.NoError(t, tx.QueryRow(t.Context(), `SELECT pg_current_xact_id_if_assigned()::text`).Scan(&id))
	require.Nil(t, id)
	require.NoError(t, tx.Rollback(t.Context()))
}
