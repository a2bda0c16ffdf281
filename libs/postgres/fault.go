package postgres

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Fault says whose fault an error of the database is, which decides what may happen to the message at hand.
type Fault int

// The faults, see [Classify].
const (
	// FaultNone: there was no error.
	FaultNone Fault = iota
	// FaultInfrastructure: the database is away, full, read-only, locked, or set up wrongly. It costs no message an
	// attempt; stop, and try again later.
	FaultInfrastructure
	// FaultTransient: an error that is not known to belong to either side, such as one that a trigger raised. Once a
	// single message is left in the batch, it is retried for a limited number of attempts.
	FaultTransient
	// FaultContent: the database refuses this content and always will. Once a single message is left in the batch, it
	// is a dead letter.
	FaultContent
)

func (f Fault) String() string {
	return [...]string{"none", "infrastructure", "transient", "content"}[f]
}

// RetiredTenant is the SQLSTATE with which tenant_attach refuses a tenant that was deleted.
const RetiredTenant = "MT001"

// Classify tells whose fault err is, by the SQLSTATE classes of
// https://www.postgresql.org/docs/current/errcodes-appendix.html. What never reached the server, or never came back, is
// the infrastructure's: the caller cannot know whether it was done, and everything here can be done twice.
func Classify(err error) Fault {
	if err == nil {
		return FaultNone
	}
	var refused *pgconn.PgError
	if !errors.As(err, &refused) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return FaultInfrastructure
	}
	// A check without a name is the bound of a partition that is absent or just being detached.
	if refused.Code == "23514" && refused.ConstraintName == "" {
		return FaultInfrastructure
	}
	// The only unique key that an insert can collide with, beyond the one it tolerates, is the reading order: a new
	// transaction gets a new place.
	if refused.Code == "23505" {
		return FaultInfrastructure
	}
	switch {
	case strings.HasPrefix(refused.Code, "22"), // data exception: \u0000, invalid JSON, out of range
		strings.HasPrefix(refused.Code, "23"), // a constraint that the operator added
		strings.HasPrefix(refused.Code, "54"): // program limit exceeded: a jsonb that is too large
		return FaultContent
	case strings.HasPrefix(refused.Code, "P0"), // raised by a trigger of the operator
		strings.HasPrefix(refused.Code, "38"), strings.HasPrefix(refused.Code, "39"), // external routines
		strings.HasPrefix(refused.Code, "09"), strings.HasPrefix(refused.Code, "27"): // triggered actions
		return FaultTransient
	}
	// Connections (08), resources (53), operator (57), system (58), read-only (25), locks (55), rollbacks (40), rights
	// and schema (42, 28, 3D), corruption (XX), and whatever is not known: nothing that a message has done.
	return FaultInfrastructure
}
