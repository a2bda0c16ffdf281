package postgres

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Settings are the session settings under which every statement of the platform was written and tested: PostgreSQL's own
// defaults. A connection asks for them when it opens, which goes over what an operator has set for the server, the
// database or the login (PostgreSQL documentation, "How Configuration Settings Are Established"), and over a URL.
//
// READ COMMITTED is not a matter of taste here. Changes of a tenant queue for its row and must see what the one before
// has committed, where SERIALIZABLE fails one of the two; and a page is bounded by the snapshot of its own statement.
//
// Three settings are the operator's: default_transaction_read_only, with which a database is put out of service on purpose
// (see [Watch]), synchronous_commit unless it is off (see [assume]), and whatever concerns plans and memory alone.
func Settings() map[string]string {
	return map[string]string{
		"default_transaction_isolation":  "read committed",
		"default_transaction_deferrable": "off",
		"search_path":                    "public",
		// With "off" a query that row-level security would narrow down is an error instead.
		"row_security":                "on",
		"client_encoding":             "UTF8",
		"standard_conforming_strings": "on",
		"datestyle":                   "ISO, MDY",
		"intervalstyle":               "postgres",
		"timezone":                    "UTC",
		"bytea_output":                "hex",
		"extra_float_digits":          "1",
		"idle_session_timeout":        "0", // a pool and a migration lock keep idle connections
	}
}

// MigrationSettings are [Settings] of a connection that migrates: an index over everything that is stored takes as long as
// it takes. It waits for any other process that migrates, so it has no other limit either.
func MigrationSettings() map[string]string {
	settings := Settings()
	maps.Copy(settings, map[string]string{
		"statement_timeout": "0", "lock_timeout": "0", "idle_in_transaction_session_timeout": "0",
	})
	return settings
}

// transactionTimeoutSince is the version of PostgreSQL that knows transaction_timeout; an older one refuses a connection that
// asks for it.
const transactionTimeoutSince = 17

// Unlimit lifts a limit of transactions that an operator has set, from the first statement on. Statements have a limit.
func Unlimit(ctx context.Context, connection *pgx.Conn) error {
	if statement := unlimited(connection); statement != "" {
		if _, err := connection.Exec(ctx, statement); err != nil {
			return fmt.Errorf("lift the limit of transactions: %w", err)
		}
	}
	return nil
}

// unlimited is the statement of [Unlimit], or nothing where there is no such limit.
func unlimited(connection *pgx.Conn) string {
	major, _, _ := strings.Cut(connection.PgConn().ParameterStatus("server_version"), ".")
	if version, err := strconv.Atoi(major); err == nil && version >= transactionTimeoutSince {
		return "SET transaction_timeout = 0; "
	}
	return ""
}
