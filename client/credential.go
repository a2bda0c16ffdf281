package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// Credential is an AMQP user of a tenant's producers: it can publish to the exchange of its tenant with its routing key, and do nothing
// else.
type Credential struct {
	ID       ID     `json:"id"`
	Name     string `json:"name"`
	Username string `json:"username"`
	// State is what it is good for.
	State     CredentialState `json:"state"`
	CreatedAt time.Time       `json:"created_at"`
}

// CredentialState says what a credential is good for.
type CredentialState string

// The states of a credential.
const (
	CredentialActive   CredentialState = "active"
	CredentialMissing  CredentialState = "missing"  // the broker has lost its user: nobody can log in with it
	CredentialRevoking CredentialState = "revoking" // revoked while the broker could not be reached; it may still be used until that is done
)

// IssuedCredential is a credential with what is shown once.
type IssuedCredential struct {
	ID       ID     `json:"id"`
	Username string `json:"username"`
	Password string `json:"password"`
	// URL is for AMQP, and has the login.
	URL string `json:"url"`
	// Exchange and RoutingKey are those with which it can publish.
	Exchange   string `json:"exchange"`
	RoutingKey string `json:"routing_key"`
}

// IssueCredential makes an AMQP credential of a tenant, whose password is in the answer and nowhere else. Names need not be unique. An
// attempt whose answer was lost may leave a credential that nobody knows the password of; it is listed and can be revoked.
func (c *Client) IssueCredential(ctx context.Context, tenant ID, name string) (issued IssuedCredential, err error) {
	body, err := json.Marshal(struct {
		Name string `json:"name"`
	}{name})
	if err != nil {
		return issued, fmt.Errorf("encode the request: %w", err)
	}
	request := call{service: tenantService, method: http.MethodPost, path: credentialsPath(tenant), body: body, contentType: "application/json"}
	if _, err := c.do(ctx, request, &issued); err != nil {
		return IssuedCredential{}, fmt.Errorf("issue a credential of tenant %s: %w", tenant, err)
	}
	return issued, nil
}

// CredentialQuery says which credentials are listed.
type CredentialQuery struct {
	// Cursor is where another list stopped; empty is the start.
	Cursor string
	// Limit is the number of credentials of a page, up to 1,000. Default: 100.
	Limit int
}

// Credentials lists the credentials of a tenant in the order of their creation, without those that were revoked.
func (c *Client) Credentials(tenant ID, q CredentialQuery) *Pager[Credential] {
	return &Pager[Credential]{cursor: q.Cursor, fetch: func(ctx context.Context, cursor string, untilDone bool) (page Page[Credential], err error) {
		query := url.Values{}
		setPage(query, cursor, q.Limit)
		request := call{service: tenantService, method: http.MethodGet, path: credentialsPath(tenant), query: query, untilDone: untilDone}
		if _, err := c.do(ctx, request, &page); err != nil {
			return page, fmt.Errorf("list the credentials of tenant %s: %w", tenant, err)
		}
		return page, nil
	}}
}

// RevokeCredential deletes a credential. Its connections are closed when it returns.
func (c *Client) RevokeCredential(ctx context.Context, tenant, credential ID) error {
	request := call{service: tenantService, method: http.MethodDelete, path: credentialsPath(tenant) + "/" + credential.String()}
	maybeDone, err := c.do(ctx, request, nil)
	if maybeDone && errors.Is(err, ErrCredentialNotFound) {
		return nil // an attempt before this one has done it
	}
	if err != nil {
		return fmt.Errorf("revoke credential %s of tenant %s: %w", credential, tenant, err)
	}
	return nil
}

func credentialsPath(tenant ID) string { return "/tenants/" + tenant.String() + "/credentials" }
