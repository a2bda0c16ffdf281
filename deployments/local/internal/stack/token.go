package stack

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
)

// TokenLifetime is how long a token is valid unless another time is asked for. A token for development that ends within
// the day would be a nuisance, and one that never ends a habit.
const TokenLifetime = 7 * 24 * time.Hour

// secretBytes is the entropy of the secret that signs tokens; HS256 wants at least as much as its hash is wide.
const secretBytes = 32

// secret is AUTH_SECRET of the environment, or else the secret of this stack, which is made at random once.
func (s *Stack) secret(create bool) (string, error) {
	if given := s.setting("AUTH_SECRET", ""); given != "" {
		return given, nil
	}
	path := filepath.Join(s.dir, "auth.secret")
	body, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) && create {
		random := make([]byte, secretBytes)
		_, _ = rand.Read(random) // it never fails (documented)
		body = []byte(hex.EncodeToString(random))
		err = os.WriteFile(path, body, 0o600)
	}
	if errors.Is(err, os.ErrNotExist) {
		return "", errNotUp
	}
	if err != nil {
		return "", fmt.Errorf("the secret that signs tokens: %w", err)
	}
	return strings.TrimSpace(string(body)), nil
}

// Token makes a token for this stack. tenant is uuid.Nil for a token that is not bound to a tenant.
func (s *Stack) Token(tenant uuid.UUID, scopes []auth.Scope, lifetime time.Duration) (string, error) {
	known := []auth.Scope{auth.ScopeTenantsAdmin, auth.ScopeMessagesRead, auth.ScopeMessagesWrite, auth.ScopeDeadLettersManage}
	for _, scope := range scopes {
		if !slices.Contains(known, scope) {
			return "", fmt.Errorf("there is no scope %q; there are %q", scope, known)
		}
	}
	if len(scopes) == 0 {
		return "", fmt.Errorf("a token needs at least one scope of %q", known)
	}
	if tenant == uuid.Nil && !slices.Contains(scopes, auth.ScopeTenantsAdmin) {
		return "", errors.New("a token without the scope tenants:admin has to be bound to a tenant: TENANT=<id>")
	}
	secret, err := s.secret(false)
	if err != nil {
		return "", err
	}
	accepted := auth.DefaultConfig()
	subject := "operator@local"
	if tenant != uuid.Nil {
		subject = "tenant@local"
	}
	token, err := auth.Sign(secret, auth.Claims{
		Issuer: s.setting("AUTH_ISSUER", accepted.Issuer), Audience: s.setting("AUTH_AUDIENCE", accepted.Audience),
		Subject: subject, Scopes: scopes, TenantID: tenant, ExpiresAt: time.Now().Add(lifetime),
	})
	if err != nil {
		return "", fmt.Errorf("sign the token: %w", err)
	}
	return token, nil
}
