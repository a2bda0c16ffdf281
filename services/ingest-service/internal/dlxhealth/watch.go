package dlxhealth

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
)

// misses is how many canaries in a row have to be missed: a broker that is busy or starting may lose one.
const misses = 3

// Publisher publishes with confirms; [publish.Publisher] is one.
type Publisher interface {
	Publish(ctx context.Context, m publish.Message) error
}

// Config is what a [Watch] watches.
type Config struct {
	// Instance names this instance among all others.
	Instance string
	// Tier is the delay of the shortest retry tier. One over a minute is not watched.
	Tier time.Duration
	// Broker says where the management API is, if anywhere, which virtual host is ours, and whether there is a screen.
	Broker conn.Config
	// Every is the time between two canaries, Grace how long one may take beyond its delay, and Look the time between two
	// looks at the queues; 10 s, 5 s and a minute if 0.
	Every, Grace, Look time.Duration
}

func (c Config) withDefaults() Config {
	if c.Every <= 0 {
		c.Every = 10 * time.Second
	}
	if c.Grace <= 0 {
		c.Grace = 5 * time.Second
	}
	if c.Look <= 0 {
		c.Look = time.Minute
	}
	return c
}

// Watch watches the dead-lettering of the broker.
type Watch struct {
	cfg       Config
	link      *conn.Link
	publisher Publisher
	report    func(error)
	log       *zap.Logger
	up, stuck prometheus.Gauge

	mu     sync.Mutex
	faults map[string]error // guarded by mu: what is wrong, by the check that has found it
}

// New returns a watch over link, which it should have to itself: while the dead-lettering is dead the broker closes the connection
// on which its queue is declared. Canaries are published by publisher. report is called with what is wrong, nil for nothing,
// whenever that may have changed, and once before New returns.
func New(cfg Config, link *conn.Link, publisher Publisher, report func(error), reg prometheus.Registerer, log *zap.Logger) *Watch {
	w := &Watch{
		cfg: cfg.withDefaults(), link: link, publisher: publisher, report: report, log: log, faults: make(map[string]error),
		up: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mtm_dead_lettering_up", Help: "1 while the broker dead-letters, as far as this instance can tell, else 0.",
		}),
		stuck: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mtm_dead_lettering_stuck_queues",
			Help: "Queues with messages that wait to be dead-lettered and do not become fewer; 0 without rabbitmq.management_url.",
		}),
	}
	reg.MustRegister(w.up, w.stuck)
	w.set("", nil)
	return w
}

// Run watches until ctx ends. What all tenants share has to be declared by then.
func (w *Watch) Run(ctx context.Context) error {
	var group errgroup.Group
	group.Go(func() error { w.sendCanaries(ctx); return nil })
	if w.cfg.Broker.ManagementURL != "" {
		api, err := newStatistics(w.cfg.Broker)
		if err != nil {
			w.log.Error("messages that are stuck are not watched", zap.Error(err))
		} else {
			group.Go(func() error { w.lookAtQueues(ctx, api); return nil })
		}
	}
	return group.Wait()
}

// set notes what one source has found, and reports what all have.
func (w *Watch) set(source string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.faults[source]
	w.faults[source] = err
	all := make([]error, 0, len(w.faults))
	for _, path := range append(paths(), stuckQueues) {
		all = append(all, w.faults[path])
	}
	fault := errors.Join(all...)
	switch {
	case before == nil && err != nil:
		w.log.Error("the broker's dead-lettering does not work; see the runbook", zap.Error(err))
	case before != nil && err == nil:
		w.log.Info("the broker's dead-lettering works again", zap.String("which", source))
	}
	if fault == nil {
		w.up.Set(1)
	} else {
		w.up.Set(0)
	}
	w.report(fault)
}

// isAway reports whether err says that the broker is away or takes nothing at the moment, which says nothing about its
// dead-lettering.
func isAway(err error) bool {
	if refused, ok := errors.AsType[*amqp.Error](err); ok && refused.Server {
		return refused.Code == amqp.ConnectionForced // anything else is an answer
	}
	for _, answer := range []error{conn.ErrUnanswered, publish.ErrUnroutable, publish.ErrRejected} {
		if errors.Is(err, answer) {
			return false
		}
	}
	return true
}

// errMissed wraps what has become of a canary.
func errMissed(path string, count int, err error) error {
	return fmt.Errorf("%s: %d canaries in a row were missed: %w", path, count, err)
}
