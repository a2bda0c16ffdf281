package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// Scope is what a token may do.
type Scope string

// The scopes of tokens.
const (
	// ScopeTenantsAdmin includes the others. Issued tokens do not have it.
	ScopeTenantsAdmin      Scope = "tenants:admin"
	ScopeMessagesRead      Scope = "messages:read"
	ScopeMessagesWrite     Scope = "messages:write"
	ScopeMessagesConsume   Scope = "messages:consume" // subscriptions and the live tail
	ScopeDeadLettersManage Scope = "deadletters:manage"
)

// NewToken is a token to be issued for a tenant.
type NewToken struct {
	// Name says what the token is for: 1 to 200 characters without line breaks; it need not be unique.
	Name string
	// Scopes is at least one, and each of them once.
	Scopes []Scope
	// Lifetime is from a minute to 366 days, in whole seconds; what is left of a second is cut off. 0: a day.
	Lifetime time.Duration
}

// TokenInfo is what is kept of a token that was issued.
type TokenInfo struct {
	// ID is the claim jti of the token.
	ID        ID        `json:"id"`
	TenantID  ID        `json:"tenant_id"`
	Name      string    `json:"name"`
	Scopes    []Scope   `json:"scopes"`
	CreatedBy string    `json:"created_by"` // the subject of the token that it was issued with
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"`
	// RevokedAt is nil if the token was not revoked.
	RevokedAt *time.Time `json:"revoked_at"`
}

// IssuedToken is a token with what is kept of it.
type IssuedToken struct {
	TokenInfo
	// Token is the token itself, which nobody can be asked for again.
	Token string `json:"token"`
}

// IssueToken issues a token that is bound to the tenant. It takes an administrator's token, and an installation with a signing
// key, else it is [ErrNoSigningKey]. Should an answer get lost, the repeat issues another token; the lost one, which nobody has
// seen, is in the list until it expires.
func (c *Client) IssueToken(ctx context.Context, tenant ID, n NewToken) (t IssuedToken, err error) {
	body, err := json.Marshal(struct {
		Name    string  `json:"name"`
		Scopes  []Scope `json:"scopes"`
		Seconds int64   `json:"expires_in_seconds,omitempty"`
	}{n.Name, n.Scopes, int64(n.Lifetime / time.Second)})
	if err != nil {
		return t, fmt.Errorf("encode the request: %w", err)
	}
	request := call{service: tenantService, method: http.MethodPost, path: tokensPath(tenant), body: body, contentType: "application/json"}
	if _, err := c.do(ctx, request, &t); err != nil {
		return IssuedToken{}, fmt.Errorf("issue a token of tenant %s: %w", tenant, err)
	}
	return t, nil
}

// TokenQuery says which tokens of a tenant are listed.
type TokenQuery struct {
	// Cursor is where another list of the same tenant stopped; empty is the start.
	Cursor string
	// Limit is the number of tokens of a page, up to 1,000. Default: 100.
	Limit int
}

// Tokens lists the tokens of a tenant in the order in which they were issued, revoked ones included, without the tokens
// themselves. It takes an administrator's token.
func (c *Client) Tokens(tenant ID, q TokenQuery) *Pager[TokenInfo] {
	return &Pager[TokenInfo]{cursor: q.Cursor, fetch: func(ctx context.Context, cursor string, untilDone bool) (page Page[TokenInfo], err error) {
		query := url.Values{}
		setPage(query, cursor, q.Limit)
		request := call{service: tenantService, method: http.MethodGet, path: tokensPath(tenant), query: query, untilDone: untilDone}
		if _, err := c.do(ctx, request, &page); err != nil {
			return page, fmt.Errorf("list the tokens of tenant %s: %w", tenant, err)
		}
		return page, nil
	}}
}

// RevokeToken ends a token: every service refuses it within two seconds. Revoking a revoked token changes nothing; one that is
// unknown, or has expired and was removed, is [ErrTokenNotFound]. It takes an administrator's token.
func (c *Client) RevokeToken(ctx context.Context, tenant, token ID) error {
	request := call{service: tenantService, method: http.MethodDelete, path: tokensPath(tenant) + "/" + token.String()}
	if _, err := c.do(ctx, request, nil); err != nil {
		return fmt.Errorf("revoke token %s of tenant %s: %w", token, tenant, err)
	}
	return nil
}

func tokensPath(tenant ID) string { return "/tenants/" + tenant.String() + "/tokens" }
