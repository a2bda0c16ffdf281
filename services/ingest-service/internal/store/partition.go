package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres/sqlstate"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

// ErrRetired says that a tenant was deleted before; its id can never be used again.
var ErrRetired = errors.New("the tenant was deleted; its id is retired")

// Attach makes the partition of tenant, if it is not there yet. The error is [ErrRetired] for a deleted tenant.
func (s *Store) Attach(ctx context.Context, tenant uuid.UUID) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, `SELECT tenant_attach($1)`, tenant)
	if sqlstate.Is(err, sqlstate.RetiredTenant) {
		return ErrRetired
	}
	if err != nil {
		return fmt.Errorf("attach the partition: %w", err)
	}
	return nil
}

// Attached reports whether tenant has a partition, or is about to lose it: false for a tenant that was never provisioned,
// and for one that was deleted.
func (s *Store) Attached(ctx context.Context, tenant uuid.UUID) (attached bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	err = s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM tenant_partitions WHERE id = $1 AND dropped_at IS NULL)`, tenant).Scan(&attached)
	if err != nil {
		return false, fmt.Errorf("look for the partition: %w", err)
	}
	return attached, nil
}

// AttachedLongerThan are the tenants whose partition is at least so old and was not dropped, the youngest first.
func (s *Store) AttachedLongerThan(ctx context.Context, age time.Duration) ([]uuid.UUID, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	rows, err := s.pool.Query(ctx,
		`SELECT id FROM tenant_partitions WHERE dropped_at IS NULL AND attached_at <= now() - $1::interval ORDER BY attached_at DESC`, age)
	if err != nil {
		return nil, fmt.Errorf("read which partitions there are: %w", err)
	}
	tenants, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("read which partitions there are: %w", err)
	}
	return tenants, nil
}

// dropTries is how often Drop asks for the lock, in about a second and a half. A long reader, such as a backup, may hold it
// for an hour: the caller is to come back later rather than make others queue behind us again and again.
const dropTries = 5

// Drop removes the partition and the dead letters of tenant and retires its id. Detaching waits at most 200 ms for its
// lock each time, so that nobody else waits longer behind it. Repeating it is harmless. The usage of the tenant is counted to the last
// message, and stays.
func (s *Store) Drop(ctx context.Context, tenant uuid.UUID) error {
	// The drop counts what is left, in one transaction: so not everything that was ever stored.
	for {
		step, err := s.RollUp(ctx, tenant)
		if err != nil {
			return fmt.Errorf("drop the partition: %w", err)
		}
		if step.Counted < RollUpPage {
			break
		}
	}
	for tries := 1; ; {
		done, err := s.dropStep(ctx, tenant)
		switch {
		case sqlstate.Is(err, pgerrcode.LockNotAvailable) && tries < dropTries:
			tries++
			pause := 50*time.Millisecond + rand.N(200*time.Millisecond) //nolint:gosec // jitter, not a secret
			if err := retry.Sleep(ctx, pause); err != nil {
				return fmt.Errorf("drop the partition: %w", err)
			}
		case err != nil:
			return fmt.Errorf("drop the partition: %w", err)
		case done:
			return s.dropDeadLetters(ctx, tenant)
		}
	}
}

func (s *Store) dropStep(ctx context.Context, tenant uuid.UUID) (done bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	err = s.pool.QueryRow(ctx, `SELECT tenant_drop($1)`, tenant).Scan(&done)
	return done, err
}

func (s *Store) dropDeadLetters(ctx context.Context, tenant uuid.UUID) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	return postgres.InTenant(ctx, s.pool, tenant, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM dead_letters WHERE tenant_id = $1`, tenant); err != nil {
			return fmt.Errorf("delete the dead letters: %w", err)
		}
		return nil
	})
}

// errReadOnly says that the database answers and takes nothing: a standby, or one that an operator has set so.
var errReadOnly = errors.New("the database is read-only")

// Ping asks the database whether it is there and can be written to.
func (s *Store) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var readOnly string
	if err := s.pool.QueryRow(ctx, `SHOW transaction_read_only`).Scan(&readOnly); err != nil {
		return fmt.Errorf("ping the database: %w", err)
	}
	if readOnly == "on" {
		return errReadOnly
	}
	return nil
}
