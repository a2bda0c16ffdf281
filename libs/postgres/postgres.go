// Package postgres opens the one pool of connections that a service has, under the role that the service acts as.
//
// Whatever the login of database.url may do, a connection that leaves this package acts as a least-privilege role: it
// is switched to that role when it is made, and refused if it would still be a superuser or could get past row-level
// security. The pool serves raw pgx and, through [Gorm], GORM.
//
// Every connection limits its statements and its idle transactions, because one forgotten writing transaction anywhere
// holds back what readers see, and uses custom plans only: a generic plan of a partitioned table locks every partition
// (measured at 300 partitions: 902 locks a query instead of 5).
package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres/sqlstate"
	"github.com/srireskianita/multi-tenant-messaging/libs/telemetry"
)

// The roles that the services act as.
const (
	RoleTenant = "mtm_tenant"
	RoleIngest = "mtm_ingest"
	RoleQuery  = "mtm_query"
)

// Roles are all roles of the services.
func Roles() []string { return []string{RoleTenant, RoleIngest, RoleQuery} }

// MaxStatementTimeout is the longest that a statement may be allowed to run: the reading order relies on no writing
// transaction of a service being older.
const MaxStatementTimeout = 30 * time.Second

// lockTimeout is how long a statement waits for a lock: somebody who locks one tenant's partition must not tie up all
// connections of a process. It is a fault of the infrastructure, so what was to be written is written later.
const lockTimeout = 2 * time.Second

// Config is the section "database" of a service's configuration.
type Config struct {
	URL              string        `koanf:"url" validate:"required" secret:"url" usage:"PostgreSQL URL of the service's login"`
	MigrateURL       string        `koanf:"migrate_url" secret:"url" usage:"PostgreSQL URL of the schema's owner; without it, database.url migrates if it may"`
	MaxConns         int32         `koanf:"max_conns" validate:"min=2,max=1000" usage:"connections of this process at most"`
	ConnectTimeout   time.Duration `koanf:"connect_timeout" validate:"min=100ms,max=1m" usage:"how long a connection may take to open"`
	StatementTimeout time.Duration `koanf:"statement_timeout" validate:"min=100ms,max=30s" usage:"how long a statement may run; 30s at most, since the reading order relies on it"`
}

// DefaultConfig is everything but the URL.
func DefaultConfig() Config {
	return Config{MaxConns: 16, ConnectTimeout: 5 * time.Second, StatementTimeout: 15 * time.Second}
}

// Open makes a pool whose connections act as role. It does not wait for the server: a pool can be opened while
// PostgreSQL is down, and its first use fails until it is up. An error means that the URL is wrong.
func Open(ctx context.Context, cfg Config, role string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("parse database.url: %w", err)
	}
	config.MaxConns = cfg.MaxConns
	config.MaxConnLifetime = time.Hour
	config.MaxConnLifetimeJitter = 10 * time.Minute
	config.MaxConnIdleTime = 10 * time.Minute
	config.ConnConfig.ConnectTimeout = cfg.ConnectTimeout
	config.ConnConfig.DialFunc = withWriteBuffer(config.ConnConfig.DialFunc)
	parameters := config.ConnConfig.RuntimeParams
	maps.Copy(parameters, Settings())
	parameters["application_name"] = role
	parameters["plan_cache_mode"] = "force_custom_plan"
	parameters["statement_timeout"] = strconv.FormatInt(cfg.StatementTimeout.Milliseconds(), 10)
	parameters["lock_timeout"] = strconv.FormatInt(lockTimeout.Milliseconds(), 10)
	parameters["idle_in_transaction_session_timeout"] = strconv.FormatInt(MaxStatementTimeout.Milliseconds(), 10)
	config.AfterConnect = func(ctx context.Context, connection *pgx.Conn) error {
		return assume(ctx, connection, role)
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open the database pool: %w", err)
	}
	return pool, nil
}

// Connect opens one connection beside those of pool, as the same role and with the same settings, for what must not wait for a
// connection of the pool. The caller closes it.
func Connect(ctx context.Context, pool *pgxpool.Pool) (*pgx.Conn, error) {
	config := pool.Config()
	connection, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	if err := config.AfterConnect(ctx, connection); err != nil {
		_ = connection.Close(ctx) // the reason is in err
		return nil, err
	}
	return connection, nil
}

// writeBuffer is how much of what is written a connection takes over at once: a batch as it usually is. By default the kernel
// begins with 16 KB, and half a megabyte was written in sixty pieces, with as many times of being woken. The kernel gives what
// net.core.wmem_max allows, which may be less.
const writeBuffer = 1 << 20

