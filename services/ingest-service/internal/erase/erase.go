// Package erase removes single messages by their ids, with their dead letters: for a person who wants what is stored of him to be
// forgotten.
//
// What is on its way is not found: a message that is still in its tenant's queue, or waits for another attempt, will be stored, or
// become a dead letter, and can be erased then. The id of an erased message is not remembered, so a message that comes again under
// it is stored again.
//
// The usage of tenants is counted along the stored rows, so what is removed has to be counted before ([store.Store.RollUp]). A message is
// counted within seconds, and by the request that wants it erased if that is earlier.
package erase

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres/sqlstate"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

// ErrNotStored says that there is neither a stored message of that id nor a dead letter of it.
var ErrNotStored = errors.New("no message of this id is stored")

// ErrUncounted says that the message is stored and could not be counted in time: a transaction that is older than it is still open.
var ErrUncounted = errors.New("the message is not counted for the usage of its tenant yet")

// Pauses between the tries to count a message.
const (
	firstPause   = 10 * time.Millisecond
	longestPause = 200 * time.Millisecond
)

// Store removes and counts messages; store.Store is one.
type Store interface {
	Erase(ctx context.Context, tenant, id uuid.UUID, by audit.Origin) (store.Erased, error)
	RollUp(ctx context.Context, tenant uuid.UUID) (store.RolledUp, error)
}

// Eraser erases messages. It is safe for concurrent use.
type Eraser struct {
	store Store
	wait  time.Duration
}

// New returns an eraser that waits so long for a message to be counted.
func New(store Store, wait time.Duration) *Eraser { return &Eraser{store: store, wait: wait} }

// Erase removes a message of tenant, as by asked for it. The errors are [ErrNotStored], [ErrUncounted] and those of the database; after
// one of the latter it may be done.
func (e *Eraser) Erase(ctx context.Context, tenant, id uuid.UUID, by audit.Origin) error {
	waiting, cancel := context.WithTimeout(ctx, e.wait)
	defer cancel()
	for pauses := retry.Backoff(firstPause, longestPause); ; {
		erased, err := e.store.Erase(ctx, tenant, id, by)
		switch {
		case sqlstate.Is(err, pgerrcode.DeadlockDetected, pgerrcode.UndefinedTable): // rolled back in favor of another one, or the tenant was just dropped
		case err != nil:
			return err
		case erased.Uncounted:
			err = errors.Join(ErrUncounted, e.count(waiting, tenant))
		case !erased.Stored && erased.DeadLetters == 0:
			return ErrNotStored
		default:
			return nil
		}
		if retry.Sleep(waiting, pauses.NextBackOff()) != nil {
			return err
		}
	}
}

// count counts what can be counted of tenant at the moment.
func (e *Eraser) count(ctx context.Context, tenant uuid.UUID) error {
	for {
		step, err := e.store.RollUp(ctx, tenant)
		if err != nil || !step.More || step.Counted == 0 { // if another instance is at it, that is as good
			return err
		}
	}
}
