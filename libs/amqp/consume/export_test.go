package consume

import (
	"context"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
)

// Hasten has the prober wait for limit at most. Call it before it is used.
func (p *Prober) Hasten(limit time.Duration) *Prober {
	p.limit = limit
	return p
}

// PlainWithin is [Plain], which waits for limit at most.
func PlainWithin(ctx context.Context, session *conn.Session, queue, tag string, prefetch int, limit time.Duration) (*Consumer, error) {
	return plain(ctx, session, queue, tag, prefetch, limit)
}
