package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

const (
	// connectGrace is how long a publishing waits for a connection: a reconnect is bridged, an outage is reported soon.
	connectGrace = 2 * time.Second
	// reopenDelay keeps a channel that the broker closes at once from being opened in a loop.
	reopenDelay = 100 * time.Millisecond
)

// channelPool are the channels of one link that a publisher shares its messages out to.
type channelPool struct {
	link *conn.Link
	cfg  confirmConfig
	log  *zap.Logger

	all  []atomic.Pointer[confirmChannel] // nil where no channel is open; written by the goroutines of run
	next atomic.Uint32                    // round-robin

	mu      sync.Mutex
	changed chan struct{} // guarded by mu: closed when a channel was opened
	stopped chan struct{} // closed when run has ended
}

func newChannelPool(link *conn.Link, channels int, cfg confirmConfig, log *zap.Logger) *channelPool {
	return &channelPool{
		link: link, cfg: cfg, log: log, all: make([]atomic.Pointer[confirmChannel], channels),
		changed: make(chan struct{}), stopped: make(chan struct{}),
	}
}

// run keeps the channels open until ctx ends.
func (p *channelPool) run(ctx context.Context) error {
	defer close(p.stopped)
	var group errgroup.Group
	for i := range p.all {
		group.Go(func() error {
			p.keep(ctx, i)
			return nil
		})
	}
	return group.Wait()
}

// keep has channel i open until ctx ends.
func (p *channelPool) keep(ctx context.Context, i int) {
	for ctx.Err() == nil {
		opened := time.Now()
		err := p.hold(ctx, i)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			p.log.Info("publishing channel lost", zap.Int("channel", i), zap.Error(err))
		}
		if time.Since(opened) < reopenDelay && retry.Sleep(ctx, reopenDelay) != nil {
			return
		}
	}
}

// hold opens channel i and returns when it is over.
func (p *channelPool) hold(ctx context.Context, i int) error {
	session, err := p.link.Session(ctx)
	if err != nil {
		return err
	}
	l, err := openConfirmChannel(ctx, session, p.cfg)
	if err != nil {
		return err
	}
	p.all[i].Store(l)
	p.announce()
	defer p.all[i].Store(nil)
	return l.run(ctx)
}

// announce wakes those that wait for a channel.
func (p *channelPool) announce() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.changed)
	p.changed = make(chan struct{})
}

// send hands m to the first channel that takes it; see [confirmChannel.publish].
func (p *channelPool) send(ctx context.Context, m *Message) (l *confirmChannel, i int, err error) {
	for {
		if l, err = p.get(ctx); err != nil {
			return nil, 0, err
		}
		if i, err = l.publish(ctx, m); !errors.Is(err, errChannelGone) {
			return l, i, err
		}
	}
}

// get picks a channel: the next one in turn that has room, else the next one, and only then one that confirms nothing.
func (p *channelPool) get(ctx context.Context) (*confirmChannel, error) {
	var grace <-chan time.Time
	for {
		p.mu.Lock()
		changed := p.changed
		p.mu.Unlock()
		if l := p.pick(); l != nil {
			return l, nil
		}
		if grace == nil {
			grace = time.After(connectGrace)
		}
		select {
		case <-changed:
		case <-grace:
			return nil, p.unavailable()
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (%w)", p.unavailable(), ctx.Err())
		case <-p.stopped:
			return nil, fmt.Errorf("%w: publisher stopped", conn.ErrUnavailable)
		}
	}
}

func (p *channelPool) pick() *confirmChannel {
	var full, slow *confirmChannel
	start := int(p.next.Add(1))
	for i := range p.all {
		l := p.all[(start+i)%len(p.all)].Load()
		switch {
		case l == nil || l.over():
		case l.slow.Load():
			slow = cmp.Or(slow, l)
		case len(l.free) > 0:
			return l
		default:
			full = cmp.Or(full, l)
		}
	}
	return cmp.Or(full, slow)
}

// unavailable says why there is no channel.
func (p *channelPool) unavailable() error {
	if cause := p.link.Err(); cause != nil {
		if errors.Is(cause, conn.ErrUnavailable) {
			return cause
		}
		return fmt.Errorf("%w: %w", conn.ErrUnavailable, cause)
	}
	return fmt.Errorf("%w: no open channel", conn.ErrUnavailable)
}
