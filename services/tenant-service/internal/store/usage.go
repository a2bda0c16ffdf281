package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/google/uuid"
	"gorm.io/gorm"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

// Usage returns what a tenant has used in a window, and what it has stored now, as of one moment. It is [tenant.ErrNotFound] for a
// tenant that there never was and, unless deleted is set, for one that was deleted. ingest-service counts it.
func (s *Store) Usage(ctx context.Context, id uuid.UUID, w tenant.Window, deleted bool) (u tenant.Usage, err error) {
	db, done := s.session(ctx)
	defer done()
	//nolint:contextcheck // it is that of ctx, with the deadline of the operation
	err = postgres.WithTenant(db.Statement.Context, db, id, func(tx *gorm.DB) error {
		var t tenant.Tenant
		if err := tx.Take(&t, "id = ?", id).Error; err != nil {
			return err
		}
		if t.State == tenant.Deleted && !deleted {
			return tenant.ErrNotFound
		}
		var now struct {
			Messages, Bytes int64
			CountedUntil    *time.Time
		}
		err := tx.Raw(`SELECT messages - removed_messages AS messages, bytes - removed_bytes AS bytes, counted_until
			FROM usage_positions WHERE tenant_id = ?`, id).Scan(&now).Error
		if err != nil {
			return err
		}
		u.StoredMessages, u.StoredBytes, u.CountedUntil = now.Messages, now.Bytes, now.CountedUntil
		return tx.Raw(`SELECT date_trunc(?, hour, 'UTC') AS "from", sum(messages)::bigint AS messages, sum(bytes)::bigint AS bytes,
				sum(delivered)::bigint AS delivered, sum(dead_letters)::bigint AS dead_letters
			FROM usage_hours WHERE tenant_id = ? AND hour >= ? AND hour < ? GROUP BY 1 ORDER BY 1`,
			string(w.Step), id, w.From, w.To).Scan(&u.Steps).Error
	}, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return tenant.Usage{}, wrap("read the usage", err)
	}
	for i := range u.Steps {
		u.Steps[i].From = u.Steps[i].From.UTC()
	}
	return u, nil
}
