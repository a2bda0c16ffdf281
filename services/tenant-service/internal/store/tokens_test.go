package store_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

func newToken(t *testing.T, owner uuid.UUID, name string) tenant.Token {
	t.Helper()
	made, err := tenant.NewToken(owner, tenant.TokenDraft{Name: name, Scopes: []string{"messages:read", "deadletters:manage"}, CreatedBy: "ops"})
	require.NoError(t, err)
	return made
}

// fill gives a tenant n tokens that expire at a time, relative to now.
func fill(t *testing.T, operator *pgxpool.Pool, owner uuid.UUID, n int, expires time.Duration) {
	t.Helper()
	_, err := operator.Exec(t.Context(), `INSERT INTO tokens (id, tenant_id, name, scope, created_by, created_at, expires_at)
		SELECT gen_random_uuid(), $1, 'a', 'messages:read', '', now(), now() + $3 FROM generate_series(1, $2)`, owner, n, expires)
	require.NoError(t, err)
}

// What was issued is listed as it was, once, in its order, and under its tenant alone.
func TestTokensAreListed(t *testing.T) {
	t.Parallel()
	registry, _ := openWithOperator(t)
	mine, theirs := create(t, registry, "a"), create(t, registry, "b")
	var want []tenant.Token
	for i := range 7 {
		made := newToken(t, mine.ID, fmt.Sprint(i))
		require.NoError(t, registry.IssueToken(t.Context(), made, someone()))
		require.NoError(t, registry.IssueToken(t.Context(), newToken(t, theirs.ID, "other"), someone()))
		want = append(want, made)
	}
	var got []tenant.Token
	var after uuid.UUID
	for more := true; more; {
		var page []tenant.Token
		var err error
		page, more, err = registry.Tokens(t.Context(), mine.ID, after, 3)
		require.NoError(t, err)
		require.LessOrEqual(t, len(page), 3)
		got = append(got, page...)
		after = page[len(page)-1].ID
	}
	require.Equal(t, want, got)
	_, _, err := registry.Tokens(t.Context(), uuid.New(), uuid.Nil, 3)
	require.ErrorIs(t, err, tenant.ErrNotFound)
}

// The limit holds however many ask at once; what is revoked or expired does not count, and expired ones do not pile up.
func TestLimitOfTokens(t *testing.T) {
	t.Parallel()
	registry, operator := openWithOperator(t)
	owner := create(t, registry, "a")
	fill(t, operator, owner.ID, tenant.MaxTokens-5, time.Hour)
	fill(t, operator, owner.ID, 30, -2*time.Hour)
	issued := make([]error, 20)
	var issuing errgroup.Group
	for i := range issued {
		made := newToken(t, owner.ID, "b")
		issuing.Go(func() error {
			issued[i] = registry.IssueToken(t.Context(), made, someone())
			return nil
		})
	}
	require.NoError(t, issuing.Wait())
	succeeded := 0
	for _, err := range issued {
		if err == nil {
			succeeded++
			continue
		}
		require.ErrorIs(t, err, tenant.ErrTooManyTokens)
	}
	require.Equal(t, 5, succeeded)

	page, _, err := registry.Tokens(t.Context(), owner.ID, uuid.Nil, 2*tenant.MaxTokens)
	require.NoError(t, err)
	require.Len(t, page, tenant.MaxTokens, "expired ones were removed")
	require.NoError(t, registry.RevokeToken(t.Context(), owner.ID, page[0].ID, someone()))
	require.NoError(t, registry.IssueToken(t.Context(), newToken(t, owner.ID, "in its place"), someone()))
	require.ErrorIs(t, registry.IssueToken(t.Context(), newToken(t, owner.ID, "c"), someone()), tenant.ErrTooManyTokens)
}

// A deletion revokes all tokens in its own transaction, also one by a version of the registry that knows nothing of tokens; whoever
// issues one meanwhile is refused, or it is revoked as well. With as many as there can be it stays short.
func TestDeletionRevokesTokens(t *testing.T) {
	t.Parallel()
	registry, operator := openWithOperator(t)
	living := func(owner uuid.UUID) (n int) {
		require.NoError(t, operator.QueryRow(t.Context(), `SELECT count(*) FROM tokens WHERE tenant_id = $1 AND revoked_at IS NULL`, owner).Scan(&n))
		return n
	}
	neighbour := create(t, registry, "neighbour")
	fill(t, operator, neighbour.ID, 3, time.Hour)

	owner := create(t, registry, "a")
	fill(t, operator, owner.ID, tenant.MaxTokens-10, time.Hour)
	var issuing errgroup.Group
	for range 10 {
		made := newToken(t, owner.ID, "b")
		issuing.Go(func() error {
			if err := registry.IssueToken(t.Context(), made, someone()); !errors.Is(err, tenant.ErrDeleting) {
				return err
			}
			return nil
		})
	}
	begun := time.Now()
	_, err := registry.Change(t.Context(), owner.ID, someone(), audit.TenantDeleted, (*tenant.Tenant).Delete)
	require.NoError(t, err)
	t.Logf("deleted with %d tokens in %s", tenant.MaxTokens, time.Since(begun))
	require.NoError(t, issuing.Wait())
	require.Zero(t, living(owner.ID))
	require.ErrorIs(t, registry.IssueToken(t.Context(), newToken(t, owner.ID, "c"), someone()), tenant.ErrDeleting)

	old := create(t, registry, "of an old version")
	fill(t, operator, old.ID, 3, time.Hour)
	_, err = operator.Exec(t.Context(), `UPDATE tenants SET state = 'suspended' WHERE id = $1`, old.ID)
	require.NoError(t, err)
	require.Equal(t, 3, living(old.ID))
	_, err = operator.Exec(t.Context(), `UPDATE tenants SET state = 'deleting', generation = generation + 1 WHERE id = $1`, old.ID)
	require.NoError(t, err)
	require.Zero(t, living(old.ID))
	require.Equal(t, 3, living(neighbour.ID))
}

func TestRevokeToken(t *testing.T) {
	t.Parallel()
	registry, operator := openWithOperator(t)
	mine, theirs := create(t, registry, "a"), create(t, registry, "b")
	made := newToken(t, mine.ID, "a")
	require.NoError(t, registry.IssueToken(t.Context(), made, someone()))
	require.ErrorIs(t, registry.RevokeToken(t.Context(), theirs.ID, made.ID, someone()), tenant.ErrTokenNotFound)
	require.ErrorIs(t, registry.RevokeToken(t.Context(), mine.ID, uuid.New(), someone()), tenant.ErrTokenNotFound)
	require.ErrorIs(t, registry.RevokeToken(t.Context(), uuid.New(), made.ID, someone()), tenant.ErrNotFound)
	for range 2 {
		require.NoError(t, registry.RevokeToken(t.Context(), mine.ID, made.ID, someone()))
	}
	_, err := operator.Exec(t.Context(), `UPDATE tenants SET state = 'deleted' WHERE id = $1`, mine.ID)
	require.NoError(t, err)
	require.ErrorIs(t, registry.RevokeToken(t.Context(), mine.ID, made.ID, someone()), tenant.ErrNotFound)
}
