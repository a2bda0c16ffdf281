package schema_test

import (
	"context"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/libs/schema"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// beforeRetention is the version before retention.
const beforeRetention = 11

// act has connection act as ingest-service for one tenant.
func act(t *testing.T, connection *pgx.Conn, tenant uuid.UUID) {
	t.Helper()
	exec(t, connection, `SET ROLE mtm_ingest`)
	exec(t, connection, `SELECT set_config('app.tenant_id', $1, false)`, tenant.String())
}

// count counts the usage of the tenant that connection acts for, until that are so many messages: only what no transaction of the whole
// server may still precede is counted, and other tests have some.
func count(t *testing.T, connection *pgx.Conn, tenant uuid.UUID, messages int64) {
	t.Helper()
	var counted int64
	require.Eventually(t, func() bool {
		counted += column[int64](t, connection, `SELECT counted FROM usage_roll_up($1, 10000)`, tenant)[0]
		return counted == messages
	}, time.Minute, 5*time.Millisecond)
}

// fill stores messages of 10 bytes each, one a minute, of which the last one is from now, in one transaction.
func fill(t *testing.T, operator *pgx.Conn, tenant uuid.UUID, messages int) {
	t.Helper()
	exec(t, operator, `INSERT INTO messages (tenant_id, id, payload, bytes, created_at, ord)
		SELECT $1, gen_random_uuid(), '1', 10, now() - make_interval(mins => $2 - i), i FROM generate_series(1, $2::int) AS i`, tenant, messages)
}

// requireUsageAgrees demands that what came in less what was removed is what is stored.
func requireUsageAgrees(t *testing.T, operator *pgx.Conn, tenant uuid.UUID) {
	t.Helper()
	stored := column[string](t, operator, `SELECT count(*) || ' ' || coalesce(sum(coalesce(bytes, octet_length(payload::text))), 0) FROM messages WHERE tenant_id = $1`, tenant)
	require.Equal(t, stored, column[string](t, operator,
		`SELECT messages - removed_messages || ' ' || bytes - removed_bytes FROM usage_positions WHERE tenant_id = $1`, tenant))
	require.Equal(t, stored, column[string](t, operator,
		`SELECT sum(messages - removed_messages) || ' ' || sum(bytes - removed_bytes) FROM usage_hours WHERE tenant_id = $1`, tenant))
}

// Who may do what: ingest-service removes through functions alone, of the tenant that it acts for; query-service reads where the
// messages of its tenant begin.
func TestRightsOnRetention(t *testing.T) {
	connection := connect(t, backing.Postgres(t))
	require.Equal(t, []string{"mtm_ingest: SELECT", "mtm_query: SELECT"}, column[string](t, connection, `
		SELECT granted.grantee::regrole || ': ' || string_agg(granted.privilege_type, ', ')
		FROM pg_class c, aclexplode(c.relacl) AS granted
		WHERE c.oid = 'retention_positions'::regclass AND granted.grantee <> c.relowner GROUP BY granted.grantee ORDER BY 1`))
	require.Equal(t, []string{
		"erase_message: mtm_ingest", "retain: mtm_ingest", "retain_dead_letters: mtm_ingest",
	}, column[string](t, connection, `
		SELECT p.proname || ': ' || coalesce(granted.grantee::regrole::text, 'nobody') FROM pg_proc p, aclexplode(p.proacl) AS granted
		WHERE p.proname ~ '^(retain|retention_|erase_)' AND granted.grantee <> p.proowner ORDER BY 1`))
	mine, theirs := uuid.New(), uuid.New()
	exec(t, connection, `SELECT tenant_attach($1), tenant_attach($2)`, mine, theirs)
	exec(t, connection, `INSERT INTO retention_positions VALUES ($1, 1, '9', 1), ($2, 1, '9', 1)`, mine, theirs)
	for _, role := range []string{postgres.RoleIngest, postgres.RoleQuery} {
		exec(t, connection, `SET ROLE `+role)
		exec(t, connection, `SELECT set_config('app.tenant_id', $1, false)`, mine.String())
		require.Equal(t, []uuid.UUID{mine}, column[uuid.UUID](t, connection, `SELECT tenant_id FROM retention_positions`))
		for _, write := range []string{`DELETE FROM retention_positions`, `UPDATE retention_positions SET xid = '1'`, `TRUNCATE retention_positions`} {
			_, err := connection.Exec(t.Context(), write)
			require.ErrorContains(t, err, "permission denied", "%s: %s", role, write)
		}
		exec(t, connection, `RESET ROLE`)
	}
	removals := []string{`SELECT retain($1, 1, 1)`, `SELECT retain_dead_letters($1, 1)`, `SELECT erase_message($1, gen_random_uuid())`}
	exec(t, connection, `SET ROLE mtm_ingest`)
	for _, removal := range removals {
		exec(t, connection, removal, mine)
		_, err := connection.Exec(t.Context(), removal, theirs)
		require.ErrorContains(t, err, "is not one of tenant "+theirs.String(), removal)
	}
	_, err := connection.Exec(t.Context(), `SELECT retention_limit($1, 'retention_seconds', 1)`, mine)
	require.ErrorContains(t, err, "permission denied")
	for _, role := range []string{postgres.RoleQuery, postgres.RoleTenant} {
		exec(t, connection, `SET ROLE `+role)
		for _, removal := range removals {
			_, err := connection.Exec(t.Context(), removal, mine)
			require.ErrorContains(t, err, "permission denied", "%s: %s", role, removal)
		}
	}
}

// The owner of the schema need not be a superuser, and is then held to row-level security as well.
func TestRetentionUnderAnOwnerWhoIsNoSuperuser(t *testing.T) {
	operator := connect(t, backing.Postgres(t))
	owner := "owner_" + partition(uuid.New())
	exec(t, operator, `CREATE ROLE `+owner+` LOGIN PASSWORD 'x'`)
	t.Cleanup(func() {
		_, err := operator.Exec(context.WithoutCancel(t.Context()), `DROP ROLE `+owner)
		require.NoError(t, err)
	})
	_, address := empty(t)
	parsed, err := url.Parse(address)
	require.NoError(t, err)
	exec(t, operator, `ALTER DATABASE `+pgx.Identifier{parsed.Path[1:]}.Sanitize()+` OWNER TO `+owner)
	all := connect(t, address)
	parsed.User = url.UserPassword(owner, "x")
	require.NoError(t, schema.Migrate(t.Context(), parsed.String(), zap.NewNop()))

	acting, tenant, other := connect(t, parsed.String()), uuid.New(), uuid.New()
	exec(t, acting, `SELECT tenant_attach($1)`, tenant)
	fill(t, all, tenant, 10)
	for _, id := range []uuid.UUID{tenant, other} {
		exec(t, all, `INSERT INTO dead_letters (tenant_id, id, payload, reason, first_failed_at, last_failed_at)
			VALUES ($1, gen_random_uuid(), '', 'not_json', now() - interval '1 hour', now() - interval '1 hour'), ($1, gen_random_uuid(), '', 'not_json', now(), now())`, id)
	}
	exec(t, acting, `SELECT set_config('app.tenant_id', $1, false)`, tenant.String())
	count(t, acting, tenant, 10)
	require.Equal(t, []string{"6 60 f"}, column[string](t, acting, `SELECT concat_ws(' ', removed, freed, more) FROM retain($1, 215, 0)`, tenant))
	require.Equal(t, []string{"1 f"}, column[string](t, acting, `SELECT concat_ws(' ', removed, more) FROM retain_dead_letters($1, 60)`, tenant))
	last := column[uuid.UUID](t, all, `SELECT id FROM messages ORDER BY ord DESC LIMIT 1`)[0]
	exec(t, all, `UPDATE dead_letters SET message_id = $1`, last)
	require.Equal(t, []string{"t 1 f"}, column[string](t, acting, `SELECT concat_ws(' ', erased, letters, uncounted) FROM erase_message($1, $2)`, tenant, last))
	require.Equal(t, []int64{2}, column[int64](t, all, `SELECT count(*) FROM dead_letters WHERE tenant_id = $1`, other))
	requireUsageAgrees(t, all, tenant)
	exec(t, acting, `SELECT set_config('app.tenant_id', '', false)`)
	require.Equal(t, []bool{false}, column[bool](t, acting, `SELECT tenant_drop($1)`, tenant))
	require.Equal(t, []bool{true}, column[bool](t, acting, `SELECT tenant_drop($1)`, tenant))
	require.Equal(t, []int64{0}, column[int64](t, all, `SELECT count(*) FROM retention_positions`))
}

// What was removed does not come back. So a control channel that has mixed up tenants, or lags behind, removes nothing that the registry
// says is to be kept.
func TestRetentionFollowsTheLaxerLimit(t *testing.T) {
	connection := connect(t, backing.Postgres(t))
	tenant := uuid.New()
	for _, test := range []struct {
		registry string // "": it has never known the tenant
		given    any
		want     *int64
	}{
		{"", 5, new(int64(5))},
		{"", 0, nil},
		{"", nil, nil},
		{`{}`, 5, nil},
		{`{"retention_seconds": 0}`, 5, nil},
		{`{"retention_seconds": 7}`, 5, new(int64(7))},
		{`{"retention_seconds": 3162240000}`, 5, new(int64(3_162_240_000))},
		{`{"retention_seconds": 3}`, 5, new(int64(5))},
		{`{"retention_seconds": 3}`, 0, nil},
		{`{"retention_seconds": 3, "retention_bytes": 9}`, nil, nil},
	} {
		if test.registry != "" {
			exec(t, connection, `INSERT INTO tenants (id, name, workers, state, limits) VALUES ($1, 'a', 1, 'active', $2)
				ON CONFLICT (id) DO UPDATE SET limits = excluded.limits`, tenant, test.registry)
		}
		require.Equal(t, []*int64{test.want}, column[*int64](t, connection, `SELECT retention_limit($1, 'retention_seconds', $2)`, tenant, test.given), test)
	}

	exec(t, connection, `SELECT tenant_attach($1)`, tenant)
	fill(t, connection, tenant, 10)
	act(t, connection, tenant)
	count(t, connection, tenant, 10)
	for limits, removed := range map[string]int64{
		`{}`:                           0,
		`{"retention_seconds": 86400}`: 0,
		`{"retention_bytes": 1000}`:    0,
		`{"retention_seconds": 100, "retention_bytes": 1}`: 8, // two are younger; bytes were not asked for
	} {
		exec(t, connection, `RESET ROLE`)
		exec(t, connection, `UPDATE tenants SET limits = $2 WHERE id = $1`, tenant, limits)
		act(t, connection, tenant)
		tx, err := connection.Begin(t.Context())
		require.NoError(t, err)
		require.Equal(t, []int64{removed}, column[int64](t, connection, `SELECT removed FROM retain($1, 60, 0)`, tenant), limits)
		require.NoError(t, tx.Rollback(t.Context()))
	}
}

// One message is erased by its id with its dead letters, whatever its tenant keeps; the usage agrees to the row, and the id can be
// published again.
func TestEraseMessage(t *testing.T) {
	address := backing.Postgres(t)
	operator, acting := connect(t, address), connect(t, address)
	tenant, other := uuid.New(), uuid.New()
	exec(t, operator, `SELECT tenant_attach($1), tenant_attach($2)`, tenant, other)
	act(t, acting, tenant)
	erase := func(id uuid.UUID) string {
		return column[string](t, acting, `SELECT concat_ws(' ', erased, letters, uncounted) FROM erase_message($1, $2)`, tenant, id)[0]
	}
	const store = `INSERT INTO messages (tenant_id, id, payload, bytes) VALUES ($1, $2, '[1, 2]', $3)`
	sized, unsized, kept := uuid.New(), uuid.New(), uuid.New()
	for id, size := range map[uuid.UUID]any{sized: 100, unsized: nil, kept: 7} {
		exec(t, operator, store, tenant, id, size)
		exec(t, operator, store, other, id, size)
	}
	require.Equal(t, "f 0 f", erase(uuid.New()), "unknown")
	require.Equal(t, "f 0 t", erase(sized), "not counted yet")
	require.Equal(t, []int64{3}, column[int64](t, operator, `SELECT count(*) FROM messages WHERE tenant_id = $1`, tenant))
	count(t, acting, tenant, 3)

	// Dead letters of it, for two reasons; one of another message; and the one of another tenant.
	for _, letter := range []struct{ tenant, message any }{{tenant, sized}, {tenant, sized}, {tenant, kept}, {other, sized}} {
		exec(t, operator, `INSERT INTO dead_letters (tenant_id, id, message_id, payload, reason) VALUES ($1, gen_random_uuid(), $2, '', 'not_json')`,
			letter.tenant, letter.message)
	}
	require.Equal(t, "t 2 f", erase(sized))
	require.Equal(t, "f 0 f", erase(sized))
	require.Equal(t, "t 0 f", erase(unsized))
	requireUsageAgrees(t, operator, tenant)
	require.Equal(t, []uuid.UUID{kept}, column[uuid.UUID](t, operator, `SELECT id FROM messages WHERE tenant_id = $1`, tenant))
	require.ElementsMatch(t, []uuid.UUID{kept, sized}, column[uuid.UUID](t, operator, `SELECT message_id FROM dead_letters`))
	require.Equal(t, []int64{3}, column[int64](t, operator, `SELECT count(*) FROM messages WHERE tenant_id = $1`, other))
	require.Equal(t, []int64{0}, column[int64](t, operator, `SELECT count(*) FROM retention_positions`), "the others are there still")

	exec(t, operator, store, tenant, sized, 9) // published again
	count(t, acting, tenant, 1)
	requireUsageAgrees(t, operator, tenant)

	// A dead letter whose producer gave no id is replayed under its own.
	nameless := uuid.New()
	exec(t, operator, `INSERT INTO dead_letters (tenant_id, id, payload, reason) VALUES ($1, $2, '', 'not_json')`, tenant, nameless)
	require.Equal(t, "f 1 f", erase(nameless))

	absent := uuid.New() // a tenant without a partition, which may have dead letters
	exec(t, operator, `INSERT INTO dead_letters (tenant_id, id, message_id, payload, reason) VALUES ($1, $2, $3, '', 'not_json')`, absent, uuid.New(), sized)
	act(t, acting, absent)
	require.Equal(t, []string{"f 1 f"}, column[string](t, acting, `SELECT concat_ws(' ', erased, letters, uncounted) FROM erase_message($1, $2)`, absent, sized))
}

// An erasure and a step of retention that meet remove a message once, and count it once.
func TestEraseMessageBesideRetention(t *testing.T) {
	address := backing.Postgres(t)
	operator, tenant := connect(t, address), uuid.New()
	exec(t, operator, `SELECT tenant_attach($1)`, tenant)
	fill(t, operator, tenant, 10)
	first, second := connect(t, address), connect(t, address)
	act(t, first, tenant)
	act(t, second, tenant)
	count(t, first, tenant, 10)
	oldest := column[uuid.UUID](t, operator, `SELECT id FROM messages ORDER BY ord LIMIT 1`)[0]

	tx, err := first.Begin(t.Context())
	require.NoError(t, err)
	require.Equal(t, []bool{true}, column[bool](t, first, `SELECT erased FROM erase_message($1, $2)`, tenant, oldest))
	require.Equal(t, []string{"0 t"}, column[string](t, second, `SELECT concat_ws(' ', removed, more) FROM retain($1, 0, 50)`, tenant), "later")
	require.NoError(t, tx.Commit(t.Context()))
	require.Equal(t, []string{"4 40 f"}, column[string](t, second, `SELECT concat_ws(' ', removed, freed, more) FROM retain($1, 0, 50)`, tenant))
	requireUsageAgrees(t, operator, tenant)

	oldest = column[uuid.UUID](t, operator, `SELECT id FROM messages ORDER BY ord LIMIT 1`)[0]
	tx, err = second.Begin(t.Context())
	require.NoError(t, err)
	require.Equal(t, []int64{2}, column[int64](t, second, `SELECT removed FROM retain($1, 0, 30)`, tenant))
	erased := make(chan error, 1)
	go func() {
		var was bool
		err := first.QueryRow(t.Context(), `SELECT erased FROM erase_message($1, $2)`, tenant, oldest).Scan(&was)
		if err == nil && was {
			err = fmt.Errorf("message %s was erased after it had been removed", oldest)
		}
		erased <- err
	}()
	waiting(t, operator, 1)
	require.NoError(t, tx.Commit(t.Context()))
	require.NoError(t, <-erased)
	requireUsageAgrees(t, operator, tenant)
}

// A partition whose messages are removed as fast as they come has to be vacuumed in time, and no vacuum may shorten it, which holds back
// all readers. Partitions from before get the same, unless the operator has chosen otherwise, and one that is in use just goes on.
func TestPartitionsAreVacuumedForRetention(t *testing.T) {
	_, address := empty(t)
	at(t, address, beforeRetention)
	operator := connect(t, address)
	older, chosen, busy := uuid.New(), uuid.New(), uuid.New()
	for _, tenant := range []uuid.UUID{older, chosen, busy} {
		exec(t, operator, `SELECT tenant_attach($1)`, tenant)
	}
	exec(t, operator, `ALTER TABLE `+partition(chosen)+` SET (vacuum_truncate = on)`)
	require.NoError(t, schema.Migrate(t.Context(), address, zap.NewNop()))
	options := func(tenant uuid.UUID) (table, toast []string) {
		t.Helper()
		require.NoError(t, operator.QueryRow(t.Context(), `SELECT c.reloptions, t.reloptions FROM pg_class c JOIN pg_class t ON t.oid = c.reltoastrelid
			WHERE c.oid = to_regclass($1)`, partition(tenant)).Scan(&table, &toast))
		return table, toast
	}
	holder, err := connect(t, address).Begin(t.Context())
	require.NoError(t, err)
	_, err = holder.Exec(t.Context(), `LOCK TABLE `+partition(busy)+` IN SHARE UPDATE EXCLUSIVE MODE`) // as a VACUUM does
	require.NoError(t, err)
	fresh := uuid.New()
	exec(t, operator, `SET ROLE mtm_ingest`)
	for _, tenant := range []uuid.UUID{older, chosen, busy, fresh} {
		exec(t, operator, `SELECT tenant_attach($1)`, tenant)
	}
	exec(t, operator, `RESET ROLE`)
	require.NoError(t, holder.Rollback(t.Context()))

	want := []string{
		"autovacuum_vacuum_scale_factor=0.02", "autovacuum_vacuum_threshold=5000", "autovacuum_vacuum_cost_delay=1", "vacuum_truncate=off",
	}
	for _, tenant := range []uuid.UUID{older, fresh} {
		table, toast := options(tenant)
		require.ElementsMatch(t, append([]string{"autovacuum_analyze_threshold=1000"}, want...), table)
		require.ElementsMatch(t, want, toast)
	}
	table, _ := options(chosen)
	require.ElementsMatch(t, []string{"autovacuum_analyze_threshold=1000", "vacuum_truncate=on"}, table)
	table, _ = options(busy)
	require.Equal(t, []string{"autovacuum_analyze_threshold=1000"}, table)
	exec(t, operator, `SELECT tenant_attach($1)`, busy)
	table, _ = options(busy)
	require.Subset(t, table, want, "the next time")
}

// Index entries of removed messages stay until a vacuum. Neither a search for a time nor a step of retention walks over them.
func TestSearchesBeginAtTheBoundary(t *testing.T) {
	operator := connect(t, backing.Postgres(t))
	tenant := uuid.New()
	exec(t, operator, `SELECT tenant_attach($1)`, tenant)
	exec(t, operator, `ALTER TABLE `+partition(tenant)+` SET (autovacuum_enabled = off)`)
	const dead, kept = 50_000, 1000
	fill(t, operator, tenant, dead+kept)
	act(t, operator, tenant)
	count(t, operator, tenant, dead+kept)
	buffers := func(query string, args ...any) int {
		t.Helper()
		exec(t, operator, query, args...) // whatever a connection does for the first time reads hundreds of pages of catalogs
		var plan []struct {
			Plan struct {
				Hit  int `json:"Shared Hit Blocks"`
				Read int `json:"Shared Read Blocks"`
			} `json:"Plan"`
		}
		require.NoError(t, operator.QueryRow(t.Context(), `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) `+query, args...).Scan(&plan))
		return plan[0].Plan.Hit + plan[0].Plan.Read
	}
	for {
		var removed int
		var more bool
		require.NoError(t, operator.QueryRow(t.Context(), `SELECT removed, more FROM retain($1, 0, $2)`, tenant, 10*kept).Scan(&removed, &more))
		if !more {
			break
		}
		require.Equal(t, 500, removed)
	}
	exec(t, operator, `RESET ROLE`)
	require.Equal(t, []int64{kept}, column[int64](t, operator, `SELECT count(*) FROM `+partition(tenant)))
	exec(t, operator, `SET ROLE mtm_query`)
	search := buffers(`SELECT * FROM message_position($1, now() - interval '10 minutes')`, tenant)
	require.Equal(t, []int32{dead + 1}, column[int32](t, operator, `SELECT above_ord FROM message_position($1, '2020-01-01')`, tenant))
	exec(t, operator, `SET ROLE mtm_ingest`)
	step := buffers(`SELECT * FROM retain($1, 0, $2)`, tenant, 10*kept)
	look := buffers(`SELECT * FROM retain($1, $2, 0)`, tenant, 3600*1000)
	t.Logf("buffers: %d of a search, %d and %d of a step that finds nothing", search, step, look)
	require.Less(t, search, 150)
	require.Less(t, step, 60)
	require.Less(t, look, 80)
}

// After a restore transaction ids are lower. A tenant's boundary, in an earlier epoch, is passed in the order of reading.
func TestRetentionAcrossEpochs(t *testing.T) {
	operator := connect(t, backing.Postgres(t))
	tenant := uuid.New()
	exec(t, operator, `SELECT tenant_attach($1)`, tenant)
	exec(t, operator, `INSERT INTO messages (tenant_id, id, payload, bytes, created_at, xid, ord)
		SELECT $1, gen_random_uuid(), '1', 10, now() - make_interval(hours => 100 - i), '5000000000', i FROM generate_series(1, 10) AS i`, tenant)
	for range 2 {
		exec(t, operator, `UPDATE reading_epochs SET system_identifier = system_identifier + 1`)
		exec(t, operator, `SELECT advance_reading_epoch()`)
	}
	fill(t, operator, tenant, 10)
	act(t, operator, tenant)
	count(t, operator, tenant, 20)
	for _, step := range []struct {
		keep int
		want string
	}{
		{160, "4 40 t"}, // inside of the first
		{160, "0 0 f"},
		{100, "6 60 t"}, // to its end
		{70, "3 30 f"},  // two epochs later
		{0, "0 0 f"},
		{10, "6 60 f"},
		{10, "0 0 f"},
	} {
		exec(t, operator, `SET ROLE mtm_ingest`)
		require.Equal(t, []string{step.want}, column[string](t, operator, `SELECT concat_ws(' ', removed, freed, more) FROM retain($1, 0, $2)`, tenant, step.keep), step)
		exec(t, operator, `RESET ROLE`)
		requireUsageAgrees(t, operator, tenant)
		exec(t, operator, `SET ROLE mtm_query`)
		var before, from bool // nothing is found before the first one that is kept, and that is found
		require.NoError(t, operator.QueryRow(t.Context(), `
			SELECT below_xid IS NULL, (above_epoch, above_xid, above_ord) = (SELECT epoch, xid, ord FROM messages ORDER BY epoch, xid, ord LIMIT 1)
			FROM message_position($1, '2020-01-01')`, tenant).Scan(&before, &from))
		require.True(t, before && from, step)
	}
}
