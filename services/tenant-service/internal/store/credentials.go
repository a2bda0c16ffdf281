package store

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/credential"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

// AddCredential adds a credential that is being made, and has its tenant want an exchange of its own. A tenant that is deleted is
// [tenant.ErrNotFound], one that is being deleted [tenant.ErrDeleting], and one that has as many as it may [credential.ErrTooMany].
func (s *Store) AddCredential(ctx context.Context, c *credential.Credential) error {
	db, done := s.session(ctx)
	defer done()
	err := repeated(db, func() error {
		return db.Transaction(func(tx *gorm.DB) error { return addCredential(tx, c) })
	})
	return credentialError("add credential", err)
}

// addCredential holds the row of the tenant: credentials are added one after the other, and not beside a deletion.
func addCredential(tx *gorm.DB, c *credential.Credential) error {
	var t tenant.Tenant
	if err := tx.Clauses(clause.Locking{Strength: clause.LockingStrengthUpdate}).Take(&t, "id = ?", c.Tenant).Error; err != nil {
		return err
	}
	switch t.State {
	case tenant.Deleted:
		return tenant.ErrNotFound
	case tenant.Deleting:
		return tenant.ErrDeleting
	case tenant.Active, tenant.Suspended:
	}
	var count int64
	if err := tx.Model(c).Where("tenant = ?", c.Tenant).Count(&count).Error; err != nil {
		return err
	}
	if count >= credential.MaxPerTenant {
		return credential.ErrTooMany
	}
	// created_at is by the clock of the database, as is the age of what was abandoned.
	if err := tx.Clauses(clause.Returning{}).Omit("created_at").Create(c).Error; err != nil {
		return err
	}
	return tx.Table("tenants").Where("id = ? AND exchange_since IS NULL", c.Tenant).UpdateColumn("exchange_since", gorm.Expr("now()")).Error
}

// MarkIssued notes that the user of a credential is there. One that was removed meanwhile, with its tenant, is [tenant.ErrDeleting].
// by is who has asked for it.
func (s *Store) MarkIssued(ctx context.Context, c credential.Credential, by audit.Origin) error {
	db, done := s.session(ctx)
	defer done()
	err := db.Transaction(func(tx *gorm.DB) error {
		result := tx.Model(&credential.Credential{}).Where("id = ? AND revoked_at IS NULL", c.ID).UpdateColumn("issued_at", gorm.Expr("now()"))
		switch {
		case result.Error != nil:
			return result.Error
		case result.RowsAffected == 0:
			return tenant.ErrDeleting
		}
		return recordCredential(tx, by, audit.CredentialIssued, c, map[string]string{"name": c.Name, "username": c.Username})
	})
	return credentialError("mark credential as issued", err)
}

// Credentials returns up to limit issued credentials of a tenant behind after, in the order of their creation, and whether there are
// more.
func (s *Store) Credentials(
	ctx context.Context, tenantID uuid.UUID, after credential.Position, limit int,
) (page []credential.Credential, more bool, err error) {
	db, done := s.session(ctx)
	defer done()
	query := db.Where("tenant = ? AND issued_at IS NOT NULL", tenantID)
	if after != (credential.Position{}) {
		query = query.Where("(created_at, id) > (?, ?)", after.CreatedAt, after.ID)
	}
	if err := query.Order("created_at, id").Limit(limit + 1).Find(&page).Error; err != nil {
		return nil, false, credentialError("list credentials", err)
	}
	if more = len(page) > limit; more {
		page = page[:limit]
	}
	return page, more, nil
}

// RevokeCredential notes that an issued credential of a tenant is to go, and returns it. Without one it is [credential.ErrNotFound].
// by is who has asked for it; one that was revoked before is returned as it is.
func (s *Store) RevokeCredential(ctx context.Context, tenantID, id uuid.UUID, by audit.Origin) (c credential.Credential, err error) {
	db, done := s.session(ctx)
	defer done()
	err = db.Transaction(func(tx *gorm.DB) error {
		err := tx.Clauses(clause.Locking{Strength: clause.LockingStrengthUpdate}).
			Take(&c, "id = ? AND tenant = ? AND issued_at IS NOT NULL", id, tenantID).Error
		switch {
		case errors.Is(err, gorm.ErrRecordNotFound):
			return credential.ErrNotFound
		case err != nil || c.RevokedAt != nil:
			return err
		}
		if err := tx.Model(&c).Clauses(clause.Returning{}).UpdateColumn("revoked_at", gorm.Expr("now()")).Error; err != nil {
			return err
		}
		return recordCredential(tx, by, audit.CredentialRevoked, c, nil)
	})
	return c, credentialError("revoke credential", err)
}

