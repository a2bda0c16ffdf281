package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

// tokenRow is a row of the table tokens, in which row-level security shows those of one tenant.
type tokenRow struct {
	ID        uuid.UUID
	TenantID  uuid.UUID
	Name      string
	Scope     string // separated by spaces
	CreatedBy string
	CreatedAt time.Time
	ExpiresAt time.Time
	RevokedAt *time.Time
}

// TableName is the name of the table.
func (tokenRow) TableName() string { return "tokens" }

func (r tokenRow) token() tenant.Token {
	t := tenant.Token{
		ID: r.ID, TenantID: r.TenantID, Name: r.Name, CreatedBy: r.CreatedBy, CreatedAt: r.CreatedAt.UTC(), ExpiresAt: r.ExpiresAt.UTC(),
	}
	for name := range strings.FieldsSeq(r.Scope) {
		t.Scopes = append(t.Scopes, auth.Scope(name))
	}
	if r.RevokedAt != nil {
		at := r.RevokedAt.UTC()
		t.RevokedAt = &at
	}
	return t
}

// issuedToken is what the audit log tells of a token.
type issuedToken struct {
	Name      string    `json:"name"`
	Scope     string    `json:"scope"`
	ExpiresAt time.Time `json:"expires_at"`
}

// tokensRemoved is how many expired tokens are removed when a tenant gets another one: more than one, so that none are left over.
const tokensRemoved = 100

// IssueToken adds a token. The tenant must be neither deleted ([tenant.ErrNotFound]) nor about to be ([tenant.ErrDeleting]), and
// have fewer than [tenant.MaxTokens] living tokens ([tenant.ErrTooManyTokens]). Its row is locked meanwhile: a deletion
// revokes the token or is seen here, and the limit holds. by is who has asked for it.
func (s *Store) IssueToken(ctx context.Context, t tenant.Token, by audit.Origin) error {
	scopes := make([]string, len(t.Scopes))
	for i, scope := range t.Scopes {
		scopes[i] = string(scope)
	}
	row := tokenRow{
		ID: t.ID, TenantID: t.TenantID, Name: t.Name, Scope: strings.Join(scopes, " "), CreatedBy: t.CreatedBy,
		CreatedAt: t.CreatedAt, ExpiresAt: t.ExpiresAt,
	}
	return s.withTokens(ctx, "issue token", t.TenantID, func(tx *gorm.DB) error {
		var owner tenant.Tenant
		if err := tx.Clauses(clause.Locking{Strength: clause.LockingStrengthUpdate}).Take(&owner, "id = ?", t.TenantID).Error; err != nil {
			return err
		}
		switch owner.State {
		case tenant.Deleted:
			return tenant.ErrNotFound
		case tenant.Deleting:
			return tenant.ErrDeleting
		case tenant.Active, tenant.Suspended:
		}
		err := tx.Exec(`DELETE FROM tokens WHERE id IN (
			SELECT id FROM tokens WHERE tenant_id = ? AND expires_at < now() - interval '1 hour' ORDER BY id LIMIT ?)`, t.TenantID, tokensRemoved).Error
		if err != nil {
			return err
		}
		var living int64
		if err := tx.Model(&tokenRow{}).Where("tenant_id = ? AND revoked_at IS NULL AND expires_at > now()", t.TenantID).Count(&living).Error; err != nil {
			return err
		}
		if living >= tenant.MaxTokens {
			return tenant.ErrTooManyTokens
		}
		if err := tx.Create(&row).Error; err != nil {
			return err
		}
		return recordToken(tx, by, audit.TokenIssued, t.TenantID, t.ID, issuedToken{Name: row.Name, Scope: row.Scope, ExpiresAt: row.ExpiresAt})
	})
}

// Tokens returns up to limit tokens of a tenant behind the one with the id after, in the order in which they were issued, and
// whether there are more. Revoked tokens are among them; expired ones are until an hour later at least. A tenant that is deleted is
// [tenant.ErrNotFound].
func (s *Store) Tokens(ctx context.Context, id, after uuid.UUID, limit int) (page []tenant.Token, more bool, err error) {
	var rows []tokenRow
	err = s.withTokens(ctx, "list tokens", id, func(tx *gorm.DB) error {
		if err := tx.Take(&tenant.Tenant{}, "id = ? AND state <> ?", id, tenant.Deleted).Error; err != nil {
			return err
		}
		return tx.Where("tenant_id = ? AND id > ?", id, after).Order("id").Limit(limit + 1).Find(&rows).Error
	})
	if err != nil {
		return nil, false, err
	}
	more = len(rows) > limit
	for _, row := range rows[:min(limit, len(rows))] {
		page = append(page, row.token())
	}
	return page, more, nil
}

// RevokeToken revokes a token. One that is revoked stays as it is; one that the tenant does not have is [tenant.ErrTokenNotFound],
// and a tenant that is deleted [tenant.ErrNotFound]. by is who has asked for it.
func (s *Store) RevokeToken(ctx context.Context, id, token uuid.UUID, by audit.Origin) error {
	return s.withTokens(ctx, "revoke token", id, func(tx *gorm.DB) error {
		if err := tx.Take(&tenant.Tenant{}, "id = ? AND state <> ?", id, tenant.Deleted).Error; err != nil {
			return err
		}
		revoked := tx.Exec(`UPDATE tokens SET revoked_at = now(), revoked_xid = pg_current_xact_id()
			WHERE tenant_id = ? AND id = ? AND revoked_at IS NULL`, id, token)
		switch {
		case revoked.Error != nil:
			return revoked.Error
		case revoked.RowsAffected > 0:
			return recordToken(tx, by, audit.TokenRevoked, id, token, nil)
		}
		err := tx.Take(&tokenRow{}, "tenant_id = ? AND id = ?", id, token).Error
		if errors.Is(err, gorm.ErrRecordNotFound) {
			return tenant.ErrTokenNotFound
		}
		return err
	})
}

// withTokens runs do in a transaction that sees the tokens of one tenant, again if PostgreSQL has rolled it back in favor of
// another one.
func (s *Store) withTokens(ctx context.Context, operation string, id uuid.UUID, do func(tx *gorm.DB) error) error {
	db, done := s.session(ctx)
	defer done()
	err := repeated(db, func() error {
		return db.Transaction(func(tx *gorm.DB) error {
			// postgres.SetTenant, as GORM writes parameters.
			if err := tx.Exec(`SELECT set_config('app.tenant_id', ?, true)`, id.String()).Error; err != nil {
				return fmt.Errorf("set the tenant: %w", err)
			}
			return do(tx)
		})
	})
	if err != nil {
		return wrap(operation, err)
	}
	return nil
}
