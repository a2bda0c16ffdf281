package store

import (
	"context"
	"database/sql"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"gorm.io/gorm"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
)

// onConnection lends the pgx connection under one of GORM's to read, which uses db for no more than to make statements.
// It is in no transaction: database/sql hangs if read panics in one.
func (r *Reader) onConnection(ctx context.Context, read func(db *gorm.DB, connection *pgx.Conn) error) error {
	return r.db.WithContext(ctx).Connection(func(db *gorm.DB) error {
		lent := db.Statement.ConnPool.(*sql.Conn) //nolint:errcheck // that is what Connection sets
		return lent.Raw(func(driver any) error {
			return read(db, driver.(*stdlib.Conn).Conn()) //nolint:errcheck // the driver of package postgres
		})
	})
}

// bind binds the current transaction to a tenant, makes it read-only, and has every list read in the order of its index. A
// plan that sorts reads all that there may be first, and the planner takes to it where it knows nothing of a partition: after a
// restore, say, until that is analyzed.
const bind = postgres.SetTenant + `, set_config('transaction_read_only', 'on', true), set_config('enable_sort', 'off', true)`

// bindAndAsk binds and asks for the current epoch. What a statement after it in the same transaction sees is as new at
// the least: an epoch that has begun in between only makes it treat the one before as current a last time, and whatever
// that one has below the horizon is final.
const bindAndAsk = bind + `, reading_epoch()`

// bound begins a batch of statements that is a transaction of its own, read-only and bound to tenant: all of a batch
// goes to the server at once, and PostgreSQL makes one transaction of what comes before the next synchronization. It
// ends with the batch, also after an error.
func bound(tenant uuid.UUID) *pgx.Batch {
	var batch pgx.Batch
	batch.Queue(bind, tenant.String())
	return &batch
}
