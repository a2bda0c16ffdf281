// Package sqlstate classifies the errors of a database by their SQLSTATE
// (https://www.postgresql.org/docs/current/errcodes-appendix.html).
//
// Single codes have their names in jackc/pgerrcode. Here is what this platform makes of them, which goes by class as far
// as possible, so that the codes of later versions and of extensions count as well. What never reached the server, or
// whose answer never came, is the infrastructure's: the caller cannot know whether it was done.
package sqlstate

import (
	"context"
	"errors"
	"slices"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
)

// RetiredTenant is the code with which tenant_attach refuses a tenant that was deleted.
const RetiredTenant = "MT001"

// The classes that are told apart here: the first two characters of a code.
const (
	noAnswer      = ""   // of the server
	connection    = "08" // connection exception
	triggered     = "09" // triggered action exception
	data          = "22" // data exception: \u0000, invalid JSON, out of range
	integrity     = "23" // integrity constraint violation
	transaction   = "25" // invalid transaction state: read-only
	dataChange    = "27" // triggered data change violation
	authorization = "28" // invalid authorization specification
	routine       = "38" // external routine exception
	invocation    = "39" // external routine invocation exception
	catalog       = "3D" // invalid catalog name: no such database
	rollback      = "40" // transaction rollback: deadlock, serialization failure
	resources     = "53" // insufficient resources: disk full, too many connections
	limit         = "54" // program limit exceeded: a jsonb that is too large
	prerequisite  = "55" // object not in prerequisite state: locked
	operator      = "57" // operator intervention: shutdown, cancelled statement
	system        = "58" // system error
	plpgsql       = "P0" // PL/pgSQL error: raised by a trigger
	internal      = "XX" // internal error: corruption
)

func class(code string) string { return code[:min(2, len(code))] }

// Of is the code of err; empty if err is not an answer of the server.
func Of(err error) string {
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok {
		return refused.Code
	}
	return ""
}

// Is reports whether err is an answer of the server with one of codes.
func Is(err error, codes ...string) bool { return slices.Contains(codes, Of(err)) }

// Fault says what is at fault when a message cannot be stored, which decides what may happen to that message.
type Fault int

// The faults, see [Classify].
const (
	// None: there was no error.
	None Fault = iota
	// Infrastructure: the database is away, full, read-only, locked, or set up wrongly. It costs no message an attempt;
	// stop, and try again later.
	Infrastructure
	// Transient: an error that is not known to belong to either side, such as one that a trigger raised. Once a single
	// message is left in the batch, it is retried for a limited number of attempts.
	Transient
	// Content: the database refuses this content and always will. Once a single message is left in the batch, it is a
	// dead letter.
	Content
)

func (f Fault) String() string {
	return [...]string{"none", "infrastructure", "transient", "content"}[f]
}

// Classify tells what is at fault when an insert of messages fails with err. Whatever is not known to be about a message
// is the infrastructure's.
func Classify(err error) Fault {
	switch {
	case err == nil:
		return None
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return Infrastructure // what the server may have answered is that it was told to stop
	case IsPartitionMissing(err):
		return Infrastructure
	case Is(err, pgerrcode.UniqueViolation):
		// The only unique key that an insert can collide with, beyond the one it tolerates, is the reading order: a new
		// transaction gets a new place.
		return Infrastructure
	}
	switch class(Of(err)) {
	case data, integrity, limit: // of integrity what is left is a constraint that the operator has added
		return Content
	case plpgsql, routine, invocation, triggered, dataChange: // of the operator's triggers
		return Transient
	}
	return Infrastructure
}

// IsPartitionMissing reports whether an insert was refused because there is no partition for it, or one that is just being
// detached: of all checks, the bound of a partition alone has no name.
func IsPartitionMissing(err error) bool {
	refused, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (refused.Code == pgerrcode.UndefinedTable ||
		refused.Code == pgerrcode.CheckViolation && refused.ConstraintName == "")
}

// IsServerWide reports whether every client of the server would meet err: no connection or no answer, no resources,
// shutting down, read-only. A lock that was not to be had, and one statement that took too long, are not of that kind.
func IsServerWide(err error) bool {
	if _, unconnected := errors.AsType[*pgconn.ConnectError](err); unconnected {
		return true
	}
	switch code := Of(err); class(code) {
	case noAnswer, connection, transaction, authorization, resources, operator, system, internal:
		return err != nil && code != pgerrcode.QueryCanceled
	}
	return false
}

// IsTemporary reports whether the statement that failed with err may well succeed later: the database is away, full,
// read-only, locked or not set up yet, or the transaction was rolled back in favor of another one. What PostgreSQL
// refuses otherwise is a fault of the program that asks.
func IsTemporary(err error) bool {
	switch class(Of(err)) {
	case noAnswer, connection, transaction, authorization, catalog, rollback, resources, limit, prerequisite, operator, system:
		return err != nil
	}
	return Is(err, pgerrcode.InsufficientPrivilege, pgerrcode.UndefinedTable) // roles and tables are being set up
}
