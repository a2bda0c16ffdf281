// Package schema holds the tables of all services as one ordered history of SQL migrations, and brings a database to
// the newest of them. Each table has one owning service, named at the head of its migration.
//
// It also makes the roles that the services act as. Roles belong to the whole PostgreSQL cluster, not to a database, so
// they are made under a lock in a database that all starters share.
package schema

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres/sqlstate"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

//go:embed migrations/*.sql
var migrations embed.FS

// lockID is the advisory lock under which roles are made: an arbitrary number that every version must keep.
const lockID = 0x6d746d01

// Fingerprint identifies the migrations of this binary. Tests name their template database after it.
func Fingerprint() (string, error) {
	hash := sha256.New()
	err := fs.WalkDir(migrations, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		body, err := fs.ReadFile(migrations, path)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(hash, "%s %d\n%s", path, len(body), body)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read migrations: %w", err)
	}
	return hex.EncodeToString(hash.Sum(nil))[:12], nil
}

// lockTries is how often a migration is tried that did not get its locks, and lockPause the first pause after that. It waits for no
// lock longer than its lock_timeout, so that nobody waits longer behind it, and holds none during a pause. A reader of an hour outlasts
// this: the caller is to come back later, as [Prepare] does.
const (
	lockTries = 6
	lockPause = 200 * time.Millisecond
)

// Migrate makes the roles and applies every migration that the database at url lacks. Several starters at once are
// safe: one works, the others wait for it, at most a minute. The login of url becomes the owner of what is made; it has
// to be able to create roles, unless they are there already. A migration that does not get its locks is tried again a few times.
func Migrate(ctx context.Context, url string, log *zap.Logger) error {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return fmt.Errorf("parse the database URL for migrations: %w", err)
	}
	maps.Copy(config.RuntimeParams, postgres.MigrationSettings())
	if err := ensureRoles(ctx, config); err != nil {
		return err
	}
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("open migrations: %w", err)
	}
	// Waits of a second, sixty times: the default of goose makes every second starter wait ten seconds.
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 60))
	if err != nil {
		return fmt.Errorf("make the migration lock: %w", err)
	}
	db := stdlib.OpenDB(*config, stdlib.OptionAfterConnect(postgres.Unlimit))
	provider, err := goose.NewProvider(goose.DialectPostgres, db, sub, goose.WithSessionLocker(locker))
	if err != nil {
		return errors.Join(fmt.Errorf("load migrations: %w", err), db.Close())
	}
	if err := up(ctx, provider, log); err != nil {
		return errors.Join(fmt.Errorf("apply migrations: %w", err), provider.Close())
	}
	return provider.Close()
}

// up applies what is not applied yet. Each migration is a transaction, whose end gives all its locks back.
func up(ctx context.Context, provider *goose.Provider, log *zap.Logger) error {
	pauses := retry.Backoff(lockPause, lockPause<<lockTries)
	for try := 1; ; try++ {
		results, err := provider.Up(ctx)
		for _, result := range results {
			log.Info("migration applied", zap.Int64("version", result.Source.Version), zap.Duration("took", result.Duration))
		}
		if try == lockTries || !sqlstate.Is(err, pgerrcode.LockNotAvailable, pgerrcode.DeadlockDetected) {
			return err
		}
		log.Warn("a migration did not get its locks; it will be repeated", zap.Error(err))
		if sleepErr := retry.Sleep(ctx, pauses.NextBackOff()); sleepErr != nil {
			return errors.Join(err, sleepErr)
		}
	}
}

// version is the newest migration of this binary.
func version() (int64, error) {
	entries, err := fs.ReadDir(migrations, "migrations")
	if err != nil {
		return 0, fmt.Errorf("read migrations: %w", err)
	}
	var newest int64
	for _, entry := range entries {
		v, err := goose.NumericComponent(entry.Name())
		if err != nil {
			return 0, fmt.Errorf("read the version of %s: %w", entry.Name(), err)
		}
		newest = max(newest, v)
	}
	return newest, nil
}

// querier is a connection or a pool.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// errBehind says that the database is older than this binary.
var errBehind = errors.New("the database is older than this binary")

