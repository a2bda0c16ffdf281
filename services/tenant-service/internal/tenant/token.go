package tenant

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// The errors of tokens.
var (
	// ErrTokenNotFound: the tenant has no such token, or it has expired and was removed.
	ErrTokenNotFound = errors.New("token not found")
	// ErrTooManyTokens: the tenant has as many living tokens as it may have.
	ErrTooManyTokens = errors.New("too many tokens")
)

// The limits of tokens.
const (
	// MaxTokens is how many tokens of a tenant may be living, which is neither expired nor revoked.
	MaxTokens = 1000
	// MinTokenLifetime is twice the clock skew that services allow for.
	MinTokenLifetime = time.Minute
	// MaxTokenLifetime is a year, and a day for whoever renews once a year.
	MaxTokenLifetime = 366 * 24 * time.Hour
	// DefaultTokenLifetime is that of a token that does not say how long.
	DefaultTokenLifetime = 24 * time.Hour
)

// TokenScopes are the scopes that an issued token may have.
func TokenScopes() []auth.Scope {
	return []auth.Scope{auth.ScopeMessagesRead, auth.ScopeMessagesWrite, auth.ScopeMessagesConsume, auth.ScopeDeadLettersManage}
}

// Token is what is kept of a token that was issued. The token itself is not.
type Token struct {
	// ID is the claim jti.
	ID       uuid.UUID
	TenantID uuid.UUID
	Name     string
	Scopes   []auth.Scope
	// CreatedBy is the claim sub of whoever has issued it, "" if there was none.
	CreatedBy string
	// ExpiresAt is in whole seconds, as the claim exp.
	CreatedAt, ExpiresAt time.Time
	RevokedAt            *time.Time
}

// TokenDraft is a token to be issued.
type TokenDraft struct {
	Name   string
	Scopes []string
	// Lifetime is in seconds; nil is the default.
	Lifetime *int64
	// CreatedBy is shortened to what can be kept: 200 characters, without those that cannot be seen.
	CreatedBy string
}

// NewToken makes a token of a draft. White space around the name is cut off. The error is a [*ValidationError].
func NewToken(tenant uuid.UUID, d TokenDraft) (Token, error) {
	var wrong ValidationError
	at := now()
	t := Token{TenantID: tenant, Name: strings.TrimSpace(d.Name), CreatedBy: visible(d.CreatedBy), CreatedAt: at}
	checkName(t.Name, &wrong)
	t.Scopes = checkScopes(d.Scopes, &wrong)
	lifetime := DefaultTokenLifetime
	if d.Lifetime != nil {
		lowest, highest := int64(MinTokenLifetime/time.Second), int64(MaxTokenLifetime/time.Second)
		if *d.Lifetime < lowest || *d.Lifetime > highest {
			wrong.add("expires_in_seconds", fmt.Sprintf("must be between %d and %d", lowest, highest))
		} else {
			lifetime = time.Duration(*d.Lifetime) * time.Second
		}
	}
	t.ExpiresAt = at.Truncate(time.Second).Add(lifetime)
	if err := wrong.orNil(); err != nil {
		return Token{}, err
	}
	var err error
	if t.ID, err = uuid.NewV7(); err != nil {
		return Token{}, fmt.Errorf("make a token id: %w", err)
	}
	return t, nil
}

// checkScopes returns the scopes, each of which must be one that a token may have, and there once.
func checkScopes(names []string, wrong *ValidationError) []auth.Scope {
	known := TokenScopes()
	if len(names) == 0 {
		wrong.add("scopes", "must have at least one scope")
	}
	scopes := make([]auth.Scope, 0, len(known))
	for i, name := range names {
		scope := auth.Scope(name)
		switch {
		case !slices.Contains(known, scope):
			wrong.add(fmt.Sprintf("scopes[%d]", i), fmt.Sprintf("must be one of %q", known))
			return nil // the first one is enough to say
		case slices.Contains(scopes, scope):
			wrong.add(fmt.Sprintf("scopes[%d]", i), "must be given once")
			return nil
		}
		scopes = append(scopes, scope)
	}
	return scopes
}

// visible is text that came from a claim, as it can be kept and shown.
func visible(text string) string {
	var kept strings.Builder
	n := 0
	for _, r := range strings.ToValidUTF8(text, "") {
		if invisible(string(r)) {
			continue
		}
		if n++; n > contract.MaxNameLength {
			break
		}
		kept.WriteRune(r)
	}
	return kept.String()
}
