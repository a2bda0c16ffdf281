package store

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/pgtest"
)

// waitLimit and tick are how long, and how often, a test looks for a condition.
const waitLimit, tick = 20 * time.Second, time.Millisecond

// rig is a store whose shared transactions the test can hold.
type rig struct {
	*testing.T
	*Store
	operator *pgxpool.Pool // sees everything
}

// newRig returns a store on a database of its own, reached through dial if there is one, whose writes may take timeout and
// wait so long for a lock.
func newRig(t *testing.T, timeout, lock time.Duration, change ...func(*pgxpool.Config)) *rig {
	t.Helper()
	cfg := postgres.DefaultConfig()
	cfg.URL = backing.Postgres(t)
	standard, err := postgres.Open(t.Context(), cfg, postgres.RoleIngest)
	require.NoError(t, err)
	defer standard.Close()
	config := standard.Config()
	config.ConnConfig.RuntimeParams["lock_timeout"] = fmt.Sprint(lock.Milliseconds())
	config.ConnConfig.RuntimeParams["statement_timeout"] = "60000"
	for _, change := range change {
		change(config)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	operator := pgtest.Operator(t, cfg.URL)
	g := &rig{T: t, Store: New(pool, timeout), operator: operator}
	// Whatever a test has done: no shared transaction is lost, and nobody waits.
	t.Cleanup(func() {
		g.until("no shared transaction is taken", func(running int, _ []*write) bool { return running == 0 })
	})
	return g
}

// until waits until the merger is as it should be.
func (g *rig) until(what string, is func(running int, waiting []*write) bool) {
	g.Helper()
	require.Eventually(g, func() bool {
		g.merger.mu.Lock()
		defer g.merger.mu.Unlock()
		return is(g.merger.running, g.merger.waiting)
	}, waitLimit, tick, what)
}

// hold takes all shared transactions, so that writes wait.
func (g *rig) hold() {
	g.merger.mu.Lock()
	defer g.merger.mu.Unlock()
	require.Zero(g, g.merger.running)
	g.merger.running = maxShared
}

// free gives so many shared transactions to those that wait.
func (g *rig) free(shared int) {
	g.merger.mu.Lock()
	defer g.merger.mu.Unlock()
	for range shared {
		g.merger.passOn()
	}
}

func (g *rig) attached() uuid.UUID {
	g.Helper()
	tenant := uuid.New()
	require.NoError(g, g.Attach(g.Context(), tenant))
	return tenant
}

func (g *rig) exec(sql string) {
	g.Helper()
	_, err := g.operator.Exec(g.Context(), sql)
	require.NoError(g, err)
}

func partition(tenant uuid.UUID) string {
	return pgx.Identifier{"messages_" + strings.ReplaceAll(tenant.String(), "-", "")}.Sanitize()
}

// waitsFor waits until so many connections wait for a lock on the partition of tenant.
func (g *rig) waitsFor(tenant uuid.UUID, connections int) {
	g.Helper()
	g.sees(connections, `SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = $1::regclass`, partition(tenant))
}

// sees waits until the operator counts n.
func (g *rig) sees(n int, sql string, args ...any) {
	g.Helper()
	require.Eventually(g, func() bool {
		var counted int
		err := g.operator.QueryRow(g.Context(), sql, args...).Scan(&counted)
		return err == nil && counted == n
	}, waitLimit, tick, "%d of %s", n, sql)
}

// locked locks the partition of tenant as a careless operator does, until unlock is called.
func (g *rig) locked(tenant uuid.UUID) (unlock func()) {
	g.Helper()
	tx, err := g.operator.Begin(g.Context())
	require.NoError(g, err)
	_, err = tx.Exec(g.Context(), `LOCK TABLE `+partition(tenant)+` IN ACCESS EXCLUSIVE MODE`)
	require.NoError(g, err)
	unlock = sync.OnceFunc(func() { require.NoError(g, tx.Rollback(context.WithoutCancel(g.Context()))) })
	g.Cleanup(unlock)
	return unlock
}

// gated has every write into the partition of tenant wait in a trigger, without a lock, until open is called.
func (g *rig) gated(tenant uuid.UUID) (open func()) {
	g.Helper()
	g.exec(`CREATE SEQUENCE IF NOT EXISTS gate;
		CREATE OR REPLACE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
			WHILE NOT (SELECT is_called FROM gate) LOOP PERFORM pg_sleep(0.001); END LOOP; RETURN NEW; END $$;
		CREATE TRIGGER pass BEFORE INSERT ON ` + partition(tenant) + ` FOR EACH ROW EXECUTE FUNCTION pass()`)
	open = sync.OnceFunc(func() {
		_, err := g.operator.Exec(context.WithoutCancel(g.Context()), `SELECT nextval('gate')`)
		require.NoError(g, err)
	})
	g.Cleanup(open)
	return open
}

// written is what was given to Insert, remembered apart from the memory that Insert has seen.
type written struct {
	tenant   uuid.UUID
	messages []Row
	ids      []uuid.UUID
	contents []string

	stored int
	err    error
}

// batchOf makes a write of n messages of about size bytes.
func batchOf(tenant uuid.UUID, n, size int) *written {
	w := &written{tenant: tenant}
	for range n {
		id := uuid.New()
		w.add(id, fmt.Sprintf("%q", id.String()+strings.Repeat("x", size)))
	}
	return w
}

func (w *written) add(id uuid.UUID, content string) {
	w.ids, w.contents = append(w.ids, id), append(w.contents, content)
	w.messages = append(w.messages, Row{ID: id, Payload: []byte(content)})
}

// insert writes w, and then uses its memory for something else at once, as the batches of a consumer do.
func (g *rig) insert(ctx context.Context, w *written) error {
	for i := range w.messages {
		w.messages[i] = Row{ID: w.ids[i], Payload: append(w.messages[i].Payload[:0], w.contents[i]...)}
	}
	w.stored, w.err = g.Insert(ctx, w.tenant, w.messages)
	for i := range w.messages {
		w.messages[i].ID = uuid.Max
		copy(w.messages[i].Payload, bytes.Repeat([]byte{'#'}, len(w.contents[i])))
	}
	return w.err
}

// begin writes w while the test continues. The channel is closed at the end.
func (g *rig) begin(ctx context.Context, w *written) <-chan struct{} {
	g.Helper()
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		_ = g.insert(ctx, w)
	}()
	return finished
}

