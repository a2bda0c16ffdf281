// Package store writes messages into PostgreSQL, and makes and drops the partitions that they live in.
//
// A write is one transaction in one round trip. Writing a message again, under the same tenant and id, changes nothing:
// the first one wins. That is what makes it safe for everything above to repeat whatever it is not sure of.
package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres/sqlstate"
)

// Row is what is stored of a delivery.
type Row struct {
	ID uuid.UUID
	// Payload is one JSON value that [contract.CheckPayload] has passed.
	Payload []byte
	// Envelope has passed [contract.Envelope.Check]; nil if the message has none. What of it is empty is stored as NULL.
	Envelope *contract.Envelope
	// Again says that the message may be stored already. Without it that costs one more statement to find out.
	Again bool
}

// Size is what is stored as the size of the message: that of payload and envelope as they were accepted.
func (m *Row) Size() int { return len(m.Payload) + m.Envelope.Size() }

// Store is the access of ingest-service to its tables. It is safe for concurrent use.
type Store struct {
	pool *pgxpool.Pool
	// timeout bounds one write, also when the server is frozen and never answers.
	timeout time.Duration
	merger  *merger
	written writtenTenants
}

// New returns a store on pool. A write that takes longer than timeout is given up; whether it was committed is then not
// known, and it is to be repeated.
func New(pool *pgxpool.Pool, timeout time.Duration) *Store {
	return &Store{pool: pool, timeout: timeout, merger: newMerger(pool)}
}

// Insert commits messages under tenant and returns how many of them were new. All are stored or none is. Classify
// the error with [sqlstate.Classify].
//
// Messages that have not been delivered before are as a rule not stored either: they are copied, which knows no
// conflicts and costs half as much. Should one of them be there all the same, all of them are inserted instead.
func (s *Store) Insert(ctx context.Context, tenant uuid.UUID, messages []Row) (stored int, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	// After an error as well: the commit may have been done.
	defer s.written.mark(tenant)
	if !slices.ContainsFunc(messages, func(m Row) bool { return m.Again }) {
		err := s.merger.copy(ctx, tenant, messages)
		if err == nil {
			return len(messages), nil
		}
		if !sqlstate.Is(err, pgerrcode.UniqueViolation) { // that of a message that is stored already
			return 0, fmt.Errorf("copy %d messages: %w", len(messages), err)
		}
	}
	if stored, err = insert(ctx, s.pool, tenant, messages); err != nil {
		return 0, fmt.Errorf("insert %d messages: %w", len(messages), err)
	}
	return stored, nil
}
