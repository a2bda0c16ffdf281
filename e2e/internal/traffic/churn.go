package traffic

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

// RoundTrip publishes one message to every tenant that is neither suspended nor limited, and returns when each has been confirmed and
// met by the follower of its tenant: the platform works for everybody. It needs Run or Drain to be running.
func (t *Traffic) RoundTrip(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, a := range append([]*account{t.probe}, t.tenants...) {
		if a.isHeld() || !a.isLive() {
			continue
		}
		group.Go(func() error {
			items := a.offer(1, never)
			if left := t.deliver(ctx, a, wayHTTP, items, ignore); len(left) > 0 {
				return fmt.Errorf("tenant %s: a message is not confirmed: %w", a.tenant, ctx.Err())
			}
			return t.await(ctx, a, items)
		})
	}
	return group.Wait()
}

func never() bool { return false }

func ignore(item) {}

// await returns when the follower of a has met all items, or the tenant was suspended or limited meanwhile. It does not wait for
// what may be removed.
func (t *Traffic) await(ctx context.Context, a *account, items []item) error {
	for {
		missing := slices.IndexFunc(items, func(m item) bool { return !m.poison && !a.hasSeen(m.seq) })
		if missing < 0 || a.isHidden() {
			return nil
		}
		if retry.Sleep(ctx, probePause) != nil {
			return fmt.Errorf("tenant %s: message %d was confirmed and is not read: %w", a.tenant, items[missing].seq, context.Cause(ctx))
		}
	}
}

// dice are the choices of one call of Churn.
func (t *Traffic) dice() *rand.Rand {
	return rand.New(rand.NewPCG(uint64(t.opts.Seed), 1<<32|t.churned.Add(1))) //nolint:gosec // reproducible, not secret
}

// choose takes n tenants that nobody else is changing.
func (t *Traffic) choose(ctx context.Context, dice *rand.Rand, n int) (chosen []*account, release func(), err error) {
	var releases []func()
	release = func() {
		for _, one := range releases {
			one()
		}
	}
	for {
		for _, i := range dice.Perm(len(t.tenants)) {
			if one, ok := t.tenants[i].tryClaim(); ok {
				chosen, releases = append(chosen, t.tenants[i]), append(releases, one)
			}
			if len(chosen) == n {
				return chosen, release, nil
			}
		}
		if retry.Sleep(ctx, probePause) != nil {
			release()
			return nil, nil, fmt.Errorf("wait for a tenant that nobody changes: %w", ctx.Err())
		}
	}
}

// ResizeStorm resizes several tenants many times in a row. The last number wins and is awaited.
func (t *Traffic) ResizeStorm(ctx context.Context) error {
	const most, times, largest = 5, 10, 8
	dice := t.dice()
	chosen, release, err := t.choose(ctx, dice, max(1, min(most, len(t.tenants)/2)))
	if err != nil {
		return err
	}
	defer release()
	group, ctx := errgroup.WithContext(ctx)
	for _, a := range chosen {
		sizes := make([]int, times)
		for i := range sizes {
			sizes[i] = 1 + dice.IntN(largest)
		}
		group.Go(func() error {
			for _, size := range sizes {
				if err := t.site.Admin.Resize(ctx, a.tenant, size); err != nil {
					return err
				}
			}
			return t.site.Admin.AwaitState(ctx, a.tenant, client.ConsumerRunning, sizes[times-1])
		})
	}
	return group.Wait()
}

// Reconfigure changes the number of a tenant's workers and returns when the change was applied.
func (t *Traffic) Reconfigure(ctx context.Context) error {
	dice := t.dice()
	chosen, release, err := t.choose(ctx, dice, 1)
	if err != nil {
		return err
	}
	defer release()
	const beyond, choices = 9, 8 // what a storm leaves is less, so that it is a change
	size := beyond + dice.IntN(choices)
	if err := t.site.Admin.Resize(ctx, chosen[0].tenant, size); err != nil {
		return err
	}
	return t.site.Admin.AwaitState(ctx, chosen[0].tenant, client.ConsumerRunning, size)
}

// create makes a tenant of its own for one call, and tells how long it took until it ran.
func (t *Traffic) create(ctx context.Context) (a *account, took time.Duration, err error) {
	a = t.ledger.open(uuid.New())
	began := time.Now()
	if err := t.site.Admin.Create(ctx, a.tenant, workers); err != nil {
		return a, 0, err
	}
	if err := t.site.Admin.AwaitState(ctx, a.tenant, client.ConsumerRunning, workers); err != nil {
		return a, 0, err
	}
	return a, time.Since(began), nil
}

// remove deletes a tenant and returns when it is gone. From then on nothing of it may be found anywhere.
func (t *Traffic) remove(ctx context.Context, a *account) error {
	a.setPhase(phaseDeleting)
	if err := t.site.Admin.Delete(ctx, a.tenant); err != nil {
		return err
	}
	if err := t.site.Admin.AwaitDeleted(ctx, a.tenant); err != nil {
		return err
	}
	a.setPhase(phaseDeleted)
	return nil
}

