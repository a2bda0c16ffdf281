package postgres_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres/sqlstate"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// The table of TestClassify is about codes; this is about what a server, and the driver between, really say.
func TestClassifyWhatAServerSays(t *testing.T) {
	url := backing.Postgres(t)
	connect := func(t *testing.T) *pgx.Conn {
		t.Helper()
		connection, err := pgx.Connect(t.Context(), url)
		require.NoError(t, err)
		t.Cleanup(func() { _ = connection.Close(context.WithoutCancel(t.Context())) }) // some are dead by then
		return connection
	}
	operator := connect(t)
	for _, statement := range []string{
		`CREATE TABLE content (id integer PRIMARY KEY, payload jsonb NOT NULL CONSTRAINT no_lists CHECK (jsonb_typeof(payload) <> 'array'), small smallint)`,
		`CREATE TABLE parts (tenant integer) PARTITION BY LIST (tenant)`,
		`CREATE TABLE part PARTITION OF parts FOR VALUES IN (1)`,
		`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not now'; END $$`,
		`CREATE TABLE refusing (id integer)`,
		`CREATE TRIGGER refuse BEFORE INSERT ON refusing FOR EACH ROW EXECUTE FUNCTION refuse()`,
		`CREATE TABLE locked (id integer)`,
	} {
		_, err := operator.Exec(t.Context(), statement)
		require.NoError(t, err)
	}
	execute := func(statements ...string) func(*testing.T) error {
		return func(t *testing.T) error {
			t.Helper()
			connection := connect(t)
			for _, statement := range statements {
				if _, err := connection.Exec(t.Context(), statement); err != nil {
					return err
				}
			}
			return nil
		}
	}
	for name, test := range map[string]struct {
		provoke func(*testing.T) error
		code    string // empty: no answer of a server
		want    sqlstate.Fault
	}{
		"not JSON":         {execute(`INSERT INTO content VALUES (1, '{')`), "22P02", sqlstate.Content},
		"null character":   {execute(`INSERT INTO content VALUES (1, '"\u0000"')`), "22P05", sqlstate.Content},
		"out of range":     {execute(`INSERT INTO content VALUES (1, '1', 99999)`), "22003", sqlstate.Content},
		"numeric overflow": {execute(`INSERT INTO content VALUES (1, '1e131072')`), "22003", sqlstate.Content},
		"not null":         {execute(`INSERT INTO content VALUES (1, NULL)`), "23502", sqlstate.Content},
		"operator's check": {execute(`INSERT INTO content VALUES (1, '[]')`), "23514", sqlstate.Content},
		"too deep":         {execute(`INSERT INTO content VALUES (1, (repeat('[', 1000000) || repeat(']', 1000000))::jsonb)`), "54001", sqlstate.Content},
		"trigger":          {execute(`INSERT INTO refusing VALUES (1)`), "P0001", sqlstate.Transient},
		"reading order":    {execute(`INSERT INTO content VALUES (7, '1')`, `INSERT INTO content VALUES (7, '1')`), "23505", sqlstate.Infrastructure},
		"no partition":     {execute(`INSERT INTO parts VALUES (2)`), "23514", sqlstate.Infrastructure},
		"foreign row":      {execute(`INSERT INTO part VALUES (2)`), "23514", sqlstate.Infrastructure},
		"no table":         {execute(`INSERT INTO nothing VALUES (1)`), "42P01", sqlstate.Infrastructure},
		"no right":         {execute(`SET ROLE `+postgres.RoleQuery, `INSERT INTO content VALUES (2, '1')`), "42501", sqlstate.Infrastructure},
		"read-only":        {execute(`SET default_transaction_read_only = on`, `INSERT INTO content VALUES (3, '1')`), "25006", sqlstate.Infrastructure},
		"statement limit":  {execute(`SET statement_timeout = 10`, `SELECT pg_sleep(60)`), "57014", sqlstate.Infrastructure},
		"lock limit": {func(t *testing.T) error {
			t.Helper()
			tx, err := operator.Begin(t.Context())
			require.NoError(t, err)
			defer func() { require.NoError(t, tx.Rollback(t.Context())) }()
			_, err = tx.Exec(t.Context(), `LOCK TABLE locked`)
			require.NoError(t, err)
			return execute(`SET lock_timeout = 10`, `INSERT INTO locked VALUES (1)`)(t)
		}, "55P03", sqlstate.Infrastructure},
		"terminated": {func(t *testing.T) error {
			t.Helper()
			connection := connect(t)
			_, err := operator.Exec(t.Context(), `SELECT pg_terminate_backend($1)`, connection.PgConn().PID())
			require.NoError(t, err)
			_, err = connection.Exec(t.Context(), `SELECT 1`)
			return err
		}, "57P01", sqlstate.Infrastructure},
		"wrong password": {func(t *testing.T) error {
			t.Helper()
			cfg, err := pgx.ParseConfig(url)
			require.NoError(t, err)
			cfg.User, cfg.Password = "nobody_"+cfg.Database, "wrong"
			_, err = pgx.ConnectConfig(t.Context(), cfg)
			return err
		}, "28", sqlstate.Infrastructure},
		"no database": {func(t *testing.T) error {
			t.Helper()
			cfg, err := pgx.ParseConfig(url)
			require.NoError(t, err)
			cfg.Database += "_that_is_not_there"
			_, err = pgx.ConnectConfig(t.Context(), cfg)
			return err
		}, "3D000", sqlstate.Infrastructure},
		"no server": {func(t *testing.T) error {
			t.Helper()
			_, err := pgx.Connect(t.Context(), "postgres://nobody@127.0.0.1:1/none")
			return err
		}, "", sqlstate.Infrastructure},
		"deadline": {func(t *testing.T) error {
			t.Helper()
			connection := connect(t)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			_, err := connection.Exec(ctx, `SELECT pg_sleep(60)`)
			return err
		}, "", sqlstate.Infrastructure},
	} {
		t.Run(name, func(t *testing.T) {
			err := test.provoke(t)
			require.Error(t, err)
			refused, answered := errors.AsType[*pgconn.PgError](err)
			switch {
			case answered:
				require.NotEmpty(t, test.code, "%v", err)
				require.Regexp(t, "^"+test.code, refused.Code, "%v", err)
			case test.code != "": // a server may be gone before it has said why
				require.Equal(t, "57P01", test.code, "%v", err)
			}
			require.Equal(t, test.want, sqlstate.Classify(err), "%v", err)
		})
	}
}
