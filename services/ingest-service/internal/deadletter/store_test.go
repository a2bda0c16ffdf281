package deadletter

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres/sqlstate"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// waitLimit is the limit of every wait in these tests; none of them takes nearly as long.
const waitLimit = 30 * time.Second

// database is a store, and an operator who sees everything.
func database(t *testing.T) (*Store, *pgxpool.Pool) {
	t.Helper()
	url := backing.Postgres(t)
	cfg := postgres.DefaultConfig()
	cfg.URL, cfg.MaxConns = url, 4
	pool, err := postgres.Open(t.Context(), cfg, postgres.RoleIngest)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	operator := pgtest.Operator(t, url)
	return NewStore(pool, 10*time.Second), operator
}

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) //nolint:gochecknoglobals // fixed values of types that have no constants

// newTestEntry is the n-th dead letter of a tenant: one a second.
func newTestEntry(tenant uuid.UUID, n int) Entry {
	messageID := uuid.UUID(contract.MessageID(tenant, fmt.Sprint(n)))
	payload := fmt.Appendf(nil, `{"n":%d}`, n)
	at := epoch.Add(time.Duration(n) * time.Second)
	return Entry{
		ID: EntryID(tenant, fmt.Sprint(n), contract.ReasonRejected, payload), TenantID: tenant, MessageID: &messageID,
		OriginalMessageID: fmt.Sprint(n), Payload: payload, PayloadSize: int64(len(payload)), ContentType: "application/json",
		Headers: []byte(`{}`), Reason: contract.ReasonRejected, Error: "refused", Attempts: 1, Version: 1, FirstFailedAt: at, LastFailedAt: at,
	}
}

func record(t *testing.T, s *Store, entries ...Entry) {
	t.Helper()
	discarded, err := s.Record(t.Context(), entries)
	require.NoError(t, err)
	require.Zero(t, discarded)
}

var everything = Limits{Entries: 1000, Payload: 1 << 20, Bytes: 8 << 20} //nolint:gochecknoglobals // fixed values of types that have no constants

func list(t *testing.T, s *Store, tenant uuid.UUID, filter Filter) []Entry {
	t.Helper()
	page, err := s.List(t.Context(), tenant, filter, Position{}, everything)
	require.NoError(t, err)
	return page.Entries
}

// A dead letter that comes twice, because its recorder died before it could acknowledge, is one dead letter.
func TestRecordIsIdempotent(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	l := newTestEntry(tenantA, 1)
	record(t, s, l, newTestEntry(tenantB, 1), newTestEntry(tenantA, 2), l)
	got, err := s.Find(t.Context(), tenantA, l.ID, 1<<20)
	require.NoError(t, err)
	require.Equal(t, l, got)

	again := l
	again.Attempts, again.Error = 5, "refused again"
	again.FirstFailedAt, again.LastFailedAt = epoch.Add(time.Hour), epoch.Add(time.Hour)
	record(t, s, again)
	got, err = s.Find(t.Context(), tenantA, l.ID, 1<<20)
	require.NoError(t, err)
	again.Version, again.FirstFailedAt = 2, l.FirstFailedAt
	require.Equal(t, again, got)
	require.Len(t, list(t, s, tenantA, Filter{}), 2)
	require.Len(t, list(t, s, tenantB, Filter{}), 1)
}