func withWriteBuffer(dial pgconn.DialFunc) pgconn.DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		connection, err := dial(ctx, network, address)
		if tcp, ok := connection.(*net.TCPConn); ok && err == nil {
			_ = tcp.SetWriteBuffer(writeBuffer) // without it, it works as well
		}
		return connection, err
	}
}

// errTooPowerful says that a connection would not be bound by row-level security.
var errTooPowerful = errors.New("the role is a superuser or may bypass row-level security; the service refuses to run as such")

// durable raises synchronous_commit where an operator has turned it off: what is acknowledged after its commit must survive a
// crash of the server.
const durable = `SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'; `

// assume makes connection act as role and nothing more, and begins a new reading epoch if the cluster has changed.
func assume(ctx context.Context, connection *pgx.Conn, role string) error {
	if _, err := connection.Exec(ctx, unlimited(connection)+durable+`SET ROLE `+pgx.Identifier{role}.Sanitize()); err != nil {
		return fmt.Errorf("switch to role %s (has the schema been migrated, and is the login a member?): %w", role, err)
	}
	var powerful bool
	if err := connection.QueryRow(ctx, `SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user`).Scan(&powerful); err != nil {
		return fmt.Errorf("look at role %s: %w", role, err)
	}
	if powerful {
		return fmt.Errorf("role %s: %w", role, errTooPowerful)
	}
	if role == RoleTenant { // it neither writes nor reads messages
		return nil
	}
	_, err := ReadingEpoch(ctx, connection)
	if sqlstate.Is(err, pgerrcode.UndefinedFunction) { // not migrated yet, so there is no epoch to advance
		return nil
	}
	return err
}

// epochKey is where a connection keeps the epoch that its transactions belong to.
const epochKey = "mtm_reading_epoch"

// ReadingEpoch is the epoch of the reading order that the transactions of connection belong to, which is begun if the
// cluster or its timeline has changed since the last one. It is asked for once a connection, since such a change cuts all
// connections, but for one: those to a standby stay when it is promoted (PostgreSQL documentation, "Hot Standby", "User's
// Overview"). So there it is asked for every time, and the first transaction that can write finds the epoch that the
// promotion begins.
func ReadingEpoch(ctx context.Context, connection *pgx.Conn) (int32, error) {
	known := connection.PgConn().CustomData()
	if epoch, ok := known[epochKey].(int32); ok {
		return epoch, nil
	}
	var standby bool
	var epoch int32
	// In this order: a promotion in between gives the new epoch to be asked for again, not the old one to be kept.
	err := connection.QueryRow(ctx, `SELECT pg_is_in_recovery(), advance_reading_epoch()`).Scan(&standby, &epoch)
	if err != nil {
		return 0, fmt.Errorf("advance the reading epoch: %w", err)
	}
	if !standby {
		known[epochKey] = epoch
	}
	return epoch, nil
}

// SetTenant is the statement, with the tenant as its one argument, that makes row-level security show and accept the
// rows of that tenant until the end of the transaction.
const SetTenant = `SELECT set_config('app.tenant_id', $1, true)`

// InTenant runs fn in a transaction that sees and writes the rows of tenant alone, and commits if fn returns nil.
func InTenant(ctx context.Context, pool *pgxpool.Pool, tenant uuid.UUID, fn func(tx pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, SetTenant, tenant.String()); err != nil {
			return fmt.Errorf("set the tenant: %w", err)
		}
		return fn(tx)
	})
}

// Timing of [Watch].
const (
	pingInterval = 2 * time.Second
	pingTimeout  = 2 * time.Second
)

// Watch reports to check whether the database answers, until ctx ends. It returns nil then. A database that is read-only by
// default answers; once it is so no more, every connection of pool knows within seconds.
func Watch(ctx context.Context, pool *pgxpool.Pool, check *telemetry.Check) error {
	ticker := time.NewTicker(pingInterval)
	defer ticker.Stop()
	for {
		check.Set(ping(ctx, pool))
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// ping asks whether the database answers. Connections that were made while the database was read-only by default stay so when
// it is not any more, so they are replaced for as long as there are some.
func ping(ctx context.Context, pool *pgxpool.Pool) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	var readOnly bool
	err := pool.QueryRow(ctx, `SELECT current_setting('default_transaction_read_only')::boolean`).Scan(&readOnly)
	if err != nil {
		return fmt.Errorf("ping the database: %w", err)
	}
	if readOnly {
		pool.Reset()
	}
	return nil
}
