package backing

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/schema"
)

const (
	testDatabasePrefix = "mtm_test_"
	templatePrefix     = "mtm_template_"
	// templateLock is the advisory lock under which templates are made; any number that nothing else uses.
	templateLock = 0x6d746d02
)

// templates makes sure that a server has a migrated database from which those of tests are cloned. It is named after
// the migrations, so that a server that stays may have several, and each binary of tests finds its own.
type templates struct {
	once sync.Once
	name string
	err  error
}

// testDatabase is the database of one test.
type testDatabase struct {
	operator string // address of the server's own database
	name     string
	url      string
}

// clone makes a database for a test: 55 to 90 ms on an idle machine, where migrating one takes ten times as long.
func (t *templates) clone(ctx context.Context, operator string) (testDatabase, error) {
	t.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), StartTimeout)
		defer cancel()
		t.name, t.err = makeTemplate(ctx, operator)
	})
	if t.err != nil {
		return testDatabase{}, t.err
	}
	database := testDatabase{operator: operator, name: testName(testDatabasePrefix)}
	var err error
	if database.url, err = withDatabase(operator, database.name); err != nil {
		return testDatabase{}, err
	}
	err = asOperator(ctx, operator, func(connection *pgx.Conn) error {
		_, err := connection.Exec(ctx, "CREATE DATABASE "+quoted(database.name)+" TEMPLATE "+quoted(t.name))
		return err
	})
	if err != nil {
		return testDatabase{}, fmt.Errorf("clone %s: %w", t.name, err)
	}
	return database, nil
}

// drop removes the database and ends what is still connected to it.
func (d testDatabase) drop(ctx context.Context) error {
	return asOperator(ctx, d.operator, func(connection *pgx.Conn) error {
		return dropDatabase(ctx, connection, d.name)
	})
}

func dropDatabase(ctx context.Context, connection *pgx.Conn, name string) error {
	if _, err := connection.Exec(ctx, "DROP DATABASE IF EXISTS "+quoted(name)+" WITH (FORCE)"); err != nil {
		return fmt.Errorf("drop %s: %w", name, err)
	}
	return nil
}

// makeTemplate makes the template unless the server has it. Only one process works at a time; the others wait, and find
// it made.
func makeTemplate(ctx context.Context, operator string) (string, error) {
	fingerprint, err := schema.Fingerprint()
	if err != nil {
		return "", fmt.Errorf("identify the migrations: %w", err)
	}
	name := templatePrefix + fingerprint
	err = asOperator(ctx, operator, func(connection *pgx.Conn) error {
		// Given back when the connection is closed. Advisory locks are per database, and all have the same address.
		if _, err := connection.Exec(ctx, "SELECT pg_advisory_lock($1)", int64(templateLock)); err != nil {
			return fmt.Errorf("take the lock: %w", err)
		}
		var made bool
		err := connection.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name).Scan(&made)
		if err != nil {
			return fmt.Errorf("look for the template: %w", err)
		}
		if err := sweep(ctx, connection); err != nil || made {
			return err
		}
		return migrateTemplate(ctx, connection, operator, name)
	})
	if err != nil {
		return "", fmt.Errorf("make the template of test databases: %w", err)
	}
	return name, nil
}

// migrateTemplate works under another name until the template is complete.
func migrateTemplate(ctx context.Context, connection *pgx.Conn, operator, name string) error {
	raw := name + "_raw"
	if err := dropDatabase(ctx, connection, raw); err != nil {
		return err
	}
	if _, err := connection.Exec(ctx, "CREATE DATABASE "+quoted(raw)); err != nil {
		return fmt.Errorf("make %s: %w", raw, err)
	}
	target, err := withDatabase(operator, raw)
	if err != nil {
		return err
	}
	if err := schema.Migrate(ctx, target, zap.NewNop()); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	// A connection to a template would keep it from being cloned.
	for _, change := range []string{
		"ALTER DATABASE " + quoted(raw) + " WITH ALLOW_CONNECTIONS false",
		"ALTER DATABASE " + quoted(raw) + " RENAME TO " + quoted(name),
	} {
		if err := alter(ctx, connection, change); err != nil {
			return err
		}
	}
	return nil
}

// errDatabaseInUse is PostgreSQL's code for a database that somebody is connected to.
const errDatabaseInUse = "55006"

// alterPoll is how often a change of a database that is in use is tried.
const alterPoll = 50 * time.Millisecond

// alter changes a database, and waits for connections that are closed but not yet gone.
func alter(ctx context.Context, connection *pgx.Conn, change string) error {
	tick := time.NewTicker(alterPoll)
	defer tick.Stop()
	for {
		_, err := connection.Exec(ctx, change)
		if err == nil {
			return nil
		}
		if refused, ok := errors.AsType[*pgconn.PgError](err); !ok || refused.Code != errDatabaseInUse {
			return fmt.Errorf("%s: %w", change, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", change, err)
		case <-tick.C:
		}
	}
}

// sweep drops what tests that were killed have left behind on a server that stays.
func sweep(ctx context.Context, connection *pgx.Conn) error {
	rows, err := connection.Query(ctx, "SELECT datname FROM pg_database WHERE starts_with(datname, $1)", testDatabasePrefix)
	if err != nil {
		return fmt.Errorf("list the databases of tests: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("list the databases of tests: %w", err)
	}
	for _, name := range leftBehind(names, testDatabasePrefix, time.Now()) {
		if err := dropDatabase(ctx, connection, name); err != nil {
			return err
		}
	}
	return nil
}

// asOperator calls do with a connection for as long as it takes.
func asOperator(ctx context.Context, operator string, do func(*pgx.Conn) error) error {
	connection, err := pgx.Connect(ctx, operator)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	failed := do(connection)
	return errors.Join(failed, connection.Close(context.WithoutCancel(ctx)))
}

func withDatabase(operator, name string) (string, error) {
	address, err := url.Parse(operator)
	if err != nil || address.Scheme == "" {
		return "", errors.New("DATABASE_URL is not a URL: postgres://user:password@host:port/database")
	}
	address.Path = "/" + name
	return address.String(), nil
}

func quoted(name string) string { return pgx.Identifier{name}.Sanitize() }
