package rabbitmq

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

	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

const (
	// connectGrace is how long a publishing waits for a connection: a reconnect is bridged, an outage is reported soon.
	connectGrace = 2 * time.Second
	// reopenDelay keeps a channel that the broker closes at once from being opened in a loop.
	reopenDelay = 100 * time.Millisecond
)

// lanes are the channels of one link that a publisher shares its messages out to.
type lanes struct {
	link *Link
	cfg  laneConfig
	log  *zap.Logger

	all  []atomic.Pointer[lane] // nil where no channel is open; written by the goroutines of run
	turn atomic.Uint32          // round-robin

	mu      sync.Mutex
	changed chan struct{} // guarded by mu: closed when a lane was opened
	stopped chan struct{} // closed when run has ended
}

func newLanes(link *Link, channels int, cfg laneConfig, log *zap.Logger) *lanes {
	return &lanes{
		link: link, cfg: cfg, log: log, all: make([]atomic.Pointer[lane], channels),
		changed: make(chan struct{}), stopped: make(chan struct{}),
	}
}

// run keeps the channels open until ctx ends.
func (p *lanes) run(ctx context.Context) error {
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

// keep has lane i open until ctx ends.
func (p *lanes) keep(ctx context.Context, i int) {
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

// hold opens lane i and returns when it is over.
func (p *lanes) hold(ctx context.Context, i int) error {
	session, err := p.link.Session(ctx)
	if err != nil {
		return err
	}
	l, err := openLane(ctx, session, p.cfg)
	if err != nil {
		return err
	}
	p.all[i].Store(l)
	p.announce()
	defer p.all[i].Store(nil)
	return l.run(ctx)
}

// announce wakes who waits for a lane.
func (p *lanes) announce() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.changed)
	p.changed = make(chan struct{})
}

// send hands m to the first channel that takes it; see [lane.publish].
func (p *lanes) send(ctx context.Context, m *Message) (l *lane, i int, err error) {
	for {
		if l, err = p.lane(ctx); err != nil {
			return nil, 0, err
		}
		if i, err = l.publish(ctx, m); !errors.Is(err, errLaneGone) {
			return l, i, err
		}
	}
}

// lane picks a channel: the next one in turn that has room, else the next one, and only then one that confirms nothing.
func (p *lanes) lane(ctx context.Context) (*lane, error) {
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
			return nil, fmt.Errorf("%w: publisher stopped", ErrUnavailable)
		}
	}
}

func (p *lanes) pick() *lane {
	var full, slow *lane
	turn := int(p.turn.Add(1))
	for i := range p.all {
		l := p.all[(turn+i)%len(p.all)].Load()
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
func (p *lanes) unavailable() error {
	session, _, cause := p.link.state()
	if session == nil && cause != nil {
		if errors.Is(cause, ErrUnavailable) {
			return cause
		}
		return fmt.Errorf("%w: %w", ErrUnavailable, cause)
	}
	return fmt.Errorf("%w: no open channel", ErrUnavailable)
}
