package store

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// Deterministic: a message whose transaction began first and commits last must not appear behind a reader's back.
func TestNothingAppearsBehindAReader(t *testing.T) {
	f := newFixture(t)
	tenant := f.tenant(t)
	query := Query{Tenant: tenant, Order: Ascending, Limit: 10}

	early := f.begin(t)
	first, err := store(t.Context(), early, tenant, 0, `"early"`)
	require.NoError(t, err)
	second, err := store(t.Context(), f.operator, tenant, 0, `"late"`)
	require.NoError(t, err)

	require.Empty(t, f.page(t, query).Messages, "the late one waits for the early one")
	require.Empty(t, f.page(t, Query{Tenant: tenant, Order: Descending, Limit: 10}).Messages)
	_, err = f.reader.Message(t.Context(), tenant, second)
	require.NoError(t, err, "by its id it is there at once")

	require.NoError(t, early.Commit(t.Context()))
	f.awaitHorizon(t)
	require.Equal(t, []string{first.String(), second.String()}, identities(f.page(t, query).Messages))
	query.Order = Descending
	require.Equal(t, []string{second.String(), first.String()}, identities(f.page(t, query).Messages))
}

// After a restore into another cluster transaction ids start again lower, and new messages still come last.
func TestANewEpochComesLast(t *testing.T) {
	f := newFixture(t)
	tenant := f.tenant(t)
	restored := series(25, 10)
	for i := range restored {
		restored[i].Position.Xid += 1 << 40 // far ahead of this cluster
	}
	f.place(t, tenant, restored)
	query := Query{Tenant: tenant, Order: Ascending, Limit: 7}
	require.Empty(t, f.walk(t, query), "the epoch they belong to is still the current one")

	f.newEpoch(t)
	id, err := store(t.Context(), f.operator, tenant, 0, `"new"`)
	require.NoError(t, err)
	f.awaitHorizon(t)
	want := append(identities(restored), id.String())
	require.Equal(t, want, identities(f.walk(t, query)))
	query.Order = Descending
	slices.Reverse(want)
	require.Equal(t, want, identities(f.walk(t, query)))
}

// progress lets writers wait for the reader: a slow transaction stays open until some pages have been read.
type progress struct {
	mu    sync.Mutex
	moved *sync.Cond
	pages int
	over  bool // nobody reads any more
}

func newProgress() *progress {
	p := &progress{}
	p.moved = sync.NewCond(&p.mu)
	return p
}

func (p *progress) step() {
	p.mu.Lock()
	p.pages++
	p.mu.Unlock()
	p.moved.Broadcast()
}

func (p *progress) end() {
	p.mu.Lock()
	p.over = true
	p.mu.Unlock()
	p.moved.Broadcast()
}

func (p *progress) await(pages int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for goal := p.pages + pages; p.pages < goal && !p.over; {
		p.moved.Wait()
	}
}

var errRollback = errors.New("this transaction is to be rolled back")

// The promise of the contract: eight writers, some slow, some rolled back, committing in any order, and a reader that
// follows them meets every committed message exactly once; a reader that goes backwards meanwhile sees the exact reverse.
func TestFollowingWriters(t *testing.T) {
	const writers, transactions = 8, 40
	f := newFixture(t)
	tenant, read := f.tenant(t), newProgress()
	t.Cleanup(read.end)

	var mu sync.Mutex
	committed := map[string]bool{}
	work, ctx := errgroup.WithContext(t.Context())
	for range writers {
		work.Go(func() error {
			for range transactions {
				ids, err := f.writeOnce(ctx, tenant, read)
				if err != nil {
					return err
				}
				mu.Lock()
				for _, id := range ids {
					committed[id] = true
				}
				mu.Unlock()
			}
			return nil
		})
	}
	written := make(chan error, 1)
	go func() { written <- work.Wait() }()

	var backwards [][]Message // what walks in descending order gave while the writers were at work
	var met []Message
	query, finished := Query{Tenant: tenant, Order: Ascending}, false
	for {
		query.Limit = 1 + rand.IntN(40)
		page := f.page(t, query)
		read.step()
		if n := len(page.Messages); n > 0 {
			met = append(met, page.Messages...)
			query.After = &page.Messages[n-1].Position
			if len(met)%5 == 0 {
				backwards = append(backwards, f.walk(t, Query{Tenant: tenant, Order: Descending, Limit: query.Limit}))
			}
			continue
		}
		if finished {
			break
		}
		select {
		case err := <-written:
			require.NoError(t, err)
			f.awaitHorizon(t)
			finished = true // now the next empty page is the end
		default:
		}
	}

	require.True(t, slices.IsSortedFunc(met, func(a, b Message) int { return a.Position.Compare(b.Position) }))
	require.Len(t, met, len(committed), "as many messages as were committed")
	for _, id := range identities(met) {
		require.True(t, committed[id], "message %s was met twice, or was never committed", id)
		delete(committed, id)
	}
	require.NotEmpty(t, backwards)
	for _, walk := range backwards {
		slices.Reverse(walk)
		require.Equal(t, identities(met[:len(walk)]), identities(walk))
	}
}

// writeOnce is one transaction of up to four messages, of which one in five is rolled back and one in five is slow. It
// gives the ids that it committed.
func (f *fixture) writeOnce(ctx context.Context, tenant uuid.UUID, read *progress) ([]string, error) {
	var ids []string
	err := pgx.BeginFunc(ctx, f.operator, func(tx pgx.Tx) error {
		for ord := range 1 + rand.IntN(4) {
			id, err := store(ctx, tx, tenant, ord, `{"follow": true}`)
			if err != nil {
				return err
			}
			ids = append(ids, id.String())
			if ord == 0 && rand.IntN(5) == 0 {
				read.await(3)
			}
		}
		if rand.IntN(5) == 0 {
			return errRollback
		}
		return nil
	})
	if errors.Is(err, errRollback) {
		return nil, nil
	}
	return ids, err
}
