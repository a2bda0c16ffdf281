package store

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres/sqlstate"
	"github.com/srireskianita/multi-tenant-messaging/testkit/pgtest"
)

// One tenant fails in every way, alone in a shared transaction and amid others: the others are stored, its own outcome is that of a
// transaction of its own, and for a while it does not go with others.
func TestTenantsDoNotShareFaults(t *testing.T) {
	const lock = 300 * time.Millisecond // longer than a shared transaction waits, shorter than the operator
	trigger := func(g *rig, tenant uuid.UUID, body, kind, when string) {
		g.exec(`CREATE FUNCTION hinder() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ` + body + ` RETURN NEW; END $$`)
		g.exec(`CREATE ` + kind + ` INSERT ON ` + partition(tenant) + when + ` FOR EACH ROW EXECUTE FUNCTION hinder()`)
	}
	const before, after, atTheEnd = `TRIGGER hinder BEFORE`, `CONSTRAINT TRIGGER hinder AFTER`, ` DEFERRABLE INITIALLY DEFERRED`
	for name, test := range map[string]struct {
		// harm makes what w writes fail; the function it returns ends that, if it can end.
		harm   func(g *rig, w *written) (cure func())
		code   string
		fault  sqlstate.Fault
		stored int // of three messages
	}{
		"locked": {
			harm: func(g *rig, w *written) func() { return g.locked(w.tenant) },
			code: "55P03", fault: sqlstate.Infrastructure,
		},
		"no partition": {
			harm: func(g *rig, w *written) func() {
				w.tenant = uuid.New()
				return func() { require.NoError(g, g.Attach(g.Context(), w.tenant)) }
			},
			code: "42P01", fault: sqlstate.Infrastructure,
		},
		"content": {
			harm: func(_ *rig, w *written) func() { w.contents[1] = `"\u0000"`; return nil },
			code: "22P05", fault: sqlstate.Content,
		},
		"trigger": {
			harm: func(g *rig, w *written) func() {
				trigger(g, w.tenant, `RAISE EXCEPTION 'not now';`, before, ``)
				return func() { g.exec(`DROP TRIGGER hinder ON ` + partition(w.tenant)) }
			},
			code: "P0001", fault: sqlstate.Transient,
		},
		"trigger at the end of the transaction": {
			harm: func(g *rig, w *written) func() {
				trigger(g, w.tenant, `RAISE EXCEPTION 'not now';`, after, atTheEnd)
				return nil
			},
			code: "P0001", fault: sqlstate.Transient,
		},
		"slow trigger": {
			harm: func(g *rig, w *written) func() {
				trigger(g, w.tenant, `PERFORM pg_sleep(0.4);`, before, ``)
				return nil
			},
			stored: 3,
		},
		"stored already": {
			harm: func(g *rig, w *written) func() {
				first := batchOf(w.tenant, 0, 0)
				first.add(w.ids[1], w.contents[1])
				require.NoError(g, g.insert(g.Context(), first))
				return nil
			},
			stored: 2,
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, waitLimit, lock)
			guilty := batchOf(g.attached(), 3, 10)
			cure := test.harm(g, guilty)
			requireOutcome := func() {
				t.Helper()
				require.Equal(t, test.fault, sqlstate.Classify(guilty.err), "%v", guilty.err)
				require.Equal(t, test.code, sqlstate.Of(guilty.err), "%v", guilty.err)
				require.Equal(t, test.stored, guilty.stored)
			}
			if test.stored == 0 {
				require.Error(t, g.insert(t.Context(), guilty), "alone in a shared transaction")
				requireOutcome()
				g.merger.mu.Lock()
				clear(g.merger.separate)
				g.merger.mu.Unlock()
			}

			g.hold()
			var innocent []*written
			var finished []<-chan struct{}
			for i := range 5 {
				w := guilty
				if i != 2 {
					w = batchOf(g.attached(), 3, 10)
					innocent = append(innocent, w)
				}
				finished = append(finished, g.queued(t.Context(), w))
			}
			g.free(1) // one transaction for all five
			for i := range finished {
				<-finished[i]
			}
			for _, w := range innocent {
				require.NoError(t, w.err)
				require.Equal(t, 3, w.stored)
				require.False(t, g.merger.isSeparate(w.tenant))
			}
			requireOutcome()
			require.True(t, g.merger.isSeparate(guilty.tenant))

			// It passes by the shared transactions, one of which is still held, and so does what would fail them.
			g.free(maxShared - 1)
			g.hold()
			if test.stored == 0 {
				_ = g.insert(t.Context(), guilty)
				requireOutcome()
				if cure != nil {
					cure()
					require.NoError(t, g.insert(t.Context(), guilty))
					innocent = append(innocent, guilty)
				}
			}
			g.free(maxShared)
			if test.stored == 0 {
				g.requireStored(innocent...)
				return
			}
			found := g.contents()
			for i, id := range guilty.ids {
				require.Equal(t, guilty.contents[i], found[guilty.tenant][id].content)
			}
			require.Len(t, found[guilty.tenant], 3)
		})
	}
}

