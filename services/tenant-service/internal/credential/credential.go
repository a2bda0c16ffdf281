// Package credential issues AMQP credentials of tenants: users of the broker that can publish to the exchange of their tenant's own with
// its routing key, and do nothing else.
//
// A credential is desired state in the registry's table: its row is written before the broker has its user and removed after the broker
// has deleted it. So whatever dies in between, no user stays that no row knows and no row looks alive that has no user (see [Keeper]).
// The password is in the answer to its request and nowhere else: the broker is given its hash.
//
// A user is confined step by step, in an order in which it can never do more than it may: it is made without permissions, then the
// routing key is limited, since a user without a topic permission may use every one, then it may write to one exchange. Deleting a
// user closes its connections; taking its permissions away does not end what a channel may do.
package credential

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"github.com/google/uuid"
)

// MaxPerTenant is how many credentials a tenant has at most, those included that are being revoked.
const MaxPerTenant = 100

// Errors of this package, beside those of package tenant.
var (
	// ErrNotFound: the tenant has no such credential, or no longer.
	ErrNotFound = errors.New("credential not found")
	// ErrTooMany: the tenant has [MaxPerTenant].
	ErrTooMany = errors.New("too many credentials")
	// ErrNotManaged: there is no management API of the broker in the configuration.
	ErrNotManaged = errors.New("the broker is not managed")
	// ErrProvisioning: the tenant's exchange is not there yet.
	ErrProvisioning = errors.New("the exchange of the tenant is not there yet")
)

// Credential is one row of the table.
type Credential struct {
	ID       uuid.UUID
	Tenant   uuid.UUID
	Name     string
	Username string
	// Times have microseconds, which is what PostgreSQL keeps.
	CreatedAt time.Time
	// IssuedAt is nil while the user is being made.
	IssuedAt *time.Time
	// Missing says that the broker does not have the user although it was issued.
	Missing bool
	// RevokedAt is nil until it was asked for. The row goes when the broker has deleted the user.
	RevokedAt *time.Time
}

// TableName is the table, for GORM.
func (Credential) TableName() string { return "credentials" }

// State is what a credential is good for.
type State string

// The states of an issued credential.
const (
	Active   State = "active"
	Missing  State = "missing"  // the broker has lost its user: nobody can log in with it
	Revoking State = "revoking" // its user is being deleted; until then it may still be used
)

// State is the state of an issued credential.
func (c *Credential) State() State {
	switch {
	case c.RevokedAt != nil:
		return Revoking
	case c.Missing:
		return Missing
	}
	return Active
}

// Position is a place in the list of a tenant's credentials, which is ordered by creation: just behind the one with these values. The
// zero value is the start.
type Position struct {
	CreatedAt time.Time
	ID        uuid.UUID
}

// Position is the place just behind c.
func (c *Credential) Position() Position { return Position{CreatedAt: c.CreatedAt, ID: c.ID} }

// Issued is a credential with what is shown once.
type Issued struct {
	Credential
	Password string
	// URL is for AMQP, with the login.
	URL        string
	Exchange   string
	RoutingKey string
}

// pattern is what the names of all users begin with that this installation makes. Users belong to the whole broker, and several
// installations may share it, each with a virtual host of its own: its hash keeps them apart.
func pattern(vhost string) string {
	sum := sha256.Sum256([]byte(vhost))
	return "mtm." + hex.EncodeToString(sum[:4]) + "."
}

// username is the name of a credential's user: what it belongs to can be seen in the broker.
func username(vhost string, tenant, id uuid.UUID) string {
	return pattern(vhost) + tenant.String() + "." + id.String()
}

// isOurs reports whether username has made a name.
func isOurs(vhost, name string) bool {
	rest, ok := strings.CutPrefix(name, pattern(vhost))
	if !ok {
		return false
	}
	tenant, id, _ := strings.Cut(rest, ".")
	return uuid.Validate(tenant) == nil && uuid.Validate(id) == nil
}
