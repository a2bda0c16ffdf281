package credential

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

// Store keeps the rows; store.Store does, and documents the methods.
type Store interface {
	AddCredential(ctx context.Context, c *Credential) error
	MarkIssued(ctx context.Context, c Credential, by audit.Origin) error
	Credentials(ctx context.Context, tenant uuid.UUID, after Position, limit int) (page []Credential, more bool, err error)
	RevokeCredential(ctx context.Context, tenant, id uuid.UUID, by audit.Origin) (Credential, error)
	RemoveCredential(ctx context.Context, id uuid.UUID) error
	// What follows is for [Keeper].
	RevokeOrphans(ctx context.Context) error
	DoomedCredentials(ctx context.Context, abandoned time.Duration, limit int) ([]Credential, error)
	IssuedUsernames(ctx context.Context) (map[string]bool, error)
	UnknownUsernames(ctx context.Context, usernames []string) ([]string, error)
	MarkMissing(ctx context.Context, usernames []string, missing bool) error
}

const (
	// issueTimeout bounds what is done for one credential. It is well below [abandonedAfter].
	issueTimeout = 30 * time.Second
	// exchangeWait is how long a request waits for the tenant's exchange, which ingest-service makes for the first credential of the
	// tenant, a second later as a rule; exchangePoll is between two looks.
	exchangeWait = 8 * time.Second
	exchangePoll = 100 * time.Millisecond
	// undoTimeout bounds what is taken back after a failure. What is left of it the [Keeper] removes.
	undoTimeout = 5 * time.Second
)

// Issuer issues and revokes credentials. It is safe for concurrent use.
type Issuer struct {
	store  Store
	broker *broker
	log    *zap.Logger
}

// New makes an issuer for the broker of cfg, and the keeper that is to run beside it. Without a management URL both are nil.
func New(cfg Config, store Store, log *zap.Logger) (*Issuer, *Keeper, error) {
	if cfg.ManagementURL == "" {
		return nil, nil, nil
	}
	broker, err := newBroker(cfg)
	if err != nil {
		return nil, nil, err
	}
	return &Issuer{store: store, broker: broker, log: log}, newKeeper(store, broker, log), nil
}

// Issue makes a credential of a tenant, as by asked for it. A repeated request makes another one. Errors: [ErrTooMany], [ErrProvisioning], those of the
// management API (package management) and of the registry (package tenant).
func (i *Issuer) Issue(ctx context.Context, tenant uuid.UUID, name string, by audit.Origin) (Issued, error) {
	ctx, cancel := context.WithTimeout(ctx, issueTimeout)
	defer cancel()
	id, err := uuid.NewV7()
	if err != nil {
		return Issued{}, fmt.Errorf("make the id of a credential: %w", err)
	}
	made := Credential{ID: id, Tenant: tenant, Name: name, Username: username(i.broker.vhost, tenant, id)}
	if err := i.store.AddCredential(ctx, &made); err != nil {
		return Issued{}, err
	}
	password, hash := newPassword()
	if err := i.finish(ctx, made, hash, by); err != nil {
		i.undo(ctx, made)
		return Issued{}, err
	}
	return Issued{
		Credential: made, Password: password, URL: i.broker.url(made.Username, password),
		Exchange: contract.TenantExchangeName(tenant.String()), RoutingKey: tenant.String(),
	}, nil
}

// finish makes the user of a credential once it has somewhere to publish to.
func (i *Issuer) finish(ctx context.Context, c Credential, hash string, by audit.Origin) error {
	if err := i.awaitExchange(ctx, c.Tenant); err != nil {
		return err
	}
	if err := i.broker.add(ctx, c.Username, hash, c.Tenant.String()); err != nil {
		return err
	}
	return i.store.MarkIssued(ctx, c, by)
}

func (i *Issuer) awaitExchange(ctx context.Context, tenant uuid.UUID) error {
	for deadline := time.Now().Add(exchangeWait); ; {
		there, err := i.broker.hasExchange(ctx, tenant.String())
		switch {
		case err != nil:
			return err
		case there:
			return nil
		case time.Now().After(deadline):
			return ErrProvisioning
		}
		if err := retry.Sleep(ctx, exchangePoll); err != nil {
			return err
		}
	}
}

// undo takes back what was begun, as far as that is possible now.
func (i *Issuer) undo(ctx context.Context, c Credential) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if err := remove(ctx, i.store, i.broker, c); err != nil {
		i.log.Warn("a credential was begun and is removed later", zap.Stringer("tenant_id", c.Tenant), zap.String("username", c.Username), zap.Error(err))
	}
}

// List returns up to limit issued credentials of a tenant behind after, in the order of their creation, and whether there are more.
func (i *Issuer) List(ctx context.Context, tenant uuid.UUID, after Position, limit int) (page []Credential, more bool, err error) {
	return i.store.Credentials(ctx, tenant, after, limit)
}

// Revoke deletes a credential, as by asked for it; its connections are closed when it returns. [ErrNotFound] says that the tenant has no such credential.
// After any other error it is [Revoking] and is deleted as soon as the broker can be reached, unless the registry could not be.
func (i *Issuer) Revoke(ctx context.Context, tenant, id uuid.UUID, by audit.Origin) error {
	ctx, cancel := context.WithTimeout(ctx, issueTimeout)
	defer cancel()
	doomed, err := i.store.RevokeCredential(ctx, tenant, id, by)
	if err != nil {
		return err
	}
	return remove(ctx, i.store, i.broker, doomed)
}

// remove deletes the user of a credential and then its row.
func remove(ctx context.Context, store Store, broker *broker, c Credential) error {
	if err := broker.remove(ctx, c.Username); err != nil {
		return err
	}
	return store.RemoveCredential(ctx, c.ID)
}
