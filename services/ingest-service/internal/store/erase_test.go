package store_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres/sqlstate"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

// someone is who asks for what these tests do.
func someone() audit.Origin { return audit.Origin{Actor: "alice", TokenID: "t-1", RequestID: "r-1"} }

// deadLetter records a dead letter of a message, or of one without an id.
func (f fixture) deadLetter(t *testing.T, tenant, id uuid.UUID, message *uuid.UUID) {
	t.Helper()
	_, err := f.operator.Exec(t.Context(), `INSERT INTO dead_letters (tenant_id, id, message_id, payload, reason) VALUES ($1, $2, $3, 'private', 'rejected')`,
		tenant, id, message)
	require.NoError(t, err)
}

// events are the audit events of a tenant, in their order.
func (f fixture) events(t *testing.T, tenant uuid.UUID) []string {
	t.Helper()
	rows, err := f.operator.Query(t.Context(), `SELECT concat_ws(' ', actor, token_id, request_id, action, target, before, after)
		FROM audit_events WHERE tenant_id = $1 ORDER BY epoch, xid, id`, tenant)
	require.NoError(t, err)
	events, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return events
}

// Nothing of an erased message is left, its dead letters included; another tenant's message of the same id, and everything else, stays.
func TestErase(t *testing.T) {
	f := newFixture(t)
	tenant, other := f.attached(t), f.attached(t)
	batch := messages(3)
	id := batch[1].ID
	for _, of := range []uuid.UUID{tenant, other} {
		_, err := f.store.Insert(t.Context(), of, batch)
		require.NoError(t, err)
		f.deadLetter(t, of, uuid.New(), &id)
		f.deadLetter(t, of, id, nil) // a replay would store it under this id
		f.deadLetter(t, of, uuid.New(), &batch[0].ID)
		f.deadLetter(t, of, uuid.New(), nil)
		rollUp(t, f.store, of)
	}
	erased, err := f.store.Erase(t.Context(), tenant, id, someone())
	require.NoError(t, err)
	require.Equal(t, store.Erased{Stored: true, DeadLetters: 2}, erased)
	require.Equal(t, 2, f.count(t, `SELECT count(*) FROM messages WHERE tenant_id = $1 AND id <> $2`, tenant, id))
	require.Equal(t, 2, f.count(t, `SELECT count(*) FROM messages WHERE tenant_id = $1`, tenant))
	require.Equal(t, 2, f.count(t, `SELECT count(*) FROM dead_letters WHERE tenant_id = $1`, tenant))
	require.Equal(t, 3, f.count(t, `SELECT count(*) FROM messages WHERE tenant_id = $1`, other))
	require.Equal(t, 4, f.count(t, `SELECT count(*) FROM dead_letters WHERE tenant_id = $1`, other))
	size := int64(len(batch[0].Payload))
	require.Equal(t, used{Messages: 3, Bytes: 3 * size, Removed: 1, RemovedBytes: size}, f.used(t, tenant))

	erased, err = f.store.Erase(t.Context(), tenant, id, someone())
	require.NoError(t, err)
	require.Equal(t, store.Erased{}, erased)
	require.Equal(t, []string{fmt.Sprintf(`alice t-1 r-1 message.erased /messages/%s {"stored": true, "dead_letters": 2}`, id)}, f.events(t, tenant),
		"what was not there is no event")
	require.Empty(t, f.events(t, other))

	stored, err := f.store.Insert(t.Context(), tenant, batch)
	require.NoError(t, err)
	require.Equal(t, 1, stored, "the id is free")
	rollUp(t, f.store, tenant)
	require.Equal(t, used{Messages: 4, Bytes: 4 * size, Removed: 1, RemovedBytes: size}, f.used(t, tenant))
}

// What never got further than the dead letters is erased there. A tenant that is not there has neither.
func TestEraseOfADeadLetterAlone(t *testing.T) {
	f := newFixture(t)
	tenant, id := f.attached(t), uuid.New()
	f.deadLetter(t, tenant, uuid.New(), &id)
	erased, err := f.store.Erase(t.Context(), tenant, id, someone())
	require.NoError(t, err)
	require.Equal(t, store.Erased{DeadLetters: 1}, erased)
	require.Equal(t, []string{fmt.Sprintf(`alice t-1 r-1 message.erased /messages/%s {"stored": false, "dead_letters": 1}`, id)}, f.events(t, tenant))
	erased, err = f.store.Erase(t.Context(), uuid.New(), id, someone())
	require.NoError(t, err)
	require.Equal(t, store.Erased{}, erased)
}

// A message that is not counted yet stays, with its dead letters: the sums would be wrong for ever.
func TestEraseOfWhatIsNotCounted(t *testing.T) {
	f := newFixture(t)
	tenant, batch := f.attached(t), messages(2)
	_, err := f.store.Insert(t.Context(), tenant, batch[:1])
	require.NoError(t, err)
	rollUp(t, f.store, tenant)
	_, err = f.store.Insert(t.Context(), tenant, batch[1:])
	require.NoError(t, err)
	f.deadLetter(t, tenant, uuid.New(), &batch[1].ID)
	erased, err := f.store.Erase(t.Context(), tenant, batch[1].ID, someone())
	require.NoError(t, err)
	require.Equal(t, store.Erased{Uncounted: true}, erased)
	require.Equal(t, 2, f.count(t, `SELECT count(*) FROM messages WHERE tenant_id = $1`, tenant))
	require.Equal(t, 1, f.count(t, `SELECT count(*) FROM dead_letters WHERE tenant_id = $1`, tenant))
	require.Empty(t, f.events(t, tenant))
	rollUp(t, f.store, tenant)
	erased, err = f.store.Erase(t.Context(), tenant, batch[1].ID, someone())
	require.NoError(t, err)
	require.Equal(t, store.Erased{Stored: true, DeadLetters: 1}, erased)
}