// queued is begin, and waits until w is in the queue. All shared transactions are held.
func (g *rig) queued(ctx context.Context, w *written) <-chan struct{} {
	g.Helper()
	before := 0
	g.until("", func(_ int, waiting []*write) bool { before = len(waiting); return true })
	finished := g.begin(ctx, w)
	g.until("it waits", func(_ int, waiting []*write) bool { return len(waiting) == before+1 })
	return finished
}

// requireStored says that all of these writes are stored and nothing else is, each in its own tenant's partition, in one
// transaction and in its order.
func (g *rig) requireStored(all ...*written) {
	g.Helper()
	found := g.contents()
	for _, w := range all {
		first := found[w.tenant][w.ids[0]].xid
		for i, id := range w.ids {
			place, is := found[w.tenant][id]
			require.True(g, is, "message %s of %s is lost", id, w.tenant)
			require.Equal(g, w.contents[i], place.content)
			require.Equal(g, first, place.xid, "all or none")
			require.Equal(g, i+1, place.ord)
			delete(found[w.tenant], id)
		}
	}
	for tenant, rest := range found {
		require.Empty(g, rest, "stored for %s, and never written", tenant)
	}
}

// place is a stored message.
type place struct {
	content string
	xid     uint64
	ord     int
}

// contents are all stored messages. Every one is in the partition of its tenant, and no two have one place in the reading
// order.
func (g *rig) contents() map[uuid.UUID]map[uuid.UUID]place {
	g.Helper()
	rows, err := g.operator.Query(g.Context(),
		`SELECT tenant_id, id, payload::text, xid::text::bigint, ord, tableoid::regclass::text FROM messages ORDER BY tenant_id, epoch, xid, ord`)
	require.NoError(g, err)
	found := make(map[uuid.UUID]map[uuid.UUID]place)
	var tenant, id uuid.UUID
	var here, last place
	var table string
	_, err = pgx.ForEachRow(rows, []any{&tenant, &id, &here.content, &here.xid, &here.ord, &table}, func() error {
		if found[tenant] == nil {
			found[tenant], last = make(map[uuid.UUID]place), place{}
		}
		require.Equal(g, partition(tenant), pgx.Identifier{table}.Sanitize())
		require.False(g, here.xid == last.xid && here.ord == last.ord, "two messages in one place")
		found[tenant][id], last = here, here
		return nil
	})
	require.NoError(g, err)
	return found
}

