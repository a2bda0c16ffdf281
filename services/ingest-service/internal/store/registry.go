package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// Registration is what the registry of tenants says of one tenant.
type Registration struct {
	Spec contract.TenantSpec
	// Retired says that the tenant was deleted; Spec is then what it was at last, to be torn down.
	Retired bool
}

// RegistryPage is how many tenants [Store.Registered] returns at most.
const RegistryPage = 1000

// RegistryVersion is a text that changes with every change of the registry, and else stays.
func (s *Store) RegistryVersion(ctx context.Context) (version string, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if err := s.pool.QueryRow(ctx, `SELECT registry_version()`).Scan(&version); err != nil {
		return "", fmt.Errorf("read the version of the registry: %w", err)
	}
	return version, nil
}

// Registered are the tenants of the registry that are not deleted, in the order of their ids, behind the one given: a page of
// [RegistryPage], or less at the end.
func (s *Store) Registered(ctx context.Context, behind uuid.UUID) ([]Registration, error) {
	return s.registrations(ctx, `SELECT tenant, desired, concurrency, attempts, version, limits FROM registered_tenants($1, $2)`, behind, RegistryPage)
}

// RegisteredAmong are those of the given tenants that the registry has ever known, in no order.
func (s *Store) RegisteredAmong(ctx context.Context, ids []uuid.UUID) ([]Registration, error) {
	return s.registrations(ctx, `SELECT tenant, desired, concurrency, attempts, version, limits FROM registered_among($1)`, ids)
}

func (s *Store) registrations(ctx context.Context, query string, args ...any) ([]Registration, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("read the registry: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r Registration, err error) {
		var id uuid.UUID
		var state string
		if err = row.Scan(&id, &state, &r.Spec.Workers, &r.Spec.MaxAttempts, &r.Spec.Generation, &r.Spec.Limits); err != nil {
			return r, err
		}
		r.Spec.TenantID, r.Spec.State = id.String(), contract.DesiredState(state)
		if state == "deleted" {
			r.Retired, r.Spec.State = true, contract.DesiredDeleting
		}
		return r, nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the registry: %w", err)
	}
	return found, nil
}

// ExchangesWanted are up to 1,000 tenants that are to have an exchange of their own and have wanted one since within ago, behind the one
// given in the order of their ids; all of them if within is 0.
func (s *Store) ExchangesWanted(ctx context.Context, behind uuid.UUID, within time.Duration) ([]uuid.UUID, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var recent *time.Duration
	if within > 0 {
		recent = &within
	}
	rows, err := s.pool.Query(ctx, `SELECT exchanges_wanted($1, $2, $3::interval)`, behind, RegistryPage, recent)
	if err != nil {
		return nil, fmt.Errorf("read which tenants want an exchange: %w", err)
	}
	wanted, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("read which tenants want an exchange: %w", err)
	}
	return wanted, nil
}

// MarkAlive notes that a heartbeat of instance arrived through the control channel just now, and forgets those that had none for a day.
func (s *Store) MarkAlive(ctx context.Context, instance string) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, `
		WITH long_gone AS (DELETE FROM ingest_instances WHERE heard_at < now() - interval '1 day' AND instance <> $1)
		INSERT INTO ingest_instances (instance, heard_at) VALUES ($1, now())
		ON CONFLICT (instance) DO UPDATE SET heard_at = excluded.heard_at`, instance)
	if err != nil {
		return fmt.Errorf("note that the instance is alive: %w", err)
	}
	return nil
}

// OthersAlive reports whether a heartbeat of another instance arrived within the given time.
func (s *Store) OthersAlive(ctx context.Context, instance string, within time.Duration) (alive bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	err = s.pool.QueryRow(ctx,
		`SELECT EXISTS (SELECT FROM ingest_instances WHERE instance <> $1 AND heard_at > now() - $2::interval)`, instance, within).Scan(&alive)
	if err != nil {
		return false, fmt.Errorf("ask whether other instances are alive: %w", err)
	}
	return alive, nil
}

// RemoveMark is for an instance that ends in order.
func (s *Store) RemoveMark(ctx context.Context, instance string) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if _, err := s.pool.Exec(ctx, `DELETE FROM ingest_instances WHERE instance = $1`, instance); err != nil {
		return fmt.Errorf("forget the instance: %w", err)
	}
	return nil
}
