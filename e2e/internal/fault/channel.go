package fault

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

const (
	// disagreeOn is of how many tenants the control channel says something else, at most.
	disagreeOn = 10
	// agreeLimit is how long it may take until control channel, registry and instances agree again, not counting the time in which
	// other faults are in force: tenant-service compares every 33 s at most, ingest-service in a run every 4 s.
	agreeLimit = time.Minute
)

// channel is the control channel, reached without a proxy.
func (r *run) channel() (*control.Conn, error) {
	conn, err := control.Connect(control.Config{URL: r.platform.Backing.NATSURL}, "fault", zap.NewNop(), nil)
	if err != nil {
		return nil, fmt.Errorf("connect to the control channel: %w", err)
	}
	return conn, nil
}

// disagree has the control channel say something else than the registry, as replicas that stay apart do, of as many tenants as
// each in another way: it has lost one, it has an old value, one that nobody has written, that of another tenant, or a
// deletion that nobody has asked for; and it names a tenant that was never there.
func (r *run) disagree(ctx context.Context) error {
	conn, err := r.channel()
	if err != nil {
		return err
	}
	defer conn.Close()
	bucket := control.Tenants(conn)
	entries, err := snapshot(ctx, bucket)
	if err != nil {
		return err
	}
	wrong := 0
	for key, entry := range entries {
		if wrong++; wrong > disagreeOn {
			break
		}
		spec := entry.Value
		switch wrong % 5 {
		case 0:
			err = errors.Join(err, bucket.Delete(ctx, key))
			continue
		case 1:
			spec.Generation, spec.Workers = 1, spec.Workers+1
		case 2:
			spec.Generation, spec.State = spec.Generation+3, contract.DesiredSuspended
		case 3:
			spec.TenantID = uuid.NewString()
		case 4:
			spec.Generation, spec.State = spec.Generation+1, contract.DesiredDeleting
		}
		_, failed := bucket.Put(ctx, key, spec)
		err = errors.Join(err, failed)
	}
	nobody := contract.TenantSpec{TenantID: uuid.NewString(), State: contract.DesiredDeleting, Workers: 1, Generation: 7}
	_, failed := bucket.Put(ctx, nobody.TenantID, nobody)
	return errors.Join(err, failed)
}

// snapshot is a snapshot of a bucket once it can be had: a new connection may not be there yet.
func snapshot[T any](ctx context.Context, bucket *control.Bucket[T]) (entries map[string]control.Entry[T], err error) {
	for {
		if entries, err = bucket.Snapshot(ctx); err == nil {
			return entries, nil
		}
		if retry.Sleep(ctx, recoveryPoll) != nil {
			return nil, fmt.Errorf("read the control channel: %w", err)
		}
	}
}

// agree returns when the control channel says what the registry says of every tenant, and the instances have brought it about.
func (r *run) agree(ctx context.Context, n int, since time.Time) error {
	conn, err := r.channel()
	if err != nil {
		return err
	}
	defer conn.Close()
	for {
		err := r.agrees(ctx, conn)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case r.gate.quiet(n, since) > agreeLimit:
			return fmt.Errorf("control channel and registry still disagree: %w", err)
		}
		if err := retry.Sleep(ctx, 10*recoveryPoll); err != nil {
			return err
		}
	}
}

// agrees is nil if they agree now.
func (r *run) agrees(ctx context.Context, conn *control.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	registered, err := r.registered(ctx)
	if err != nil {
		return err
	}
	entries, err := control.Tenants(conn).Snapshot(ctx)
	if err != nil {
		return fmt.Errorf("read the control channel: %w", err)
	}
	statuses, err := control.Statuses(conn).Snapshot(ctx)
	if err != nil {
		return fmt.Errorf("read the statuses: %w", err)
	}
	for _, want := range registered {
		if have := entries[want.TenantID].Value; have != want {
			return fmt.Errorf("the registry says %+v, the channel %+v", want, have)
		}
		delete(entries, want.TenantID)
	}
	if len(entries) > 0 {
		return fmt.Errorf("the channel has %d tenants more than the registry", len(entries))
	}
	return observed(registered, statuses)
}

// observed is nil if every running instance that reports on a tenant has brought about what the registry says of it, and at least
// one does. What a killed instance has reported stays for a while and does not count.
func observed(registered []contract.TenantSpec, statuses map[string]control.Entry[contract.TenantStatus]) error {
	seen := make(map[string]bool)
	generations := make(map[string]int64, len(registered))
	for _, want := range registered {
		generations[want.TenantID] = want.Generation
	}
	for key, status := range statuses {
		_, instance, ok := contract.ParseStatusKey(key)
		beat, alive := statuses[contract.InstanceKey(instance)]
		if !ok || !alive || beat.Value.Run != status.Value.Run {
			continue
		}
		if generation, known := generations[status.Value.TenantID]; known && status.Value.ObservedGeneration < generation {
			return fmt.Errorf("the registry has generation %d, an instance has seen %+v", generation, status.Value)
		}
		seen[status.Value.TenantID] = true
	}
	for _, want := range registered {
		if !seen[want.TenantID] {
			return fmt.Errorf("no running instance reports on %+v", want)
		}
	}
	return nil
}

// registered is what the registry says of every tenant that is not deleted.
func (r *run) registered(ctx context.Context) ([]contract.TenantSpec, error) {
	operator, err := pgx.Connect(ctx, r.platform.Backing.DatabaseURL)
	if err != nil {
		return nil, fmt.Errorf("connect as operator: %w", err)
	}
	defer disconnect(ctx, operator)
	rows, err := operator.Query(ctx, `SELECT id::text, state, workers, max_attempts, generation, limits FROM tenants WHERE state <> 'deleted'`)
	if err != nil {
		return nil, fmt.Errorf("read the registry: %w", err)
	}
	specs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (spec contract.TenantSpec, err error) {
		return spec, row.Scan(&spec.TenantID, &spec.State, &spec.Workers, &spec.MaxAttempts, &spec.Generation, &spec.Limits)
	})
	if err != nil {
		return nil, fmt.Errorf("read the registry: %w", err)
	}
	return specs, nil
}