// What goes together is of different tenants and not too much, in the order of asking; what does not fit stays and loses
// nothing.
func TestTakeProperty(t *testing.T) {
	tenants := []uuid.UUID{uuid.New(), uuid.New(), uuid.New(), uuid.New()}
	for range 2 * groupWrites {
		tenants = append(tenants, uuid.New())
	}
	draw := rapid.Custom(func(r *rapid.T) *write {
		few := rapid.IntRange(0, 3)
		return &write{
			tenant: tenants[rapid.OneOf(few, rapid.IntRange(0, len(tenants)-1)).Draw(r, "tenant")],
			bytes:  rapid.OneOf(rapid.IntRange(0, mergeBytes), rapid.Just(100)).Draw(r, "bytes"),
		}
	})
	rapid.Check(t, func(r *rapid.T) {
		waiting := rapid.SliceOfN(draw, 0, 3*groupWrites).Draw(r, "waiting")
		m := newMerger(nil)
		m.waiting = append(m.waiting, waiting...)
		first := draw.Draw(r, "first")
		group := m.formGroup(first)

		require.Same(r, first, group[0])
		require.LessOrEqual(r, len(group), groupWrites)
		seen, bytes := map[uuid.UUID]bool{}, 0
		for _, w := range group {
			require.False(r, seen[w.tenant], "a tenant twice in one transaction")
			seen[w.tenant] = true
			bytes += w.bytes
		}
		require.LessOrEqual(r, bytes, groupBytes)
		taken, left := group[1:], m.waiting
		for _, w := range waiting {
			switch {
			case len(taken) > 0 && taken[0] == w:
				taken = taken[1:]
			default:
				require.NotEmpty(r, left)
				require.Same(r, w, left[0])
				left = left[1:]
				require.True(r, len(group) == groupWrites || seen[w.tenant] || bytes+w.bytes > groupBytes, "it would have fitted")
			}
		}
		require.Empty(r, taken)
		require.Empty(r, left)
		for _, w := range m.waiting[len(m.waiting):len(waiting)] {
			require.Nil(r, w, "its messages would be kept")
		}
	})
}

// A tenant that is kept alone for ever would cost a transaction a message; one that is never forgotten, memory.
func TestSeparateForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMerger(nil)
		require.False(t, m.isSeparate(uuid.New()))
		var tenants []uuid.UUID
		for range 1000 {
			tenants = append(tenants, uuid.New())
			m.keepSeparate(tenants[len(tenants)-1])
		}
		require.True(t, m.isSeparate(tenants[7]))
		require.False(t, m.isSeparate(uuid.New()))
		<-time.After(separateFor - 1)
		require.True(t, m.isSeparate(tenants[7]))
		m.keepSeparate(tenants[8])
		<-time.After(1)
		require.False(t, m.isSeparate(tenants[7]))
		require.True(t, m.isSeparate(tenants[8]), "it failed again")
		<-time.After(2 * separateFor)
		require.False(t, m.isSeparate(tenants[0]))
		require.Empty(t, m.separate)
	})
}

// Many writers of many tenants at once: nothing is lost, nothing doubled, nothing under another tenant.
func TestManyTenantsAtOnce(t *testing.T) {
	g := newRig(t, waitLimit, time.Second)
	const tenants, writers, rounds = 20, 3, 15
	g.hold()
	var writing sync.WaitGroup
	var all []*written
	for range tenants {
		tenant := g.attached()
		for writer := range writers {
			random := rand.New(rand.NewPCG(1, uint64(writer)))
			mine := []*written{batchOf(tenant, 3, 10)}
			for range rounds {
				size := random.IntN(200)
				if random.IntN(15) == 0 {
					size = mergeBytes + random.IntN(3*copyFrame)
				}
				mine = append(mine, batchOf(tenant, 1+random.IntN(8), size))
			}
			all = append(all, mine...)
			writing.Go(func() {
				for _, w := range mine {
					if err := g.insert(t.Context(), w); err != nil || w.stored != len(w.ids) {
						t.Errorf("%d of %d stored: %v", w.stored, len(w.ids), err)
					}
				}
			})
		}
	}
	g.until("all wait", func(_ int, waiting []*write) bool { return len(waiting) == tenants*writers })
	g.free(maxShared)
	writing.Wait()
	g.requireStored(all...)
	var shared int
	require.NoError(t, g.operator.QueryRow(t.Context(),
		`SELECT count(*) FROM (SELECT FROM messages GROUP BY xid HAVING count(DISTINCT tenant_id) > 1) AS transactions`).Scan(&shared))
	require.Positive(t, shared, "or this test has not tested much")
}

// The reading order counts the messages of a tenant in a transaction: two writes of one tenant in it would collide.
func TestOneTenantSeveralTimes(t *testing.T) {
	g := newRig(t, waitLimit, time.Second)
	tenant := g.attached()
	g.hold()
	var all []*written
	var finished []<-chan struct{}
	for i := range 8 {
		if all = append(all, batchOf(tenant, 3, 10)); i%2 == 1 {
			all[i].tenant = g.attached()
		}
		finished = append(finished, g.queued(t.Context(), all[i]))
	}
	g.free(maxShared)
	for i := range all {
		<-finished[i]
		require.NoError(t, all[i].err)
		require.Equal(t, 3, all[i].stored)
	}
	g.requireStored(all...)
	xids := map[uint64]bool{}
	for _, place := range g.contents()[tenant] {
		xids[place.xid] = true
	}
	require.Len(t, xids, 4)
}
