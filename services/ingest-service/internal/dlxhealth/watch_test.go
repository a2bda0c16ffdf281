package dlxhealth

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/component"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	waitLimit = 2 * time.Minute // on a busy machine
	poll      = 20 * time.Millisecond
	tier      = 200 * time.Millisecond
)

// rig is a watch over a broker, with everything that an instance has declared there.
type rig struct {
	t         *testing.T
	screen    string // the mode
	link      *conn.Link
	publisher *publish.Publisher
	watch     *Watch

	mu    sync.Mutex
	fault error // guarded by mu: what was reported last
}

// newRig declares what all tenants share. The watch begins with start.
func newRig(t *testing.T, cfg conn.Config) *rig {
	t.Helper()
	log := zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel))
	r := &rig{t: t, screen: cfg.Screen, link: conn.NewLink(cfg, "test", log, nil)}
	r.publisher = publish.New(r.link, 1, log)
	own := conn.NewLink(cfg, "canary", log, nil)
	for _, run := range []func(context.Context) error{r.link.Run, r.publisher.Run, own.Run} {
		component.Run(r.t, run)
	}
	r.declare()
	r.watch = New(
		Config{Instance: "i-" + uuid.NewString()[:8], Tier: tier, Broker: cfg, Every: 100 * time.Millisecond, Grace: 4 * time.Second, Look: time.Second},
		own, r.publisher, func(err error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.fault = err
		}, prometheus.NewPedanticRegistry(), log,
	)
	return r
}

func (r *rig) start() {
	r.t.Helper()
	component.Run(r.t, r.watch.Run)
}

func (r *rig) do(fn func(ch *amqp.Channel) error) error {
	r.t.Helper()
	return amqptest.Try(r.t, r.link, fn)
}

func (r *rig) declare() {
	r.t.Helper()
	require.NoError(r.t, r.do(func(ch *amqp.Channel) error {
		return provision.DeclareShared(ch, []time.Duration{tier}, amqp.QueueTypeQuorum)
	}))
	session, err := r.link.Session(r.t.Context())
	require.NoError(r.t, err)
	require.NoError(r.t, provision.DeclareScreen(r.t.Context(), session, r.screened(session)))
}

// screened reports whether producers publish through a screen.
func (r *rig) screened(session *conn.Session) bool {
	return provision.Screened(r.screen, session.Version())
}

func (r *rig) reported() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fault
}

// degraded waits until the causes are reported, and nothing else is.
func (r *rig) degraded(causes ...string) {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		err := r.reported()
		if err == nil {
			return false
		}
		lines := strings.Split(err.Error(), "\n")
		for _, cause := range causes {
			if !strings.Contains(err.Error(), cause+": ") {
				return false
			}
		}
		return len(lines) == len(causes)
	}, waitLimit, poll, "want %v", causes)
	require.Zero(r.t, testutil.ToFloat64(r.watch.up))
}

// degradedBy waits until the cause is reported, perhaps with others.
func (r *rig) degradedBy(cause string) {
	r.t.Helper()
	require.Eventually(r.t, func() bool { err := r.reported(); return err != nil && strings.Contains(err.Error(), cause+": ") }, waitLimit, poll)
}

// fine waits until nothing is reported, and a canary has come back both ways since.
func (r *rig) fine() {
	r.t.Helper()
	if !assert.Eventually(r.t, func() bool { return r.reported() == nil }, waitLimit, poll) {
		require.NoError(r.t, r.reported())
	}
	require.InDelta(r.t, 1, testutil.ToFloat64(r.watch.up), 0)
	for _, queue := range []string{contract.CanaryName(r.watch.cfg.Instance), contract.RetryTierName(tier)} {
		require.Eventually(r.t, func() bool {
			return r.do(func(ch *amqp.Channel) error {
				_, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
				return err
			}) == nil
		}, waitLimit, poll)
	}
	require.NoError(r.t, r.reported())
}

// An operator must be told when nothing returns from the retries, and when what this broker cannot bear is let through; and
// must not be called again once that is fixed.
func TestFaultsAreReportedAndCleared(t *testing.T) {
	t.Parallel()
	r := newRig(t, conn.Config{URL: backing.RabbitMQ(t).URL, Screen: provision.ScreenOn})
	require.NoError(t, r.reported(), "an instance is not held up by what has not been tried")
	r.start()
	r.fine()
	for name, fault := range map[string]struct {
		harm   func(ch *amqp.Channel) error
		causes []string
	}{
		"nothing returns": {func(ch *amqp.Channel) error { return ch.ExchangeDelete(contract.RetryReturnExchange, false, false) }, []string{sharedTier, ownTier}},
		"the tier is gone": {func(ch *amqp.Channel) error {
			_, err := ch.QueueDelete(contract.RetryTierName(tier), false, false, false)
			return err
		}, []string{sharedTier}},
		"the screen is open": {func(ch *amqp.Channel) error {
			return ch.ExchangeUnbind(contract.RefusedExchange, "", contract.ScreenExchange, false, amqp.Table{"x-match": "any-with-x", "x-death": nil})
		}, []string{screen}},
		"the queue that refuses is gone": {func(ch *amqp.Channel) error {
			_, err := ch.QueueDelete(contract.RefusedQueue(0), false, false, false)
			return err
		}, []string{screen}},
	} {
		require.NoError(t, r.do(fault.harm), name)
		r.degraded(fault.causes...)
		r.declare()
		r.fine()
	}
}

// A broker that is away, blocked or slow is told elsewhere, and says nothing about its dead-lettering; a refusal does.
func TestABrokerThatIsAwayIsNotTakenForOneThatDoesNotDeadLetter(t *testing.T) {
	t.Parallel()
	for away, errs := range map[bool][]error{
		true: {
			conn.ErrUnavailable, conn.ErrBlocked, fmt.Errorf("%w: %w", publish.ErrUnconfirmed, context.DeadlineExceeded), context.Canceled,
			amqp.ErrClosed, &amqp.Error{Code: amqp.ConnectionForced, Server: true}, fmt.Errorf("%w: %w", conn.ErrUnavailable, &amqp.Error{Code: amqp.FrameError}),
		},
		false: {
			&amqp.Error{Code: amqp.InternalError, Server: true}, &amqp.Error{Code: amqp.AccessRefused, Server: true},
			fmt.Errorf("%w: %w", conn.ErrUnavailable, conn.ErrUnanswered), publish.ErrUnroutable, publish.ErrRejected,
		},
	} {
		for _, err := range errs {
			require.Equal(t, away, isAway(fmt.Errorf("publish: %w", err)), "%v", err)
		}
	}
	var causes []error
	w := New(Config{}, nil, nil, func(err error) { causes = append(causes, err) }, prometheus.NewPedanticRegistry(), zap.NewNop())
	c, missed := &canaries{watch: w}, make(map[string]int)
	for range misses - 1 {
		c.count(missed, map[string]error{ownTier: errNotBack})
	}
	c.count(missed, nil) // could not be tried
	require.Equal(t, []error{nil}, causes)
	c.count(missed, map[string]error{ownTier: errNotBack})
	require.ErrorIs(t, causes[len(causes)-1], errNotBack)
	c.count(missed, map[string]error{ownTier: nil})
	require.NoError(t, causes[len(causes)-1])
	require.Zero(t, missed[ownTier])
}
