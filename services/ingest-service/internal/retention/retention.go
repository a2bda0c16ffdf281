// Package retention removes the messages and the dead letters that tenants do not keep: those that are older than retention_seconds,
// the oldest beyond retention_bytes, and the dead letters that are older than dead_letter_retention_seconds.
//
// It works in steps of some milliseconds, each of which is one transaction that removes the next messages in the reading order, moves the
// tenant's boundary and counts what was removed ([store.Store.Retain]). So whatever dies leaves whole steps, and the next one goes on
// from the boundary. Between two steps it pauses for as long as the first took, and it has one connection at a time: half a connection at
// the most, whatever there is to remove.
//
// Each tenant has one instance that looks at it. Instances that disagree about which one that is exclude each other in the database. A
// tenant that was looked at is looked at again after a hundredth of its shortest limit of age, a second at least and five minutes at most,
// and by the instance that has counted new messages of it as soon as it has, if the tenant has a limit of bytes. A change of limits
// counts from the next second on, also for a tenant whose messages are being removed.
package retention

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres/sqlstate"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

const (
	// interval is the pause between two rounds, and how long a round goes on before it looks for changed limits.
	interval = time.Second
	// longestPause is that between two looks at a tenant, give or take a tenth.
	longestPause = 5 * time.Minute
	// pauseParts is the part of a limit of age by which removal may be late.
	pauseParts = 100
	// maxSteps is how many steps of a tenant follow one another before it is the turn of the next.
	maxSteps = 20
)

// Remover removes a step; store.Store is one.
type Remover interface {
	Retain(ctx context.Context, tenant uuid.UUID, limits contract.Limits) (store.Retained, error)
	RetainDeadLetters(ctx context.Context, tenant uuid.UUID, limits contract.Limits) (removed int64, more bool, err error)
}

// Tenants knows the limits in force; tenants.Controller is one.
type Tenants interface {
	// EachLimits calls visit for each tenant that is not being deleted.
	EachLimits(visit func(tenant uuid.UUID, limits contract.Limits))
	// Limits are those of one tenant; none if it is not known.
	Limits(tenant uuid.UUID) contract.Limits
}

// Keeper removes what tenants do not keep. Its fields but those of the group of mu and the metrics are owned by the goroutine of Run.
type Keeper struct {
	remover Remover
	tenants Tenants
	owns    func(tenant uuid.UUID) bool
	log     *zap.Logger

	looks   map[uuid.UUID]*look // of the tenants with a limit
	rounds  int64
	failing bool // the last round has failed

	mu      sync.Mutex
	counted map[uuid.UUID]struct{} // tenants of which new messages were counted

	messages, bytes, deadLetters, failed prometheus.Counter
	overdue                              prometheus.Gauge
}

// look is when a tenant is to be looked at.
type look struct {
	limits limits
	next   time.Time
	// counted says that this instance has counted new messages, and looks at the tenant whoever's it is.
	counted bool
	// behind is since when something is there that should have been removed; zero if nothing is.
	behind time.Time
	round  int64 // the last one in which the tenant had limits
}

// limits are those that retention holds.
type limits struct{ seconds, bytes, deadLetterSeconds int64 }

func limitsOf(l contract.Limits) limits {
	return limits{l.RetentionSeconds, l.RetentionBytes, l.DeadLetterRetentionSeconds}
}

// pause is how long a tenant of which nothing is left to be removed is not looked at.
func (l limits) pause() time.Duration {
	pause := longestPause
	for _, seconds := range []int64{l.seconds, l.deadLetterSeconds} {
		if seconds > 0 {
			pause = min(pause, max(time.Duration(seconds)*time.Second/pauseParts, interval))
		}
	}
	return retry.Jitter(pause)
}

// New returns a keeper for the tenants that owns says are this instance's, and registers its metrics on reg.
func New(remover Remover, tenants Tenants, owns func(tenant uuid.UUID) bool, reg prometheus.Registerer, log *zap.Logger) *Keeper {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	k := &Keeper{
		remover: remover, tenants: tenants, owns: owns, log: log,
		looks: make(map[uuid.UUID]*look), counted: make(map[uuid.UUID]struct{}),
		messages:    counter("mtm_retention_messages_removed_total", "Messages that this instance has removed because of a tenant's limit of age or bytes."),
		bytes:       counter("mtm_retention_bytes_removed_total", "Bytes of payload and envelope of those messages."),
		deadLetters: counter("mtm_retention_dead_letters_removed_total", "Dead letters that this instance has removed because of their age."),
		failed:      counter("mtm_retention_failures_total", "Rounds in which something could not be removed; they are repeated."),
		overdue: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mtm_retention_overdue_seconds", Help: "For how long something is there that should have been removed, of the tenants of this instance.",
		}),
	}
	reg.MustRegister(k.messages, k.bytes, k.deadLetters, k.failed, k.overdue)
	return k
}

// Counted notes that new messages of a tenant were counted. It is safe for concurrent use.
func (k *Keeper) Counted(tenant uuid.UUID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.counted[tenant] = struct{}{}
}

// Run removes until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	for {
		left, err := k.round(ctx)
		k.report(ctx, err)
		pause := interval
		if left && err == nil {
			pause = 0
		}
		if retry.Sleep(ctx, pause) != nil {
			return nil //nolint:nilerr // the end of ctx is the way to stop it
		}
	}
}