// A dead letter counts once for the usage of its tenant, however often it is recorded, by whomever; those of a transaction that fails do not
// count, and one that comes again after it was dropped is another one.
func TestUsageCountsEachDeadLetterOnce(t *testing.T) {
	t.Parallel()
	s, operator := database(t)
	counted := func(tenant uuid.UUID) (n int64) {
		require.NoError(t, operator.QueryRow(t.Context(), `SELECT coalesce(sum(dead_letters), 0) FROM usage_hours WHERE tenant_id = $1`, tenant).Scan(&n))
		return n
	}
	var recording sync.WaitGroup
	for range 4 {
		recording.Go(func() {
			for n := range 5 {
				record(t, s, newTestEntry(tenantB, n), newTestEntry(tenantA, n), newTestEntry(tenantA, n+1), newTestEntry(tenantA, n))
			}
		})
	}
	recording.Wait()
	require.EqualValues(t, 6, counted(tenantA))
	require.EqualValues(t, 5, counted(tenantB))

	bad := newTestEntry(tenantB, 100)
	bad.Error = "\x00"
	_, err := s.Record(t.Context(), []Entry{newTestEntry(tenantA, 100), bad})
	require.Error(t, err)
	require.EqualValues(t, 6, counted(tenantA))
	require.NoError(t, s.Drop(t.Context(), tenantA, newTestEntry(tenantA, 1).ID, someone()))
	record(t, s, newTestEntry(tenantA, 1))
	require.EqualValues(t, 7, counted(tenantA))
	_, err = operator.Exec(t.Context(), `INSERT INTO tenant_partitions (id, dropped_at) VALUES ($1, now())`, tenantB)
	require.NoError(t, err)
	discarded, err := s.Record(t.Context(), []Entry{newTestEntry(tenantB, 50)})
	require.NoError(t, err)
	require.Equal(t, 1, discarded)
	require.EqualValues(t, 5, counted(tenantB))
}

// Whatever a producer sends must not stop the recorder.
func TestRecordTakesWhateverProducersSend(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	nasty := "a\x00\xff" + strings.Repeat("\u20ac", 70)
	d := delivered("", "", Publishing(tenantA, deliveryOf(nasty), contract.ReasonNotJSON, fmt.Errorf("bad: %s", nasty), 1).Publishing)
	l := fromDeadLetters(d, time.Now().UTC().Truncate(time.Microsecond))
	record(t, s, l)
	got, err := s.Find(t.Context(), tenantA, l.ID, 1<<20)
	require.NoError(t, err)
	require.Equal(t, []byte(nasty), got.Payload)
	require.Empty(t, got.OriginalMessageID, "it is not text")
	require.Equal(t, uuid.UUID(contract.MessageID(tenantA, nasty)), *got.MessageID)
	require.NotContains(t, got.Error, "\x00")

	empty := fromDeadLetters(delivered("", "", Publishing(tenantA, deliveryOf(""), contract.ReasonNotJSON, nil, 1).Publishing), time.Now())
	record(t, s, empty)
	got, err = s.Find(t.Context(), tenantA, empty.ID, 1<<20)
	require.NoError(t, err)
	require.Nil(t, got.MessageID)
	require.Empty(t, got.Payload)
	require.Equal(t, empty.ID, got.ReplayID())
}

// A deleted tenant must not come back through its dead letters, and what is discarded is counted.
func TestRecordDiscardsDeadLettersOfRetiredTenants(t *testing.T) {
	t.Parallel()
	s, operator := database(t)
	dropPartition(t, operator, tenantA)
	discarded, err := s.Record(t.Context(), []Entry{newTestEntry(tenantA, 1), newTestEntry(tenantB, 1), newTestEntry(tenantA, 2)})
	require.NoError(t, err)
	require.Equal(t, 2, discarded)
	require.Empty(t, list(t, s, tenantA, Filter{}))
	require.Len(t, list(t, s, tenantB, Filter{}), 1)
}

// dropPartition retires a tenant. In production, too, it is repeated: it waits for a lock for 200 ms only.
func dropPartition(t *testing.T, operator *pgxpool.Pool, tenant uuid.UUID) {
	t.Helper()
	for {
		_, err := operator.Exec(t.Context(), `SELECT tenant_drop($1)`, tenant)
		if !sqlstate.Is(err, pgerrcode.LockNotAvailable) {
			require.NoError(t, err)
			return
		}
	}
}

// Dead letters that are recorded while their tenant is being retired are deleted with it or discarded.
func TestRecordWhileATenantIsRetired(t *testing.T) {
	t.Parallel()
	s, operator := database(t)
	for round := range 20 {
		tenant := uuid.New()
		var group sync.WaitGroup
		group.Go(func() {
			for n := range 10 {
				if _, err := s.Record(t.Context(), []Entry{newTestEntry(tenant, n)}); err != nil {
					t.Error(err)
				}
			}
		})
		dropPartition(t, operator, tenant)
		_, err := operator.Exec(t.Context(), `DELETE FROM dead_letters WHERE tenant_id = $1`, tenant)
		require.NoError(t, err)
		group.Wait()
		require.Empty(t, list(t, s, tenant, Filter{}), round)
	}
}