// CreateUseDelete creates a tenant, publishes to it over HTTP and AMQP, reads it, and deletes it while more is published.
func (t *Traffic) CreateUseDelete(ctx context.Context) (created time.Duration, err error) {
	const each, poisoned = 40, 4
	a, created, err := t.create(ctx)
	if err != nil {
		return 0, err
	}
	following, stop := context.WithCancel(ctx)
	var background sync.WaitGroup
	defer background.Wait()
	defer stop()
	background.Go(func() { t.follow(following, a, probePause) })

	batch, direct := a.offer(each, never), a.offer(each, never)
	poison := a.offer(poisoned, func() bool { return true })
	for way, items := range map[way][]item{wayBatch: batch, wayAMQP: append(slices.Clone(direct), poison...)} {
		if left := t.deliver(ctx, a, way, items, ignore); len(left) > 0 {
			return created, fmt.Errorf("tenant %s: %d messages are not confirmed: %w", a.tenant, len(left), context.Cause(ctx))
		}
	}
	if err := t.await(ctx, a, append(batch, direct...)); err != nil {
		return created, err
	}
	background.Go(func() { // in flight while it is deleted; what becomes of them does not matter
		for following.Err() == nil {
			t.try(following, a, wayAMQP, a.offer(each, never))
			_ = retry.Sleep(following, shortestPause)
		}
	})
	return created, t.remove(ctx, a)
}

// resumeTimeout is longer than a restart of all that resuming a tenant needs.
const resumeTimeout = time.Minute

// SuspendResume suspends a tenant while its producers continue, checks that nothing of what they publish is consumed, and
// resumes it.
func (t *Traffic) SuspendResume(ctx context.Context) error {
	const hold = 3 * time.Second
	chosen, release, err := t.choose(ctx, t.dice(), 1)
	if err != nil {
		return err
	}
	defer release()
	a, admin := chosen[0], t.site.Admin
	if err := admin.Suspend(ctx, a.tenant); err != nil {
		return err
	}
	failed := func() error {
		if err := admin.AwaitState(ctx, a.tenant, client.ConsumerSuspended, 0); err != nil {
			return err
		}
		from := a.hush()
		defer a.unhush() // before it is resumed
		const each = 20
		if left := t.deliver(ctx, a, wayBatch, a.offer(each, never), ignore); len(left) > 0 {
			return fmt.Errorf("tenant %s: a suspended tenant takes no messages: %w", a.tenant, ctx.Err())
		}
		_ = retry.Sleep(ctx, hold)
		return t.requireNothingFrom(ctx, a, from)
	}()
	// Whatever went wrong, the tenant is not left suspended.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resumeTimeout)
	defer cancel()
	if err := admin.Resume(ctx, a.tenant); err != nil {
		return errors.Join(failed, err)
	}
	return errors.Join(failed, admin.AwaitState(ctx, a.tenant, client.ConsumerRunning, 0))
}

// requireNothingFrom looks into the table: readers see what is stored a little later.
func (t *Traffic) requireNothingFrom(ctx context.Context, a *account, from uint32) error {
	var stored int64
	err := t.retry(ctx, func() error {
		return t.operator.QueryRow(ctx, `SELECT count(*) FROM messages WHERE tenant_id = $1 AND (payload->>'n')::bigint >= $2`,
			a.tenant, int64(from)).Scan(&stored)
	})
	if err != nil {
		return fmt.Errorf("tenant %s: count what is stored: %w", a.tenant, err)
	}
	if stored > 0 {
		t.found.add(faultViolation, "tenant %s: %d messages that were published while it was suspended were consumed", a.tenant, stored)
	}
	return nil
}

// retryDelay is the tier that messages of a deleted tenant wait in: longer than a deletion takes.
const retryDelay = 5 * time.Second

// DeletedTenantInRetry publishes messages of a tenant to be deleted, and of two others, into one retry tier, as workers
// do after a transient fault, and deletes the tenant while they wait. The others' must come back all the same.
func (t *Traffic) DeletedTenantInRetry(ctx context.Context) error {
	const each = 40
	chosen, release, err := t.choose(ctx, t.dice(), 2)
	if err != nil {
		return err
	}
	defer release() // their owners are not suspended or resized meanwhile, so that they must arrive
	gone, _, err := t.create(ctx)
	if err != nil {
		return err
	}
	first, last := chosen[0].offer(each, never), chosen[1].offer(each, never)
	for _, part := range []struct {
		account *account
		items   []item
	}{{gone, gone.offer(each, never)}, {chosen[0], first}, {gone, gone.offer(each, never)}, {chosen[1], last}} {
		if err := t.deliverRetries(ctx, part.account, part.items); err != nil {
			return err
		}
	}
	if err := t.remove(ctx, gone); err != nil {
		return err
	}
	if err := t.await(ctx, chosen[0], first); err != nil {
		return fmt.Errorf("behind messages of a deleted tenant: %w", err)
	}
	if err := t.await(ctx, chosen[1], last); err != nil {
		return fmt.Errorf("behind messages of a deleted tenant: %w", err)
	}
	return nil
}

// deliverRetries publishes items into the retry tier until each is confirmed.
func (t *Traffic) deliverRetries(ctx context.Context, a *account, items []item) error {
	a.publishesDirectly(items...)
	for wait := shortestPause; len(items) > 0; wait = min(2*wait, longestPause) {
		messages := make([]publish.Message, len(items))
		for i, m := range items {
			messages[i] = a.message(m)
			messages[i].Exchange = contract.RetryTierName(retryDelay)
			messages[i].Publishing.Headers = amqp.Table{
				contract.HeaderAttempt: int32(1), contract.HeaderFirstFailedAt: time.Now().UnixMilli(),
			}
		}
		outcomes, err := t.publishAMQP(ctx, messages)
		var left []item
		for i, m := range items {
			if a.resolve(m, outcomes[i]); outcomes[i] != outcomeConfirmed {
				left = append(left, m)
			}
		}
		if items = left; len(items) == 0 {
			return nil
		}
		if retry.Sleep(ctx, wait) != nil {
			return fmt.Errorf("tenant %s: publish into a retry tier: %w", a.tenant, errors.Join(err, context.Cause(ctx)))
		}
	}
	return nil
}