func checkCurrent(ctx context.Context, db querier) error {
	want, err := version()
	if err != nil {
		return err
	}
	var have int64
	if err := db.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM public.goose_db_version WHERE is_applied`).Scan(&have); err != nil {
		return fmt.Errorf("read the schema version: %w", err)
	}
	if have < want {
		return fmt.Errorf("schema version %d, need %d: %w", have, want, errBehind)
	}
	return nil
}

// Prepare returns once the database at cfg has the schema that this binary needs, and tries until ctx ends. It migrates
// if cfg names an owner login (database.migrate_url), or else if the login of database.url is more than a member of
// role; where it is not, it waits for the process that migrates. report is told the outcome of every try.
func Prepare(ctx context.Context, cfg postgres.Config, role string, log *zap.Logger, report func(error)) error {
	pauses := retry.Backoff(200*time.Millisecond, 5*time.Second)
	for {
		err := prepareOnce(ctx, cfg, role, log)
		report(err)
		if err == nil {
			return nil
		}
		log.Warn("the database is not ready", zap.Error(err))
		if err := retry.Sleep(ctx, pauses.NextBackOff()); err != nil {
			return err
		}
	}
}

func prepareOnce(ctx context.Context, cfg postgres.Config, role string, log *zap.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second) // a minute for the lock, and time to work
	defer cancel()
	url, err := migrationURL(ctx, cfg, role)
	if err != nil {
		return err
	}
	if url != "" {
		return Migrate(ctx, url, log)
	}
	connection, err := connect(ctx, cfg.URL, cfg.ConnectTimeout)
	if err != nil {
		return err
	}
	defer closeQuietly(ctx, connection)
	return checkCurrent(ctx, connection)
}

// migrationURL is the login that owns the schema, or "" where this service has none.
func migrationURL(ctx context.Context, cfg postgres.Config, role string) (string, error) {
	if cfg.MigrateURL != "" {
		return cfg.MigrateURL, nil
	}
	connection, err := connect(ctx, cfg.URL, cfg.ConnectTimeout)
	if err != nil {
		return "", err
	}
	defer closeQuietly(ctx, connection)
	var operator bool
	err = connection.QueryRow(ctx, `
		SELECT rolsuper OR rolcreaterole OR pg_get_userbyid(d.datdba) = current_user
		FROM pg_roles, pg_database d WHERE rolname = current_user AND d.datname = current_database() AND rolname <> $1`,
		role).Scan(&operator)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look at the rights of the database login: %w", err)
	}
	if operator {
		return cfg.URL, nil
	}
	return "", nil
}

func connect(ctx context.Context, url string, timeout time.Duration) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("parse the database URL: %w", err)
	}
	maps.Copy(config.RuntimeParams, postgres.MigrationSettings())
	if timeout > 0 {
		config.ConnectTimeout = timeout
	}
	connection, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	return connection, nil
}

// closeQuietly ends a connection whose work is done; there is nobody to tell if that fails.
func closeQuietly(ctx context.Context, connection *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = connection.Close(ctx)
}

// ensureRoles makes the roles of the services. The lock is taken in the database "postgres", which the starters of all
// databases of the cluster share: making the same role twice at a time fails. A login that may not connect there takes
// it in its own database.
func ensureRoles(ctx context.Context, config *pgx.ConnConfig) error {
	shared := config.Copy()
	shared.Database = "postgres"
	connection, err := pgx.ConnectConfig(ctx, shared)
	if sqlstate.Is(err, pgerrcode.InvalidCatalogName, pgerrcode.InsufficientPrivilege, pgerrcode.InvalidAuthorizationSpecification) {
		connection, err = pgx.ConnectConfig(ctx, config)
	}
	if err != nil {
		return fmt.Errorf("connect to make roles: %w", err)
	}
	defer closeQuietly(ctx, connection) // which also gives the lock back
	if _, err := connection.Exec(ctx, `SELECT pg_advisory_lock($1)`, int64(lockID)); err != nil {
		return fmt.Errorf("take the role lock: %w", err)
	}
	for _, role := range postgres.Roles() {
		if err := ensureRole(ctx, connection, role); err != nil {
			return fmt.Errorf("make role %s: %w", role, err)
		}
	}
	return nil
}

func ensureRole(ctx context.Context, connection *pgx.Conn, role string) error {
	var exists, member bool
	err := connection.QueryRow(ctx, `
		SELECT r.oid IS NOT NULL, r.oid IS NOT NULL AND pg_has_role(current_user, r.oid, 'MEMBER')
		FROM (SELECT $1::name AS name) AS wanted LEFT JOIN pg_roles r ON r.rolname = wanted.name`, role).Scan(&exists, &member)
	if err != nil {
		return err
	}
	name := pgx.Identifier{role}.Sanitize()
	if !exists {
		// The limits hold for a login of this name; connections that switch to the role bring the same ones along.
		for _, sql := range []string{
			`CREATE ROLE ` + name + ` NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE`,
			`ALTER ROLE ` + name + ` SET statement_timeout = '30s'`,
			`ALTER ROLE ` + name + ` SET idle_in_transaction_session_timeout = '30s'`,
		} {
			if _, err := connection.Exec(ctx, sql); err != nil {
				return err
			}
		}
	}
	if !member {
		// So that a single login, which is no superuser, can switch to the role.
		if _, err := connection.Exec(ctx, `GRANT `+name+` TO CURRENT_USER`); err != nil && !exists {
			return err
		}
	}
	return nil
}