// A tenant whose partition is locked, with as many writers as there are shared transactions, must not keep everybody waiting.
func TestALockedTenantLeavesSharedTransactions(t *testing.T) {
	g := newRig(t, waitLimit, waitLimit)
	locked := g.attached()
	unlock := g.locked(locked)
	var waiting []*written
	var finished []<-chan struct{}
	for i := range maxShared {
		waiting = append(waiting, batchOf(locked, 3, 10))
		finished = append(finished, g.begin(t.Context(), waiting[i]))
	}
	g.waitsFor(locked, maxShared)
	g.until("each waits on its own", func(running int, _ []*write) bool { return running == 0 })
	for range 3 * maxShared {
		other := batchOf(g.attached(), 3, 10)
		require.NoError(t, g.insert(t.Context(), other))
		waiting = append(waiting, other)
	}
	for i := range finished {
		select {
		case <-finished[i]:
			t.Fatalf("it is not locked: %v", waiting[i].err)
		default:
		}
	}
	unlock()
	for i := range finished {
		<-finished[i]
		require.NoError(t, waiting[i].err)
	}
	g.requireStored(waiting...)
}

// A refusal that every tenant meets says nothing about one of them: after an outage all would write separately, just
// when there is most to do.
func TestWhatIsATenantsOwn(t *testing.T) {
	for code, own := range map[string]bool{
		"08006": false, "25006": false, "28P01": false, "53100": false, "57P01": false, "58030": false, "XX000": false,
		"57014": true, "55P03": true, "42P01": true, "23505": true, "23514": true, "22P05": true, "P0001": true, "40P01": true,
	} {
		require.Equal(t, own, isOwn(&pgconn.PgError{Code: code}), code)
	}
}

// A write that has run out of time must be let go at once, while it waits, and leave nothing behind.
func TestTimeEndsWhileWaiting(t *testing.T) {
	g := newRig(t, waitLimit, time.Second)
	g.hold()
	ctx, cancel := context.WithCancel(t.Context())
	first, gone, last := batchOf(g.attached(), 3, 10), batchOf(g.attached(), 3, 10), batchOf(g.attached(), 3, 10)
	a, b, c := g.queued(t.Context(), first), g.queued(ctx, gone), g.queued(t.Context(), last)
	cancel()
	<-b
	require.ErrorIs(t, gone.err, context.Canceled)
	g.until("two are left", func(_ int, waiting []*write) bool { return len(waiting) == 2 })
	g.free(maxShared)
	<-a
	<-c
	require.NoError(t, errors.Join(first.err, last.err))
	g.requireStored(first, last)
}

// The lead that is given to a write that has just run out of time must be given to the next, or all wait for ever.
func TestTimeoutOfTheLeaderEndsNoOtherWrite(t *testing.T) {
	g := newRig(t, waitLimit, time.Second)
	g.hold()
	var all []*written
	var finished []<-chan struct{}
	ctx, cancel := context.WithCancel(t.Context())
	for i := range 2 * maxShared {
		all = append(all, batchOf(g.attached(), 3, 10))
		finished = append(finished, g.queued(map[bool]context.Context{true: ctx, false: t.Context()}[i < maxShared], all[i]))
	}
	g.merger.mu.Lock()
	cancel()
	for range maxShared {
		g.merger.passOn()
	}
	g.merger.mu.Unlock()
	for i, w := range all {
		<-finished[i]
		if i < maxShared {
			require.ErrorIs(t, w.err, context.Canceled)
		} else {
			require.NoError(t, w.err)
		}
	}
	g.requireStored(all[maxShared:]...)
}

