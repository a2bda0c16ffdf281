// Package store keeps the registry of tenants in PostgreSQL, in the table tenants, through GORM.
//
// It guarantees that changes of one tenant happen one after the other (they lock its row), that a change is told to
// the relay after its commit, that its audit event is committed with it, and that an id is used once: the rows of deleted tenants
// stay.
package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"
	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres/sqlstate"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

// timeout bounds an operation, also where the server is frozen and answers nothing. It is a little longer than a
// statement is allowed to run by default, so that a slow statement is reported as what it is.
const timeout = 16 * time.Second

// Store is the registry. It is safe for concurrent use. Every operation gives up after 16 seconds, or when its context
// ends; a registry that cannot be reached is [tenant.ErrUnavailable].
type Store struct {
	db      *gorm.DB
	changed func(tenant.Tenant)
}

// New makes a store on db, whose connections act as the role of this service. changed is told after every committed change
// what became of the tenant, and must not block.
func New(db *gorm.DB, changed func(tenant.Tenant)) *Store { return &Store{db: db, changed: changed} }

// session is the database for one operation; done releases its deadline.
func (s *Store) session(ctx context.Context) (db *gorm.DB, done func()) {
	ctx, done = context.WithTimeout(ctx, timeout)
	// With the names of the columns: a newer version may add some while this one runs, and PostgreSQL refuses a prepared "SELECT *" whose
	// result has changed.
	return s.db.Session(&gorm.Session{Context: ctx, QueryFields: true}), done
}

// Create adds t, as by asked for it. An id that is taken is [tenant.ErrExists], one of a deleted tenant [tenant.ErrRetired].
func (s *Store) Create(ctx context.Context, t *tenant.Tenant, by audit.Origin) error {
	db, done := s.session(ctx)
	defer done()
	var created bool
	err := repeated(db, func() error {
		return db.Transaction(func(tx *gorm.DB) error {
			result := tx.Clauses(clause.OnConflict{DoNothing: true}).Create(t)
			if created = result.RowsAffected > 0; !created {
				return result.Error
			}
			return record(tx, by, audit.TenantCreated, nil, t)
		})
	})
	if err != nil {
		return wrap("create tenant", err)
	}
	if !created {
		var taken tenant.Tenant
		if err := db.Take(&taken, "id = ?", t.ID).Error; err != nil {
			return wrap("look at the tenant that has the id", err)
		}
		if taken.State == tenant.Deleted {
			return tenant.ErrRetired
		}
		return tenant.ErrExists
	}
	s.changed(*t)
	return nil
}

// Find returns a tenant that is not deleted, else [tenant.ErrNotFound].
func (s *Store) Find(ctx context.Context, id uuid.UUID) (tenant.Tenant, error) {
	db, done := s.session(ctx)
	defer done()
	var t tenant.Tenant
	if err := db.Take(&t, "id = ? AND state <> ?", id, tenant.Deleted).Error; err != nil {
		return tenant.Tenant{}, wrap("find tenant", err)
	}
	return utc(t), nil
}

// Change applies change to a tenant, deleted ones included, while its row is locked, and returns what became of it. The audit log
// says that by has done action. If change returns an error, or leaves the generation as it was, nothing is written. change must not
// block, and may be called again on what the row has become.
func (s *Store) Change(
	ctx context.Context, id uuid.UUID, by audit.Origin, action audit.Action, change func(*tenant.Tenant) error,
) (tenant.Tenant, error) {
	db, done := s.session(ctx)
	defer done()
	var t tenant.Tenant
	var written bool
	err := repeated(db, func() error {
		var err error
		t, written, err = changeOnce(db, id, by, action, change)
		return err
	})
	if err != nil {
		return tenant.Tenant{}, wrap("change tenant", err)
	}
	if written {
		s.changed(t)
	}
	return t, nil
}

// changeOnce is one transaction of Change.
func changeOnce(
	db *gorm.DB, id uuid.UUID, by audit.Origin, action audit.Action, change func(*tenant.Tenant) error,
) (t tenant.Tenant, written bool, err error) {
	err = db.Transaction(func(tx *gorm.DB) error {
		if err := tx.Clauses(clause.Locking{Strength: clause.LockingStrengthUpdate}).Take(&t, "id = ?", id).Error; err != nil {
			return err
		}
		t = utc(t)
		before := t
		if err := change(&t); err != nil {
			return err
		}
		if t.Generation == before.Generation {
			return nil
		}
		written = true
		err := tx.Model(&t).Select("name", "workers", "max_attempts", "overrides", "limits", "state", "generation", "updated_at", "deleted_at").UpdateColumns(&t).Error
		if err != nil {
			return err
		}
		if t.State == tenant.Deleting {
			if err := revokeAll(tx, "tenant = ?", t.ID); err != nil {
				return err
			}
		}
		return record(tx, by, action, &before, &t)
	})
	return t, written, err
}