// report logs the first failure of several in a row, and that they are over.
func (k *Keeper) report(ctx context.Context, err error) {
	switch {
	case err != nil && ctx.Err() == nil:
		k.failed.Inc()
		if !k.failing {
			k.log.Warn("what tenants do not keep could not be removed; it will be repeated", zap.Error(err))
		}
		k.failing = true
	case err == nil && k.failing:
		k.failing = false
		k.log.Info("what tenants do not keep is removed again")
	}
}

// round looks at the tenants that are due, those first that have been for longest, for a second. left says that there is more to be
// removed right now.
func (k *Keeper) round(ctx context.Context) (left bool, err error) {
	begun := time.Now()
	due := k.due(begun)
	defer func() { k.overdue.Set(k.longestOverdue(time.Now()).Seconds()) }()
	var failures []error
	for i, tenant := range due {
		if i > 0 && time.Since(begun) >= interval {
			return true, errors.Join(failures...)
		}
		more, err := k.turn(ctx, tenant)
		if isForAll(err) {
			return false, err
		}
		left, failures = left || more, append(failures, err)
	}
	return left, errors.Join(failures...)
}

// due takes in which limits there are and which tenants have new messages, and returns the tenants to be looked at.
func (k *Keeper) due(now time.Time) []uuid.UUID {
	k.mu.Lock()
	counted := k.counted
	k.counted = make(map[uuid.UUID]struct{})
	k.mu.Unlock()
	k.rounds++
	k.tenants.EachLimits(func(tenant uuid.UUID, all contract.Limits) {
		want := limitsOf(all)
		if want == (limits{}) {
			return
		}
		l := k.looks[tenant]
		if l == nil || l.limits != want {
			l = &look{limits: want, next: now}
			k.looks[tenant] = l
		}
		l.round = k.rounds
		if _, ok := counted[tenant]; ok && want.bytes > 0 {
			l.counted = true
			if l.next.After(now) {
				l.next = now
			}
		}
	})
	var due []uuid.UUID
	for tenant, l := range k.looks {
		switch {
		case l.round != k.rounds:
			delete(k.looks, tenant)
		case l.next.After(now):
		case l.counted || k.owns(tenant):
			due = append(due, tenant)
		default: // it may become this instance's
			l.next, l.behind = now.Add(l.limits.pause()), time.Time{}
		}
	}
	slices.SortFunc(due, func(a, b uuid.UUID) int { return k.looks[a].next.Compare(k.looks[b].next) })
	return due
}

// longestOverdue is for how long something is there that should have been removed, or has not been looked for.
func (k *Keeper) longestOverdue(now time.Time) (longest time.Duration) {
	for _, l := range k.looks {
		longest = max(longest, now.Sub(l.next))
		if !l.behind.IsZero() {
			longest = max(longest, now.Sub(l.behind))
		}
	}
	return longest
}

// isForAll reports whether the next tenant would meet err as well.
func isForAll(err error) bool {
	return sqlstate.IsServerWide(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// turn removes some steps of a tenant, and says when it is to be looked at again. more says that there is more to be removed right now.
func (k *Keeper) turn(ctx context.Context, tenant uuid.UUID) (more bool, err error) {
	last, messages, err := k.removeMessages(ctx, tenant)
	deadLetters := false
	if err == nil {
		deadLetters, err = k.removeDeadLetters(ctx, tenant)
	}
	now, l := time.Now(), k.looks[tenant]
	more = messages || deadLetters
	busy := last.More && last.Messages == 0
	switch {
	case err == nil && !more && !busy && (last.Overdue == 0 || last.Messages > 0):
		l.behind = time.Time{}
	case last.Overdue > 0:
		l.behind = now.Add(-last.Overdue)
	case l.behind.IsZero():
		l.behind = now
	}
	switch {
	case err != nil || busy:
		l.next = now.Add(interval)
	case more: // behind those that wait
		l.next = now
	default:
		l.next, l.counted = now.Add(l.limits.pause()), false
	}
	if err != nil {
		return false, fmt.Errorf("tenant %s: %w", tenant, err)
	}
	return more, nil
}

// removeMessages removes some steps of messages and returns the last one.
func (k *Keeper) removeMessages(ctx context.Context, tenant uuid.UUID) (last store.Retained, left bool, err error) {
	left, err = repeat(ctx, func() (bool, error) {
		limits := k.tenants.Limits(tenant) // those of now
		if last = (store.Retained{}); limits.RetentionSeconds == 0 && limits.RetentionBytes == 0 {
			return false, nil
		}
		last, err = k.remover.Retain(ctx, tenant, limits)
		k.messages.Add(float64(last.Messages))
		k.bytes.Add(float64(last.Bytes))
		return last.More && last.Messages > 0, err
	})
	return last, left, err
}

// removeDeadLetters removes some steps of dead letters.
func (k *Keeper) removeDeadLetters(ctx context.Context, tenant uuid.UUID) (left bool, err error) {
	return repeat(ctx, func() (bool, error) {
		limits := k.tenants.Limits(tenant)
		if limits.DeadLetterRetentionSeconds == 0 {
			return false, nil
		}
		removed, more, err := k.remover.RetainDeadLetters(ctx, tenant, limits)
		k.deadLetters.Add(float64(removed))
		return more, err
	})
}

// repeat calls step until nothing is left, or maxSteps times, and pauses after each call for as long as it took.
func repeat(ctx context.Context, step func() (left bool, err error)) (left bool, err error) {
	for range maxSteps {
		begun := time.Now()
		left, err = step()
		if err == nil {
			err = retry.Sleep(ctx, time.Since(begun))
		}
		if err != nil || !left {
			return false, err
		}
	}
	return true, nil
}
