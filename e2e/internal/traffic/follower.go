package traffic

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

// follower reads one tenant in ascending order for the whole run, with the one cursor that goes from page to page.
type follower struct {
	turn   chan struct{} // held by the goroutine that reads a page
	cursor string        // the next page; owned by the taker of turn
}

// followPause is between two looks of a follower that is up to date.
const followPause = 250 * time.Millisecond

// follow reads until ctx ends or the tenant is deleted. A service that is away is waited for.
func (t *Traffic) follow(ctx context.Context, a *account, every time.Duration) {
	for ctx.Err() == nil && a.isLive() {
		more, err := t.step(ctx, a)
		switch {
		case err != nil && ctx.Err() == nil:
			t.remark(a, err)
			_ = retry.Sleep(ctx, longestPause)
		case !more:
			_ = retry.Sleep(ctx, every)
		}
	}
}

// step reads one page and tells whether more follows at once.
func (t *Traffic) step(ctx context.Context, a *account) (more bool, err error) {
	select {
	case a.follower.turn <- struct{}{}:
		defer func() { <-a.follower.turn }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	p, err := t.clients.page(ctx, a.tenant, false, a.follower.cursor)
	switch {
	case errors.Is(err, client.ErrUnexpectedAnswer):
		t.found.add(faultViolation, "tenant %s: %v", a.tenant, err)
	case outcomeOf(err) == outcomeRefused && a.isLive():
		// A cursor is good for as long as the tenant is, whatever has been restarted.
		t.found.add(faultViolation, "tenant %s: a reader that continues with its cursor is told %v", a.tenant, err)
	}
	if err != nil {
		return false, err
	}
	t.readPage(a, p)
	return p.HasMore, nil
}

// readPage checks a page and moves the cursor on. The client has refused one without a cursor.
func (t *Traffic) readPage(a *account, p client.Page[client.Message]) {
	for _, m := range p.Items {
		kind, why := a.meet(uuid.UUID(m.TenantID), uuid.UUID(m.ID), m.Payload)
		t.found.add(kind, "tenant %s reads message %s: %s", a.tenant, m.ID, why)
	}
	if p.Gap && !a.passGap() {
		t.found.add(faultViolation, "tenant %s: a reader is told that it has missed messages, and none is ever removed", a.tenant)
	}
	if p.HasMore && len(p.Items) == 0 {
		t.found.add(faultViolation, "tenant %s: an empty page says that there is more", a.tenant)
	}
	a.follower.cursor = p.NextCursor
}

// descending reads everything of a tenant backwards and returns the numbers of the messages.
func (t *Traffic) descending(ctx context.Context, a *account) (seqs []uint32, err error) {
	for cursor, more := "", true; more; {
		var p client.Page[client.Message]
		err := t.retry(ctx, func() (err error) {
			p, err = t.clients.page(ctx, a.tenant, true, cursor)
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, m := range p.Items {
			seq, ours := a.seq(uuid.UUID(m.ID))
			if !ours || uuid.UUID(m.TenantID) != a.tenant {
				t.found.add(faultForeign, "tenant %s reads, backwards, message %s of tenant %s", a.tenant, m.ID, m.TenantID)
				continue
			}
			if !a.is(seq, m.Payload) {
				t.found.add(faultCorrupted, "tenant %s reads, backwards, message %s as %s", a.tenant, m.ID, shorten(m.Payload))
			}
			seqs = append(seqs, seq)
		}
		cursor, more = p.NextCursor, p.HasMore
	}
	return seqs, nil
}