// Batch returns up to limit tenants that are not deleted, in the order of their ids, behind after.
func (s *Store) Batch(ctx context.Context, after uuid.UUID, limit int) ([]tenant.Tenant, error) {
	db, done := s.session(ctx)
	defer done()
	var batch []tenant.Tenant
	err := db.Where("id > ? AND state <> ?", after, tenant.Deleted).Order("id").Limit(limit).Find(&batch).Error
	if err != nil {
		return nil, wrap("read tenants", err)
	}
	return batch, nil
}

// Unpublished returns up to limit tenants whose newest generation is not known to be published.
func (s *Store) Unpublished(ctx context.Context, limit int) ([]tenant.Tenant, error) {
	db, done := s.session(ctx)
	defer done()
	var batch []tenant.Tenant
	err := db.Where("published_generation < generation AND state <> ?", tenant.Deleted).
		Order("id").Limit(limit).Find(&batch).Error
	if err != nil {
		return nil, wrap("read unpublished tenants", err)
	}
	return batch, nil
}

// MarkPublished notes that the given generations of tenants are published. A tenant that has changed since stays
// unpublished.
func (s *Store) MarkPublished(ctx context.Context, tenants []tenant.Tenant) error {
	if len(tenants) == 0 {
		return nil
	}
	db, done := s.session(ctx)
	defer done()
	pairs := make([][]any, len(tenants))
	for i, t := range tenants {
		pairs[i] = []any{t.ID, t.Generation}
	}
	err := repeated(db, func() error {
		return db.Model(&tenant.Tenant{}).Where("(id, generation) IN ?", pairs).
			UpdateColumn("published_generation", gorm.Expr("generation")).Error
	})
	if err != nil {
		return wrap("mark tenants as published", err)
	}
	return nil
}

// Counts returns the number of tenants by state, without deleted ones.
func (s *Store) Counts(ctx context.Context) (map[tenant.State]int, error) {
	db, done := s.session(ctx)
	defer done()
	var rows []struct {
		State tenant.State
		Count int
	}
	err := db.Model(&tenant.Tenant{}).Select("state, count(*)").Where("state <> ?", tenant.Deleted).
		Group("state").Scan(&rows).Error
	if err != nil {
		return nil, wrap("count tenants", err)
	}
	counts := make(map[tenant.State]int, len(rows))
	for _, row := range rows {
		counts[row.State] = row.Count
	}
	return counts, nil
}

const (
	// writeTries is how often a write is tried that PostgreSQL has rolled back in favor of another one: two relays that mark the
	// same tenants in another order lock each other out, and one of the two is chosen to go first.
	writeTries = 5
	// writePause is the longest pause before the first repetition; each further one may be twice as long.
	writePause = 20 * time.Millisecond
)

// repeated calls write until PostgreSQL does not roll it back in favor of another transaction, writeTries times at most. The
// connections are at READ COMMITTED (see [postgres.Settings]), which leaves deadlocks; should a pooler in between have
// another idea of the isolation, its serialization failures end the same way.
func repeated(db *gorm.DB, write func() error) error {
	for try := 1; ; try++ {
		err := write()
		if try == writeTries || !sqlstate.Is(err, pgerrcode.SerializationFailure, pgerrcode.DeadlockDetected) {
			return err
		}
		pause := rand.N(writePause << try) //nolint:gosec // spreads load, decides nothing
		if retry.Sleep(db.Statement.Context, pause) != nil {
			return err
		}
	}
}

// utc undoes the driver's local time zone.
func utc(t tenant.Tenant) tenant.Tenant {
	t.CreatedAt, t.UpdatedAt = t.CreatedAt.UTC(), t.UpdatedAt.UTC()
	if t.DeletedAt != nil {
		at := t.DeletedAt.UTC()
		t.DeletedAt = &at
	}
	return t
}

// wrap names the operation and tells the errors that callers act on apart.
func wrap(operation string, err error) error {
	switch {
	case errors.Is(err, gorm.ErrRecordNotFound):
		return tenant.ErrNotFound
	case errors.Is(err, tenant.ErrNotFound), errors.Is(err, tenant.ErrDeleting),
		errors.Is(err, tenant.ErrTokenNotFound), errors.Is(err, tenant.ErrTooManyTokens):
		return err // from the change itself
	case sqlstate.IsTemporary(err):
		return fmt.Errorf("%s: %w: %w", operation, tenant.ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", operation, err)
}