// Several requests for the same messages, and retention, which takes the oldest meanwhile: each message is removed once, and counted as
// removed once.
func TestErasesBesideEachOtherAndRetention(t *testing.T) {
	const n, erasers = 300, 4
	f := newFixture(t)
	tenant, batch := f.attached(t), messages(n)
	_, err := f.store.Insert(t.Context(), tenant, batch)
	require.NoError(t, err)
	rollUp(t, f.store, tenant)
	var erased, removed atomic.Int64
	work, ctx := errgroup.WithContext(t.Context())
	for range erasers {
		order := rand.Perm(n)
		work.Go(func() error {
			for _, i := range order[:n/2] {
				step, err := f.store.Erase(ctx, tenant, batch[i].ID, someone())
				if err != nil {
					return err
				}
				if step.Stored {
					erased.Add(1)
				}
			}
			return nil
		})
	}
	work.Go(func() error {
		for left := range 50 { // down to a part of the messages, by their bytes
			gone, err := f.retain(ctx, tenant, int64(n-left*5)*6)
			if err != nil {
				return err
			}
			removed.Add(gone)
		}
		return nil
	})
	require.NoError(t, work.Wait())
	left := int64(f.count(t, `SELECT count(*) FROM messages WHERE tenant_id = $1`, tenant))
	require.EqualValues(t, n, left+erased.Load()+removed.Load())
	require.Equal(t, erased.Load()+removed.Load(), f.used(t, tenant).Removed)
	require.Len(t, f.events(t, tenant), int(erased.Load()))
}

// retain is a step of retention that leaves so many bytes at most.
func (f fixture) retain(ctx context.Context, tenant uuid.UUID, bytes int64) (removed int64, err error) {
	err = pgx.BeginFunc(ctx, f.operator, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT set_config('app.tenant_id', $1, true)`, tenant.String()); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT removed FROM retain($1, 0, $2)`, tenant, bytes).Scan(&removed)
	})
	return removed, err
}

// A message that the broker delivers again while it is erased is stored again or not, as either comes first; what is stored and what is
// counted agree.
func TestEraseBesideRedelivery(t *testing.T) {
	const times = 100
	f := newFixture(t)
	tenant, batch := f.attached(t), messages(1)
	var stored, erased atomic.Int64
	work, ctx := errgroup.WithContext(t.Context())
	for redelivery := range 3 {
		work.Go(func() error {
			for range times {
				n, err := f.store.Insert(ctx, tenant, []store.Row{{ID: batch[0].ID, Payload: batch[0].Payload, Again: redelivery > 0}})
				if err != nil {
					return err
				}
				stored.Add(int64(n))
			}
			return nil
		})
	}
	for range 2 {
		work.Go(func() error {
			for range times {
				step, err := f.store.Erase(ctx, tenant, batch[0].ID, someone())
				if err != nil {
					return err
				}
				if step.Stored {
					erased.Add(1)
				}
				// An insert or another one may hold what it needs for longer than it waits.
				if _, err := f.store.RollUp(ctx, tenant); err != nil && !sqlstate.Is(err, pgerrcode.LockNotAvailable) {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, work.Wait())
	rollUp(t, f.store, tenant)
	sums := f.used(t, tenant)
	require.Equal(t, stored.Load(), sums.Messages)
	require.Equal(t, erased.Load(), sums.Removed)
	require.EqualValues(t, sums.Messages-sums.Removed, f.count(t, `SELECT count(*) FROM messages WHERE tenant_id = $1`, tenant))
	require.Positive(t, erased.Load(), "this test has shown nothing")
}

// A tenant is deleted while its messages are erased: none is counted twice or not at all, and nothing of it is left.
func TestEraseBesideTheDeletionOfTheTenant(t *testing.T) {
	const n = 200
	f := newFixture(t)
	tenant, batch := f.attached(t), messages(n)
	_, err := f.store.Insert(t.Context(), tenant, batch)
	require.NoError(t, err)
	for i := range batch {
		f.deadLetter(t, tenant, uuid.New(), &batch[i].ID)
	}
	rollUp(t, f.store, tenant)
	var erased atomic.Int64
	begun := make(chan struct{})
	work, ctx := errgroup.WithContext(t.Context())
	for part := range 2 {
		work.Go(func() error {
			for i := part; i < n; i += 2 {
				step, err := f.store.Erase(ctx, tenant, batch[i].ID, someone())
				if sqlstate.Is(err, pgerrcode.UndefinedTable) { // it has just gone
					continue
				}
				if err != nil {
					return err
				}
				if step.Stored && erased.Add(1) == n/10 {
					close(begun)
				}
			}
			return nil
		})
	}
	select {
	case <-begun:
	case <-ctx.Done():
	}
	require.NoError(t, f.store.Drop(t.Context(), tenant))
	require.NoError(t, work.Wait())
	sums := f.used(t, tenant)
	require.EqualValues(t, n, sums.Messages)
	require.Equal(t, erased.Load(), sums.Removed)
	require.Zero(t, f.count(t, `SELECT count(*) FROM messages WHERE tenant_id = $1`, tenant))
	require.Zero(t, f.count(t, `SELECT count(*) FROM dead_letters WHERE tenant_id = $1`, tenant))
	step, err := f.store.Erase(t.Context(), tenant, batch[0].ID, someone())
	require.NoError(t, err)
	require.Equal(t, store.Erased{}, step)
}
