package client

import (
	"context"
	"fmt"
	"iter"
)

// Page is a part of a list.
type Page[T any] struct {
	Items []T `json:"data"`
	// NextCursor is the place behind the page, on the last page too.
	NextCursor string `json:"next_cursor"`
	// HasMore says that more follows right now.
	HasMore bool `json:"has_more"`
	// Gap says that messages which were still to be read, behind the cursor, have been removed by the tenant's retention: see [ErrGap].
	Gap bool `json:"gap"`
}

// Pager reads a list page by page. It remembers where it is: [Pager.All] and [Pager.Next] continue behind what was handed out
// before, after an error as well. It is for one goroutine at a time.
type Pager[T any] struct {
	fetch  func(ctx context.Context, cursor string, untilDone bool) (Page[T], error)
	cursor string  // behind all pages that were handed out whole
	page   Page[T] // the one that is being handed out
	given  int     // how many of its items were
	onGap  func()  // nil: a gap ends an iteration
}

// All iterates over what is left of the list at the moment. An error is the last thing that comes; ranging again continues
// behind the last item.
func (p *Pager[T]) All(ctx context.Context) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for more := true; p.give(yield) && more; more = p.page.HasMore {
			err := p.load(ctx, false)
			if err == nil {
				err = p.passGap()
			}
			if err != nil {
				var none T
				yield(none, err)
				return
			}
		}
	}
}

// Next returns the next page, or the rest of the one that is being iterated over. At the end of the list it is empty, and
// has what is new when it is called again later.
func (p *Pager[T]) Next(ctx context.Context) (Page[T], error) {
	if p.given == len(p.page.Items) {
		p.advance()
		if err := p.load(ctx, false); err != nil {
			return Page[T]{}, err
		}
	}
	page := p.page
	page.Items = page.Items[p.given:]
	p.advance()
	return page, nil
}

// Cursor is the place from which another pager continues, in another process too; empty at the start. It is behind the last
// page that was handed out whole, so that after [Pager.Next] nothing comes twice, and after breaking out of an iteration
// at most a page does. While the body of a loop runs, its page is not handed out whole yet.
func (p *Pager[T]) Cursor() string { return p.cursor }

// give hands out what is left of the page, and moves on when it was consumed. It is false if the loop was left.
func (p *Pager[T]) give(yield func(T, error) bool) bool {
	for p.given < len(p.page.Items) {
		p.given++
		if !yield(p.page.Items[p.given-1], nil) {
			return false
		}
	}
	p.advance()
	return true
}

// passGap tells of a gap in front of the page that was loaded, once. The error is [ErrGap] where nobody else is to be told; the page is
// the next to be handed out all the same.
func (p *Pager[T]) passGap() error {
	if !p.page.Gap {
		return nil
	}
	p.page.Gap = false
	if p.onGap == nil {
		return ErrGap
	}
	p.onGap()
	return nil
}

// advance moves the cursor behind the page, which has been handed out.
func (p *Pager[T]) advance() {
	if p.page.NextCursor != "" {
		p.cursor = p.page.NextCursor
	}
	p.page.Items, p.given = nil, 0
}

// load fetches the page at the cursor.
func (p *Pager[T]) load(ctx context.Context, untilDone bool) error {
	page, err := p.fetch(ctx, p.cursor, untilDone)
	switch {
	case err != nil:
		return err
	case page.NextCursor == "":
		// Going on without one would begin again at the start.
		return fmt.Errorf("%w: a page without a cursor", ErrUnexpectedAnswer)
	case page.HasMore && len(page.Items) == 0 && page.NextCursor == p.cursor:
		return fmt.Errorf("%w: an empty page says that there is more, and does not lead there", ErrUnexpectedAnswer)
	}
	p.page, p.given = page, 0
	return nil
}
