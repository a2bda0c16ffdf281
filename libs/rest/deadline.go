package rest

import (
	"context"
	"time"
)

// WithMargin ends when a twentieth of the time that ctx had left is still to come, so that the answer, which is an error
// then, comes within the time that the request was given. Without a deadline it ends with ctx.
func WithMargin(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, deadline.Add(-time.Until(deadline)/20))
}
