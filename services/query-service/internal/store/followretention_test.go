package store

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// visit is a page as a reader that follows has got it.
type visit struct {
	page
	query Query
	// boundary is up to where retention had removed when the page was there, or somewhat later.
	boundary Position
}

// retained is a tenant of which everything that was ever committed is known, beside writers, readers, retention and erasure.
type retained struct {
	*fixture
	tenant          uuid.UUID
	reads, removals *progress

	mu     sync.Mutex
	erased map[uuid.UUID]bool // guarded by mu
}

func newRetained(t *testing.T) *retained {
	t.Helper()
	r := &retained{fixture: newFixture(t), reads: newProgress(), removals: newProgress(), erased: map[uuid.UUID]bool{}}
	t.Cleanup(r.reads.end)
	t.Cleanup(r.removals.end)
	// In the transaction that writes the message: what is rolled back is in neither.
	r.exec(t, `CREATE TABLE written (id uuid PRIMARY KEY, epoch integer, xid xid8, ord integer)`)
	r.exec(t, `CREATE FUNCTION note_written() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN INSERT INTO written VALUES (NEW.id, NEW.epoch, NEW.xid, NEW.ord); RETURN NULL; END $$`)
	r.exec(t, `CREATE TRIGGER note_written AFTER INSERT ON messages FOR EACH ROW EXECUTE FUNCTION note_written()`)
	r.tenant = r.fixture.tenant(t)
	return r
}

// written are all messages that were ever committed, in the reading order.
func (r *retained) written(t *testing.T) (all []Message) {
	t.Helper()
	rows, err := r.operator.Query(t.Context(), `SELECT id, epoch, xid, ord FROM written ORDER BY epoch, xid, ord`)
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var m Message
		require.NoError(t, rows.Scan(&m.ID, &m.Position.Epoch, &m.Position.Xid, &m.Position.Ord))
		all = append(all, m)
	}
	require.NoError(t, rows.Err())
	return all
}

// removeOnce counts what can be counted, and then removes the oldest messages until a part of them is left, or erases one.
func (r *retained) removeOnce(ctx context.Context) error {
	var counted, removed int64
	if err := r.asTenant(ctx, r.tenant, []any{&counted}, `SELECT counted FROM usage_roll_up($1, 10000)`, r.tenant); err != nil {
		return err
	}
	if rand.IntN(3) > 0 {
		return r.asTenant(ctx, r.tenant, []any{&removed}, `SELECT removed FROM retain($1, 0, 1 + (SELECT ($2::float8 * (messages - removed_messages))::bigint * 16
			FROM usage_positions WHERE tenant_id = $1))`, r.tenant, rand.Float64())
	}
	var id *uuid.UUID
	var stored bool
	err := r.asTenant(ctx, r.tenant, []any{&id}, `SELECT (SELECT id FROM messages WHERE tenant_id = $1 ORDER BY random() LIMIT 1)`, r.tenant)
	if err != nil || id == nil {
		return err
	}
	err = r.asTenant(ctx, r.tenant, []any{&stored}, `SELECT erased FROM erase_message($1, $2)`, r.tenant, *id)
	if stored {
		r.mu.Lock()
		r.erased[*id] = true
		r.mu.Unlock()
	}
	return err
}

// boundary is up to where retention has removed.
func (r *retained) boundary(t *testing.T) (p Position) {
	t.Helper()
	require.NoError(t, r.operator.QueryRow(t.Context(), `SELECT coalesce(max(epoch), 0), coalesce(max(xid::text::bigint), 0), coalesce(max(ord), 0)
		FROM retention_positions WHERE tenant_id = $1`, r.tenant).Scan(&p.Epoch, &p.Xid, &p.Ord))
	return p
}

// visit reads the next page of a reader, and moves its query behind it.
func (r *retained) visit(t *testing.T, query *Query) visit {
	t.Helper()
	query.Limit = 1 + rand.IntN(40)
	r.reader.heavy.set(r.tenant, rand.IntN(2) == 0) // then a page may be of several snapshots
	v := visit{page: r.page(t, *query), query: *query}
	v.boundary = r.boundary(t)
	if v.Last != nil {
		query.After = v.Last
	}
	query.Resumed = true
	return v
}

// backwards walks to the end in descending order.
func (r *retained) backwards(t *testing.T) (visits []visit) {
	t.Helper()
	query := Query{Tenant: r.tenant, Order: Descending}
	for {
		visits = append(visits, r.visit(t, &query))
		if !visits[len(visits)-1].More {
			return visits
		}
	}
}

// follow reads in ascending order until done is closed and nothing is left, with walks in descending order meanwhile. Now and then
// it is slower than retention.
func (r *retained) follow(t *testing.T, done <-chan struct{}) (visits []visit, backwards [][]visit) {
	t.Helper()
	query, finished := Query{Tenant: r.tenant, Order: Ascending, Resumed: true}, false
	for {
		v := r.visit(t, &query)
		visits = append(visits, v)
		r.reads.step()
		if rand.IntN(10) == 0 {
			r.removals.await(1 + rand.IntN(4))
		}
		if rand.IntN(10) == 0 {
			backwards = append(backwards, r.backwards(t))
		}
		if len(v.Messages) > 0 || v.Gap {
			continue
		}
		if finished {
			return visits, backwards
		}
		select {
		case <-done:
			r.awaitHorizon(t)
			finished = true // now the next empty page is the end
		default:
		}
	}
}