// While a transaction is under way, a write that has asked for it may leave: the one that leads takes nothing from the others
// with it, and one that is led gets its memory back, whatever is stored.
func TestTimeEndsInTheMiddle(t *testing.T) {
	for name, leader := range map[string]bool{"of the one that leads": true, "of one that is led": false} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, waitLimit, time.Second)
			slow := g.attached()
			open := g.gated(slow)
			g.hold()
			ctx, cancel := context.WithCancel(t.Context())
			var all []*written
			var finished []<-chan struct{}
			for i := range 4 {
				w := batchOf(g.attached(), 3, 10)
				if i == 2 {
					w.tenant = slow
				}
				leaves := i == 0 && leader || i == 1 && !leader
				all = append(all, w)
				finished = append(finished, g.queued(map[bool]context.Context{true: ctx, false: t.Context()}[leaves], w))
			}
			g.free(1)
			g.sees(1, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'`)
			cancel()
			gone := 1
			if leader {
				gone = 0
			}
			<-finished[gone]
			require.ErrorIs(t, all[gone].err, context.Canceled)
			if leader { // the others continue separately, as soon as the transaction has been rolled back
				<-finished[1]
				<-finished[3]
			}
			open()
			for i := range all {
				if <-finished[i]; i != gone {
					require.NoError(t, all[i].err)
				}
			}
			g.free(maxShared - 1)
			if _, there := g.contents()[all[gone].tenant]; !there { // nobody has promised anything
				all = slices.Delete(all, gone, gone+1)
			}
			g.requireStored(all...)
		})
	}
}

// batchesOf are what one writer writes: at most so many messages of less than so many bytes each time.
func batchesOf(tenant uuid.UUID, random *rand.Rand, rounds, messages, size int) (all []*written) {
	for range rounds {
		all = append(all, batchOf(tenant, 1+random.IntN(messages), random.IntN(size)))
	}
	return all
}

// Whenever time runs out, of whomever: what is said to be stored is there, nothing is there that was not written, and no
// shared transaction is lost.
func TestTimeEndsAtRandom(t *testing.T) {
	g := newRig(t, waitLimit, time.Second)
	const tenants, writers, rounds = 6, 4, 60
	var writing sync.WaitGroup
	var all []*written
	for i := range tenants {
		tenant := g.attached()
		for j := range writers {
			random := rand.New(rand.NewPCG(uint64(i), uint64(j)))
			mine := batchesOf(tenant, random, rounds, 4, 2000)
			all = append(all, mine...)
			writing.Go(func() {
				for _, w := range mine {
					ctx, cancel := context.WithCancel(t.Context())
					if random.IntN(3) > 0 {
						ctx, cancel = context.WithTimeout(t.Context(), time.Duration(random.IntN(8000))*time.Microsecond)
					}
					if g.insert(ctx, w) != nil && ctx.Err() == nil {
						t.Errorf("it had time: %v", w.err)
					}
					cancel()
				}
			})
		}
	}
	writing.Wait()
	g.until("nobody waits", func(running int, waiting []*write) bool { return running == 0 && len(waiting) == 0 })
	found := g.contents()
	failed := 0
	for _, w := range all {
		there := 0
		for i, id := range w.ids {
			if place, is := found[w.tenant][id]; is {
				require.Equal(t, w.contents[i], place.content)
				delete(found[w.tenant], id)
				there++
			}
		}
		if w.err != nil {
			failed++
		}
		require.True(t, there == len(w.ids) || there == 0 && w.err != nil, "%d of %d: %v", there, len(w.ids), w.err)
	}
	for _, rest := range found {
		require.Empty(t, rest)
	}
	require.Positive(t, failed)
}