// RemoveCredential removes a row. One that is not there is fine.
func (s *Store) RemoveCredential(ctx context.Context, id uuid.UUID) error {
	db, done := s.session(ctx)
	defer done()
	return credentialError("remove credential", db.Delete(&credential.Credential{}, "id = ?", id).Error)
}

// revokeAll notes that all credentials for which a condition holds are to go, those that are being made included.
func revokeAll(db *gorm.DB, condition string, args ...any) error {
	return db.Model(&credential.Credential{}).Where("revoked_at IS NULL").Where(condition, args...).UpdateColumn("revoked_at", gorm.Expr("now()")).Error
}

// RevokeOrphans revokes the credentials of tenants that are being deleted and were not revoked with that: a version of this service
// without credentials has deleted them. It reads the whole table.
func (s *Store) RevokeOrphans(ctx context.Context) error {
	db, done := s.session(ctx)
	defer done()
	return credentialError("revoke credentials of deleted tenants",
		revokeAll(db, "tenant IN (SELECT id FROM tenants WHERE state IN ?)", []tenant.State{tenant.Deleting, tenant.Deleted}))
}

// DoomedCredentials returns up to limit credentials that are to go: revoked, or begun longer than abandoned ago and never issued.
func (s *Store) DoomedCredentials(ctx context.Context, abandoned time.Duration, limit int) (doomed []credential.Credential, err error) {
	db, done := s.session(ctx)
	defer done()
	err = db.Where(`revoked_at IS NOT NULL OR issued_at IS NULL AND created_at < now() - ? * interval '1 second'`, abandoned.Seconds()).
		Order("created_at").Limit(limit).Find(&doomed).Error
	return doomed, credentialError("read credentials that are to go", err)
}

// IssuedUsernames returns the names of all credentials that are issued and not revoked, and whether they were missing.
func (s *Store) IssuedUsernames(ctx context.Context) (map[string]bool, error) {
	db, done := s.session(ctx)
	defer done()
	var rows []credential.Credential
	if err := db.Select("username", "missing").Where("issued_at IS NOT NULL AND revoked_at IS NULL").Find(&rows).Error; err != nil {
		return nil, credentialError("read issued credentials", err)
	}
	issued := make(map[string]bool, len(rows))
	for _, c := range rows {
		issued[c.Username] = c.Missing
	}
	return issued, nil
}

// nameBatch is how many names a statement compares.
const nameBatch = 1000

// UnknownUsernames returns those of usernames that no credential has, in whatever state.
func (s *Store) UnknownUsernames(ctx context.Context, usernames []string) (unknown []string, err error) {
	db, done := s.session(ctx)
	defer done()
	for batch := range slices.Chunk(usernames, nameBatch) {
		var found []string
		if err := db.Model(&credential.Credential{}).Where("username IN ?", batch).Pluck("username", &found).Error; err != nil {
			return nil, credentialError("look for credentials", err)
		}
		slices.Sort(found)
		for _, name := range batch {
			if _, known := slices.BinarySearch(found, name); !known {
				unknown = append(unknown, name)
			}
		}
	}
	return unknown, nil
}

// MarkMissing notes whether the broker has the users of credentials.
func (s *Store) MarkMissing(ctx context.Context, usernames []string, missing bool) error {
	db, done := s.session(ctx)
	defer done()
	for batch := range slices.Chunk(usernames, nameBatch) {
		if err := db.Model(&credential.Credential{}).Where("username IN ?", batch).UpdateColumn("missing", missing).Error; err != nil {
			return credentialError("mark credentials", err)
		}
	}
	return nil
}

// credentialError is wrap for credentials: nil stays nil.
func credentialError(operation string, err error) error {
	if err == nil || errors.Is(err, credential.ErrTooMany) || errors.Is(err, credential.ErrNotFound) {
		return err
	}
	return wrap(operation, err)
}