// The promise of the contract, with retention and erasure beside it: in the time of two epochs eight writers commit in any order. What a
// reader reads is, in order and once, every message that was kept when it read; where one was removed before that by retention, and only
// there, it is told of a gap. A reader that goes backwards meets every message down to the last one that is kept when it gets there.
func TestFollowingWritersBesideRetention(t *testing.T) {
	const writers, transactions = 8, 20
	r := newRetained(t)
	done, stop := make(chan struct{}), make(chan struct{})
	work, ctx := errgroup.WithContext(t.Context())
	work.Go(func() error {
		defer r.removals.end()
		for {
			select {
			case <-stop:
				return nil
			default:
			}
			if err := r.removeOnce(ctx); err != nil {
				return err
			}
			r.removals.step()
		}
	})
	work.Go(func() error {
		defer close(done)
		defer close(stop)
		for epoch := range 2 {
			if epoch > 0 {
				if _, err := r.operator.Exec(ctx, newEpochSQL); err != nil {
					return err
				}
			}
			writing, ctx := errgroup.WithContext(ctx)
			for range writers {
				writing.Go(func() error {
					for range transactions {
						if _, err := r.writeOnce(ctx, r.tenant, r.reads); err != nil {
							return err
						}
					}
					return nil
				})
			}
			if err := writing.Wait(); err != nil {
				return err
			}
		}
		return nil
	})
	visits, backwards := r.follow(t, done)
	require.NoError(t, work.Wait())

	all := r.written(t)
	places := make(map[uuid.UUID]Position, len(all))
	for _, m := range all {
		places[m.ID] = m.Position
	}
	for _, v := range slices.Concat(slices.Concat(backwards...), visits) {
		for _, m := range v.Messages {
			require.Equal(t, places[m.ID], m.Position, "a message that was never committed")
		}
	}
	gaps, met := r.requireForwards(t, all, visits)
	t.Logf("%d messages, %d of them erased; read in ascending order: %d, in %d pages with %d gaps; %d walks backwards",
		len(all), len(r.erased), met, len(visits), gaps, len(backwards))
	require.Positive(t, gaps, "retention has never overtaken the reader: this test has shown nothing")
	require.NotEmpty(t, backwards)
	for _, walk := range backwards {
		r.requireBackwards(t, all, walk)
	}
}

// between are the messages of all between two positions, without those that were erased.
func (r *retained) between(all []Message, low, high Position) (missing []Message) {
	from, _ := slices.BinarySearchFunc(all, low, func(m Message, p Position) int { return m.Position.Compare(p) })
	for _, m := range all[from:] {
		if m.Position.Compare(high) >= 0 {
			break
		}
		if m.Position != low && !r.erased[m.ID] {
			missing = append(missing, m)
		}
	}
	return missing
}

// beyond is behind all messages.
var beyond = Position{Epoch: 1 << 30} //nolint:gochecknoglobals // a fixed value of a type that has no constants

// requireForwards holds what a reader in ascending order has met against all messages, and returns how many gaps and messages these were.
func (r *retained) requireForwards(t *testing.T, all []Message, visits []visit) (gaps, met int) {
	t.Helper()
	var at Position
	for i, v := range visits {
		if v.Gap {
			gaps++
		}
		to := v.Last
		if len(v.Messages) > 0 {
			to = &v.Messages[0].Position
		}
		if to == nil {
			require.False(t, v.Gap)
			continue
		}
		high := *to
		if len(v.Messages) == 0 {
			high.Ord++ // the cursor has passed that one, too
		}
		missing := r.between(all, at, high)
		require.Equal(t, v.Gap, len(missing) > 0, "page %d: removed before they were read, and told: %v", i, missing)
		for _, m := range missing {
			require.LessOrEqual(t, m.Position.Compare(v.boundary), 0, "page %d: a message that is kept was passed", i)
		}
		require.Positive(t, to.Compare(at), "page %d: met twice, or out of order", i)
		at = *to
		for _, m := range v.Messages {
			require.Empty(t, r.between(all, at, m.Position), "page %d: passed without a gap", i)
			require.True(t, m.Position == *to || m.Position.Compare(at) > 0, "page %d: met twice, or out of order", i)
			at = m.Position
			met++
		}
	}
	require.Empty(t, r.between(all, at, beyond), "nothing is left")
	return gaps, met
}

// requireBackwards holds a walk in descending order against all messages.
func (r *retained) requireBackwards(t *testing.T, all []Message, walk []visit) {
	t.Helper()
	at := beyond
	for _, v := range walk {
		if v.Gap {
			require.Empty(t, v.Messages, "retention comes from the other side")
			require.NotNil(t, v.query.After)
		}
		for _, m := range v.Messages {
			require.Negative(t, m.Position.Compare(at))
			if at != beyond {
				require.Empty(t, r.between(all, m.Position, at), "between two messages of a walk")
			}
			at = m.Position
		}
	}
	if at == beyond {
		return // nothing was readable yet
	}
	for _, m := range r.between(all, Position{}, at) {
		require.LessOrEqual(t, m.Position.Compare(walk[len(walk)-1].boundary), 0, "a message that is kept was not met")
	}
}
