package consume

import (
	"context"
	"fmt"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
)

// maxProbes is how many queues are probed at a time. One that answers takes milliseconds; each that does not, 10 s.
const maxProbes = 4

// Prober finds out whether queues answer a consumer, on a connection that is there for that alone. RabbitMQ closes the whole
// connection of a consumer whose queue does not answer (a quorum queue without a leader), 30 to 65 s later; so a caller that has reason to
// expect that of a queue probes it here before it consumes on a connection that it shares. It is safe for concurrent use.
type Prober struct {
	link  *conn.Link
	slots chan struct{} // as many elements as probes are under way, maxProbes at most
	limit time.Duration // see answerLimit
}

// NewProber returns a prober that uses link, which is for the caller to run.
func NewProber(link *conn.Link) *Prober {
	return &Prober{link: link, slots: make(chan struct{}, maxProbes), limit: answerLimit}
}

// Probe returns nil if queue answers. The error is as of [Start]; nothing is taken from the queue. A nil prober says nothing, and
// returns nil.
func (p *Prober) Probe(ctx context.Context, queue string) error {
	if p == nil {
		return nil
	}
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return fmt.Errorf("probe %s: %w", queue, ctx.Err())
	}
	session, err := p.link.Session(ctx)
	if err != nil {
		return err
	}
	const prefetch = 1 // 0 would be without limit
	c, err := start(ctx, session, queue, "probe", prefetch, p.limit)
	if err != nil {
		return err
	}
	defer c.Release()
	return c.Stop()
}
