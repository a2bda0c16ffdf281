package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/testkit/jsonvalue"
)

// pageSize is the limit of each page.
const pageSize = 500

// next fetches one page.
func (s *subject) next(ctx context.Context, r *client.Reader) (client.Page[client.Message], error) {
	page, err := r.Next(ctx)
	if err != nil {
		return page, fmt.Errorf("read messages of %s: %w", s.name, err)
	}
	return page, nil
}

// errStalled says that messages stopped coming.
var errStalled = errors.New("no further message came for a minute")

// follow reads in ascending order, while the messages are still being published and stored, until it has met all of them.
func (s *subject) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(stallTimeout, func() { cancel(errStalled) })
	defer stalled.Stop()

	seen := make(map[uuid.UUID]bool, s.corpus.total)
	reader := s.client.Messages(client.MessageQuery{Limit: pageSize})
	err := until(ctx, 20*time.Millisecond, func() (bool, error) {
		for more := true; more; {
			p, err := s.next(ctx, reader)
			if err != nil {
				return false, err
			}
			if err := s.check(p, seen); err != nil {
				return false, err
			}
			if len(p.Items) > 0 {
				stalled.Reset(stallTimeout)
				s.pages++
			}
			s.read.Store(int64(len(s.order)))
			more = p.HasMore
		}
		return len(seen) == s.corpus.total, nil
	})
	s.followTook = time.Since(s.started)
	if err != nil {
		return fmt.Errorf("%s has read %d of %d messages: %w", s.name, len(seen), s.corpus.total, err)
	}
	return nil
}

// check holds a page against what was sent.
func (s *subject) check(p client.Page[client.Message], seen map[uuid.UUID]bool) error {
	for _, m := range p.Items {
		id := uuid.UUID(m.ID)
		i, sent := s.index[id]
		switch {
		case !sent || uuid.UUID(m.TenantID) != s.id:
			return fmt.Errorf("%w: tenant %s reads message %s of tenant %s", errDiffers, s.name, m.ID, m.TenantID)
		case seen[id]:
			return fmt.Errorf("%w: tenant %s reads message %s twice", errDiffers, s.name, m.ID)
		}
		got, err := jsonvalue.Parse(m.Payload)
		if err != nil {
			return fmt.Errorf("%w: message %s: %w", errDiffers, m.ID, err)
		}
		if !jsonvalue.Equal(s.corpus.value(i), got) {
			return fmt.Errorf("%w: message %s\n  sent %s\n  read %s", errDiffers, m.ID, s.corpus.document(i), m.Payload)
		}
		seen[id] = true
		s.order = append(s.order, id)
	}
	return nil
}

// reread reads everything backwards: the same messages in the reverse order, and nothing else.
func (s *subject) reread(ctx context.Context) error {
	ahead := slices.Clone(s.order)
	s.order = nil
	seen := make(map[uuid.UUID]bool, len(ahead))
	reader := s.client.Messages(client.MessageQuery{Limit: pageSize, Descending: true})
	for more := true; more; {
		p, err := s.next(ctx, reader)
		if err != nil {
			return err
		}
		if err := s.check(p, seen); err != nil {
			return err
		}
		more = p.HasMore
	}
	slices.Reverse(s.order)
	if !slices.Equal(ahead, s.order) {
		return fmt.Errorf("%w: tenant %s reads %d messages forwards and %d backwards, or in another order",
			errDiffers, s.name, len(ahead), len(s.order))
	}
	return nil
}
