package store

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
)

// writtenTenants are the tenants that this process has written messages of.
type writtenTenants struct {
	mu      sync.Mutex
	tenants map[uuid.UUID]struct{} // guarded by mu
}

func (w *writtenTenants) mark(tenant uuid.UUID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.tenants == nil {
		w.tenants = make(map[uuid.UUID]struct{})
	}
	w.tenants[tenant] = struct{}{}
}

// Written are the tenants of which [Store.Insert] has returned since the last call. Where it failed because of a lost connection, the
// messages may be committed later; whoever repeats it is in a later call.
func (s *Store) Written() map[uuid.UUID]struct{} {
	s.written.mu.Lock()
	defer s.written.mu.Unlock()
	tenants := s.written.tenants
	s.written.tenants = nil
	return tenants
}

// RollUpPage is how many messages [Store.RollUp] counts at most: some milliseconds of reading, or 50 of those that were stored
// without their size.
const RollUpPage = 10_000

// RolledUp is the outcome of one step of counting.
type RolledUp struct {
	// Counted messages of this step.
	Counted int64
	// More can be counted right now, or another instance is counting.
	More bool
	// Horizon and Ahead bound the transactions that were running: all below Horizon had ended, and Ahead none had begun yet. Both are
	// 0 if another instance is counting. What was committed before this step is counted once a step has returned without
	// More, and with a Horizon that is at least the Ahead of this one.
	Horizon, Ahead uint64
}

// RollUp counts the next messages of tenant for its usage, up to [RollUpPage]. A tenant without a partition has none.
func (s *Store) RollUp(ctx context.Context, tenant uuid.UUID) (step RolledUp, err error) {
	err = s.inBackground(ctx, tenant, `SELECT counted, more, coalesce(horizon, '0'), coalesce(ahead, '0') FROM usage_roll_up($1, $2)`,
		[]any{tenant, RollUpPage}, &step.Counted, &step.More, &step.Horizon, &step.Ahead)
	if err != nil {
		return RolledUp{}, fmt.Errorf("count the usage: %w", err)
	}
	return step, nil
}

// expirePage keeps a transaction that removes hours short.
const expirePage = 500

// ExpireUsage removes the hours of all tenants' usage that began before a time, and returns how many these were, also when it
// returns an error.
func (s *Store) ExpireUsage(ctx context.Context, before time.Time) (expired int64, err error) {
	for {
		n, err := s.expireStep(ctx, before)
		if expired += n; err != nil || n < expirePage {
			return expired, err
		}
	}
}

func (s *Store) expireStep(ctx context.Context, before time.Time) (expired int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if err := s.pool.QueryRow(ctx, `SELECT usage_expire($1, $2)`, before, expirePage).Scan(&expired); err != nil {
		return 0, fmt.Errorf("remove old usage: %w", err)
	}
	return expired, nil
}