// An operator, or a failover, ends connections in the middle: what was said to be stored is, and all else can be repeated
// until it is.
func TestConnectionsAreTerminated(t *testing.T) {
	g := newRig(t, waitLimit, time.Second)
	const tenants, writers, rounds, every = 5, 2, 30, 3
	failures := make(chan error, 100000)
	var all []*written
	for again := 0; len(failures) == 0; again++ { // a connection that ends between two writes costs none
		require.Less(t, again, 10)
		finished := make(chan struct{}, tenants*writers*rounds)
		var writing, killing sync.WaitGroup
		for i := range tenants {
			tenant := g.attached()
			for j := range writers {
				mine := batchesOf(tenant, rand.New(rand.NewPCG(uint64(i), uint64(j))), rounds, 20, 20_000)
				all = append(all, mine...)
				writing.Go(func() {
					for _, w := range mine {
						for g.insert(t.Context(), w) != nil {
							failures <- w.err
						}
						finished <- struct{}{}
					}
				})
			}
		}
		killing.Go(func() {
			for n := range tenants * writers * rounds {
				if <-finished; n%every != 0 {
					continue
				}
				_, err := g.operator.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
					WHERE datname = current_database() AND application_name = $1 ORDER BY state <> 'active', random() LIMIT 2`, postgres.RoleIngest)
				if err != nil {
					t.Errorf("terminate: %v", err)
				}
			}
		})
		writing.Wait()
		killing.Wait()
	}
	close(failures)
	for err := range failures {
		require.Equal(t, sqlstate.Infrastructure, sqlstate.Classify(err), "%v", err)
	}
	g.requireStored(all...)
}

// wire is a proxy in front of PostgreSQL. While mu is locked it passes nothing on.
type wire struct {
	net.Listener
	mu sync.RWMutex
}

func newWire(t *testing.T) *wire {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return &wire{Listener: listener}
}

// run passes everything on to and fro until the listener is closed and all connections are.
func (w *wire) run(server string) {
	var passing sync.WaitGroup
	defer passing.Wait()
	pass := func(to, from net.Conn) {
		buffer := make([]byte, 4<<10)
		defer func() { _, _ = to.Close(), from.Close() }() // the other direction may have done it
		for {
			n, err := from.Read(buffer)
			w.mu.RLock()
			if n > 0 {
				_, _ = to.Write(buffer[:n]) // an error comes again when reading
			}
			w.mu.RUnlock()
			if err != nil {
				return
			}
		}
	}
	for {
		client, err := w.Accept()
		if err != nil {
			return
		}
		passing.Go(func() {
			backend, err := (&net.Dialer{}).Dial("tcp", server)
			if err != nil {
				_ = client.Close() // the client sees as much
				return
			}
			passing.Go(func() { pass(backend, client) })
			pass(client, backend)
		})
	}
}

// A network or a server that freezes under traffic must hold every writer for its timeout at most; when it thaws, all
// continues, and the writes that were given up can be repeated, whether they had got through or not.
func TestTheServerFreezes(t *testing.T) {
	w := newWire(t)
	g := newRig(t, 500*time.Millisecond, 100*time.Millisecond, func(config *pgxpool.Config) {
		server := net.JoinHostPort(config.ConnConfig.Host, strconv.Itoa(int(config.ConnConfig.Port)))
		running := make(chan struct{})
		go func() {
			defer close(running)
			w.run(server)
		}()
		t.Cleanup(func() { // after the pool is closed
			require.NoError(t, w.Close())
			<-running
		})
		address, ok := w.Addr().(*net.TCPAddr)
		require.True(t, ok)
		config.ConnConfig.Host, config.ConnConfig.Port = address.IP.String(), uint16(address.Port)
	})
	repeat := func(given *written) {
		require.Eventually(t, func() bool { return g.insert(t.Context(), given) == nil }, waitLimit, tick)
	}
	var all []*written
	for i := range 8 {
		all = append(all, batchOf(g.attached(), 3, 10+i/6*10*copyFrame)) // the last ones separately
		repeat(all[i])
	}
	for range 2 { // with the connections that there were, and without
		w.mu.Lock()
		var finished []<-chan struct{}
		for _, before := range all[:8] {
			again := batchOf(before.tenant, 3, len(before.contents[0]))
			all, finished = append(all, again), append(finished, g.begin(t.Context(), again))
		}
		for i := range finished {
			<-finished[i]
			require.ErrorIs(t, all[len(all)-8+i].err, context.DeadlineExceeded)
		}
		g.until("nobody waits", func(running int, waiting []*write) bool { return running == 0 && len(waiting) == 0 })
		w.mu.Unlock()
		for _, given := range all[len(all)-8:] {
			repeat(given)
		}
	}
	g.requireStored(all...)
}

// A server that takes connections and never says a word must hold a writer for its timeout at most.
func TestTheServerIsSilent(t *testing.T) {
	w := newWire(t) // nobody accepts: the kernel does
	pool := pgtest.Operator(t, "postgres://mtm@"+w.Addr().String()+"/mtm?sslmode=disable")
	t.Cleanup(func() { require.NoError(t, w.Close()) })
	s := New(pool, 100*time.Millisecond)
	results := make(chan error, 4*maxShared)
	for range cap(results) {
		go func() {
			_, err := s.Insert(t.Context(), uuid.New(), batchOf(uuid.Nil, 3, 10).messages)
			results <- err
		}()
	}
	for range cap(results) {
		err := <-results
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, sqlstate.Infrastructure, sqlstate.Classify(err))
	}
	s.merger.mu.Lock()
	defer s.merger.mu.Unlock()
	require.Zero(t, s.merger.running)
	require.Empty(t, s.merger.waiting)
}
