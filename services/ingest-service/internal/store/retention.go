package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// Retained is the outcome of one step of retention.
type Retained struct {
	// Messages that were removed, and Bytes as the usage has counted them.
	Messages, Bytes int64
	// More can be removed right now, or somebody else is removing.
	More bool
	// Overdue is for how long the oldest message had been older than it may be when the step began; 0 if it was not.
	Overdue time.Duration
}

// Retain removes the oldest messages of tenant that are older than RetentionSeconds, or beyond RetentionBytes: 500 at most, or those that
// make 1 MiB. What the registry has of these limits counts as well: the laxer one. All of a step is removed, or nothing. Only what is
// counted for the usage can be removed, see [Store.RollUp]. A tenant without a partition has nothing.
func (s *Store) Retain(ctx context.Context, tenant uuid.UUID, limits contract.Limits) (step Retained, err error) {
	var overdue float64
	err = s.inBackground(ctx, tenant, `SELECT removed, freed, more, overdue FROM retain($1, $2, $3)`,
		[]any{tenant, limits.RetentionSeconds, limits.RetentionBytes}, &step.Messages, &step.Bytes, &step.More, &overdue)
	if err != nil {
		return Retained{}, fmt.Errorf("remove old messages: %w", err)
	}
	step.Overdue = time.Duration(overdue * float64(time.Second))
	return step, nil
}

// RetainDeadLetters removes the dead letters of tenant of which the last failure is longer ago than DeadLetterRetentionSeconds: a step,
// as [Store.Retain] does. more says that there are others.
func (s *Store) RetainDeadLetters(ctx context.Context, tenant uuid.UUID, limits contract.Limits) (removed int64, more bool, err error) {
	err = s.inBackground(ctx, tenant, `SELECT removed, more FROM retain_dead_letters($1, $2)`,
		[]any{tenant, limits.DeadLetterRetentionSeconds}, &removed, &more)
	if err != nil {
		return 0, false, fmt.Errorf("remove old dead letters: %w", err)
	}
	return removed, more, nil
}

// backgroundSettings spares the wait for the disk: all that a step does is in one transaction, so a crash of the server that loses it loses
// nothing, and whatever is committed after it is on disk after it as well. A tenant whose partition somebody locks holds up no other.
const backgroundSettings = `SELECT set_config('app.tenant_id', $1, true), set_config('synchronous_commit', 'off', true), set_config('lock_timeout', '100', true)`

// inBackground reads the one row of a step of work that can be repeated, in a transaction of tenant and one round trip.
func (s *Store) inBackground(ctx context.Context, tenant uuid.UUID, query string, args []any, into ...any) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var batch pgx.Batch
	batch.Queue(backgroundSettings, tenant.String())
	batch.Queue(query, args...).QueryRow(func(row pgx.Row) error { return row.Scan(into...) })
	return s.pool.SendBatch(ctx, &batch).Close()
}
