// Package store reads the messages of one tenant at a time from PostgreSQL, as the role that may only read.
//
// Messages have one order, the reading order: (epoch, xid, ord), where xid is the id of the transaction that wrote the
// message, ord its place in that transaction, and epoch rises whenever transaction ids may have started again lower
// (another cluster after a restore, another timeline). A page shows only what lies before the horizon: the current
// epoch and the oldest transaction of the cluster that is still running. Everything before the horizon is final; a
// message that commits later takes its place behind it. So a reader that follows the order from page to page meets every
// message exactly once, however long its writer took to commit. created_at does not give that: it is when the writer
// began, and a page can pass a message that is about to appear behind it.
//
// The price is that a message shows up once every transaction has ended that was writing when it was written, in
// whatever database of the cluster: see [Horizon] for how far behind that is.
//
// Reading one message by its id needs no order and shows it from its commit on.
//
// Every statement runs in a read-only transaction that is bound to the tenant by row-level security, and names the
// tenant in its own condition as well, so that one partition is planned, locked and read.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"gorm.io/gorm"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
)

// ErrNotStored says that the tenant has no message of that id, now: it may have been accepted and not be stored yet.
var ErrNotStored = errors.New("the message is not stored")

// Message is a stored message.
type Message struct {
	ID uuid.UUID
	// Payload is the JSON text that PostgreSQL made of its jsonb, to be passed on as it is.
	Payload []byte
	// Type, Key and Attributes are the envelope; nil: not set. Attributes are the JSON text of an object of strings.
	Type, Key, Attributes []byte
	// CreatedAt is when the transaction that stored the message began, in UTC, to the microsecond.
	CreatedAt time.Time
	// Position is the place of the message in the reading order.
	Position Position
}

// Reader reads messages. It is safe for concurrent use.
type Reader struct {
	db *gorm.DB
	// pageBytes is [PageBytes]; tests make it smaller.
	pageBytes int
	heavy     heavyTenants
	// newest is the current epoch as the last page found it, so that the statement of the next one can name it.
	newest atomic.Int32
}

// New makes a Reader of a database that was opened as [postgres.RoleQuery].
func New(db *gorm.DB) *Reader {
	r := &Reader{db: db, pageBytes: PageBytes}
	r.newest.Store(1) // that of a database that was never restored; else the first page finds out
	return r
}

const messageSQL = `SELECT id, payload, type, key, attributes, created_at, epoch, xid, ord FROM messages WHERE tenant_id = $1 AND id = $2`

// Message reads the message of tenant with that id, or returns [ErrNotStored].
func (r *Reader) Message(ctx context.Context, tenant, id uuid.UUID) (Message, error) {
	var message Message
	err := r.inTenant(ctx, tenant, func(tx *gorm.DB) (err error) {
		message, err = scanMessage(tx, tenant, id)
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return Message{}, ErrNotStored
	}
	if err != nil {
		return Message{}, fmt.Errorf("read message: %w", err)
	}
	message.CreatedAt = message.CreatedAt.UTC()
	return message, nil
}

func scanMessage(tx *gorm.DB, tenant, id uuid.UUID) (m Message, err error) {
	err = tx.Raw(messageSQL, tenant, id).Row().
		Scan(&m.ID, &m.Payload, &m.Type, &m.Key, &m.Attributes, &m.CreatedAt, &m.Position.Epoch, &m.Position.Xid, &m.Position.Ord)
	return m, err
}

func (r *Reader) inTenant(ctx context.Context, tenant uuid.UUID, read func(tx *gorm.DB) error) error {
	return postgres.WithTenant(ctx, r.db, tenant, read, &sql.TxOptions{ReadOnly: true})
}