// Nobody sees, replays or drops another tenant's dead letters.
func TestDeadLettersBelongToTheirTenant(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	l := newTestEntry(tenantA, 1)
	record(t, s, l)
	_, err := s.Find(t.Context(), tenantB, l.ID, 1<<20)
	require.ErrorIs(t, err, ErrNotFound)
	require.ErrorIs(t, s.Drop(t.Context(), tenantB, l.ID, someone()), ErrNotFound)
	require.NoError(t, s.remove(t.Context(), tenantB, []Entry{l}, func(int64) audit.Event { return dropEvent(someone(), &Entry{TenantID: tenantB}) }))
	require.Empty(t, list(t, s, tenantB, Filter{}))
	dropped, err := s.DropAll(t.Context(), tenantB, Filter{}, someone())
	require.NoError(t, err)
	require.Zero(t, dropped)
	count, err := s.Count(t.Context(), tenantB, Filter{})
	require.NoError(t, err)
	require.Zero(t, count)
	require.Len(t, list(t, s, tenantA, Filter{}), 1)
	// Row-level security holds even where a statement forgets the tenant.
	var n int
	require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT count(*) FROM dead_letters`).Scan(&n))
	require.Zero(t, n)
}

func TestListPages(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	var all []Entry
	for n := range 25 {
		l := newTestEntry(tenantA, n)
		l.FirstFailedAt = epoch.Add(time.Duration(n/5) * time.Second) // many at the same time
		all = append(all, l)
	}
	record(t, s, all...)
	for _, limit := range []int{1, 4, 5, 24, 25, 26} {
		seen := map[uuid.UUID]bool{}
		var at Position
		for more := true; more; {
			page, err := s.List(t.Context(), tenantA, Filter{}, at, Limits{Entries: limit, Payload: 100, Bytes: 1 << 20})
			require.NoError(t, err)
			require.LessOrEqual(t, len(page.Entries), limit)
			for _, l := range page.Entries {
				require.False(t, seen[l.ID])
				seen[l.ID] = true
				require.False(t, l.FirstFailedAt.Before(at.FirstFailedAt))
				at = Position{l.FirstFailedAt, l.ID}
			}
			more = page.More
		}
		require.Len(t, seen, 25)
		page, err := s.List(t.Context(), tenantA, Filter{}, at, everything)
		require.NoError(t, err)
		require.Equal(t, Page{Entries: []Entry{}}, page)
	}
}

// A page has to fit into memory, whatever the dead letters hold.
func TestListLimitsBytes(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	for n := range 6 {
		l := newTestEntry(tenantA, n)
		l.Payload = bytes.Repeat([]byte("x"), 1000)
		if n == 1 {
			l.Payload = bytes.Repeat([]byte("x"), 5000)
		}
		record(t, s, l)
	}
	page, err := s.List(t.Context(), tenantA, Filter{}, Position{}, Limits{Entries: 10, Payload: 2000, Bytes: 3000})
	require.NoError(t, err)
	require.True(t, page.More)
	require.Len(t, page.Entries, 4, "three of 1000 bytes, and one that is left out")
	require.Nil(t, page.Entries[1].Payload)
	require.EqualValues(t, 5000, page.Entries[1].PayloadSize)
	require.Len(t, page.Entries[0].Payload, 1000)
	page, err = s.List(t.Context(), tenantA, Filter{}, Position{}, Limits{Entries: 10, Payload: 2000, Bytes: 1})
	require.NoError(t, err)
	require.Len(t, page.Entries, 1, "a page always gets on")

	for n := range 3 { // headers count as they are when they are shown
		l := newTestEntry(tenantB, n)
		l.Properties = bytes.Repeat([]byte{0}, 1000)
		if n == 1 { // as an earlier version has kept them
			l.Properties, l.Headers = nil, fmt.Appendf(nil, `{"a": %q}`, strings.Repeat("x", 6000))
		}
		record(t, s, l)
	}
	page, err = s.List(t.Context(), tenantB, Filter{}, Position{}, Limits{Entries: 10, Payload: 2000, Bytes: 12_100})
	require.NoError(t, err)
	require.True(t, page.More)
	require.Len(t, page.Entries, 2)
	require.Len(t, page.Entries[0].Properties, 1000)
	require.Nil(t, page.Entries[1].Properties)
}

// A dead letter that an instance of an earlier version has recorded gets its properties when it comes again, and keeps them.
func TestPropertiesAreAddedOnce(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	l := newTestEntry(tenantA, 1)
	record(t, s, l)
	for _, properties := range []string{"first", "second"} {
		l.Properties = []byte(properties)
		record(t, s, l)
		got, err := s.Find(t.Context(), tenantA, l.ID, 1000)
		require.NoError(t, err)
		require.Equal(t, "first", string(got.Properties))
	}
}

func TestFilters(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	for n := range 10 {
		l := newTestEntry(tenantA, n)
		if n%2 == 1 {
			l.Reason = contract.ReasonNotJSON
		}
		record(t, s, l)
	}
	at := func(n int) time.Time { return epoch.Add(time.Duration(n) * time.Second) }
	for name, c := range map[string]struct {
		filter Filter
		want   int
	}{
		"none":            {Filter{}, 10},
		"reason":          {Filter{Reason: contract.ReasonNotJSON}, 5},
		"another reason":  {Filter{Reason: contract.ReasonTooDeep}, 0},
		"after":           {Filter{After: at(7)}, 3},
		"before":          {Filter{Before: at(7)}, 7},
		"between":         {Filter{After: at(2), Before: at(4)}, 2},
		"all at the time": {Filter{Reason: contract.ReasonNotJSON, After: at(2), Before: at(6)}, 2},
	} {
		require.Len(t, list(t, s, tenantA, c.filter), c.want, name)
		count, err := s.Count(t.Context(), tenantA, c.filter)
		require.NoError(t, err)
		require.EqualValues(t, c.want, count, name)
	}
	dropped, err := s.DropAll(t.Context(), tenantA, Filter{Reason: contract.ReasonNotJSON, After: at(2)}, someone())
	require.NoError(t, err)
	require.EqualValues(t, 4, dropped)
	require.Len(t, list(t, s, tenantA, Filter{}), 6)
}

func TestDrop(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	l := newTestEntry(tenantA, 1)
	record(t, s, l)
	require.NoError(t, s.Drop(t.Context(), tenantA, l.ID, someone()))
	require.ErrorIs(t, s.Drop(t.Context(), tenantA, l.ID, someone()), ErrNotFound)
	var many []Entry
	for n := range 2*dropChunk + 10 {
		many = append(many, newTestEntry(tenantA, n))
	}
	record(t, s, many...)
	dropped, err := s.DropAll(t.Context(), tenantA, Filter{}, someone())
	require.NoError(t, err)
	require.EqualValues(t, len(many), dropped)
}

func TestGauges(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	old := newTestEntry(tenantA, 1)
	old.FirstFailedAt = time.Now().Add(-time.Hour)
	record(t, s, old, newTestEntry(tenantB, 1))
	recent := newTestEntry(tenantB, 1)
	require.NoError(t, s.Drop(t.Context(), tenantB, recent.ID, someone()))

	reg := prometheus.NewPedanticRegistry()
	m := NewMetrics(reg)
	require.Equal(t, 0, testutil.CollectAndCount(m, "mtm_dead_letters"))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx, s, zaptest.NewLogger(t)) }()
	require.Eventually(t, func() bool { return testutil.CollectAndCount(m, "mtm_dead_letters") == 1 }, waitLimit, time.Millisecond)
	cancel()
	require.NoError(t, <-done)
	families, err := reg.Gather()
	require.NoError(t, err)
	for _, family := range families {
		if family.GetName() == "mtm_dead_letters_oldest_seconds" {
			require.InDelta(t, 3600, family.GetMetric()[0].GetGauge().GetValue(), 60)
		}
	}
	m.Forget(tenantA)
	require.Equal(t, 0, testutil.CollectAndCount(m, "mtm_dead_letters"), "a deleted tenant leaves no series")
}
