package batch_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/batch"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// faultyStore stores in memory and fails on demand: the faults of a database that cannot be made to order.
type faultyStore struct {
	mu         sync.Mutex
	stored     map[uuid.UUID]bool
	statements int
	attached   int
	// fail is asked before each statement.
	fail func(messages []store.Row, statement int) error
	// attach is the answer to Attach.
	attach error
}

func (s *faultyStore) Insert(_ context.Context, _ uuid.UUID, messages []store.Row) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.statements++
	if s.fail != nil {
		if err := s.fail(messages, s.statements); err != nil {
			return 0, err
		}
	}
	fresh := 0
	for _, m := range messages {
		if !s.stored[m.ID] {
			s.stored[m.ID] = true
			fresh++
		}
	}
	return fresh, nil
}

func (s *faultyStore) Attach(context.Context, uuid.UUID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attached++
	return s.attach
}

// faultyPublisher keeps what is published; the first failures tries of a message fail.
type faultyPublisher struct {
	mu        sync.Mutex
	failures  int
	published []publish.Message
}

func (p *faultyPublisher) PublishBatch(_ context.Context, messages []publish.Message) []error {
	p.mu.Lock()
	defer p.mu.Unlock()
	results := make([]error, len(messages))
	for i, m := range messages {
		if p.failures > 0 {
			p.failures--
			results[i] = conn.ErrUnavailable
			continue
		}
		p.published = append(p.published, m)
	}
	return results
}

type fixture struct {
	store     *faultyStore
	publisher *faultyPublisher
	gate      *batch.Gate
	writer    *batch.Writer
	stats     batch.Stats
	tenant    uuid.UUID
}

func newFixture(t *testing.T, probe func(context.Context) error) *fixture {
	t.Helper()
	f := &fixture{
		store: &faultyStore{stored: make(map[uuid.UUID]bool)}, publisher: &faultyPublisher{}, tenant: uuid.New(),
	}
	if probe == nil {
		probe = func(context.Context) error { return nil }
	}
	f.gate = batch.NewGate(probe, zap.NewNop())
	deadLetter := func(tenant uuid.UUID, d consume.Delivery, reason contract.Reason, _ error, attempts int) publish.Message {
		return publish.Message{Exchange: contract.DeadLettersExchange, Key: tenant.String(), Publishing: amqp.Publishing{
			MessageId: d.MessageId, Headers: amqp.Table{contract.HeaderReason: string(reason), contract.HeaderAttempt: int32(attempts)},
		}}
	}
	f.writer = batch.NewWriter(batch.Config{
		RetryDelays: []time.Duration{time.Second, 5 * time.Second}, HoldTimeout: 5 * time.Minute, PublishTimeout: time.Second,
	}, f.store, f.gate, f.publisher, deadLetter, batch.NewMetrics(prometheus.NewRegistry()), zap.NewNop())
	return f
}

// batch of n messages; every delivery has been tried attempts times.
func (f *fixture) batch(n, attempts int) *batch.Batch {
	b := &batch.Batch{Tenant: f.tenant, MaxAttempts: 3}
	for i := range n {
		id := uuid.New()
		d := delivery(contract.RetryReturnExchange, amqp.Table{contract.HeaderAttempt: int32(attempts)})
		d.RoutingKey, d.MessageId = f.tenant.String(), id.String()
		b.Deliveries = append(b.Deliveries, d)
		b.Messages = append(b.Messages, store.Row{ID: id, Payload: []byte(`{}`)})
		b.Index = append(b.Index, i)
	}
	return b
}

func refuses(bad map[uuid.UUID]bool, code string) func([]store.Row, int) error {
	return func(messages []store.Row, _ int) error {
		for _, m := range messages {
			if bad[m.ID] {
				return fmt.Errorf("insert: %w", &pgconn.PgError{Code: code})
			}
		}
		return nil
	}
}

// One message that the database refuses must cost its neighbours nothing, and not more statements than it has to.
func TestBisectLetsOnlyTheBadMessagePay(t *testing.T) {
	for name, badIndexes := range map[string][]int{
		"first": {0}, "last": {999}, "middle": {500}, "three": {0, 499, 999}, "neighbours": {10, 11},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, nil)
			b := f.batch(1000, 0)
			bad := make(map[uuid.UUID]bool)
			for _, i := range badIndexes {
				bad[b.Messages[i].ID] = true
			}
			f.store.fail = refuses(bad, "22P05")
			require.NoError(t, f.writer.Write(t.Context(), t.Context(), b, &f.stats))

			require.Len(t, f.store.stored, 1000-len(bad))
			require.Len(t, f.publisher.published, len(bad))
			for _, m := range f.publisher.published {
				require.Equal(t, contract.DeadLettersExchange, m.Exchange)
				require.Equal(t, string(contract.ReasonRejected), m.Publishing.Headers[contract.HeaderReason])
				require.True(t, bad[uuid.MustParse(m.Publishing.MessageId)])
			}
			const halvings = 10 // log2(1000), rounded up
			require.LessOrEqual(t, f.store.statements, len(bad)*(2*halvings)+1)
			require.EqualValues(t, 1000-len(bad), f.stats.Stored.Load())
			require.EqualValues(t, len(bad), f.stats.DeadLettered(contract.ReasonRejected).Load())
		})
	}
}

// A fault that may pass is tried again later, and is a dead letter only at the end of its attempts.
func TestTransientFaultIsRetriedThenDead(t *testing.T) {
	for _, test := range []struct {
		attempts int
		exchange []string
	}{
		{attempts: 0, exchange: []string{"retry.1s", "retry.5s"}},
		{attempts: 1, exchange: []string{"retry.5s"}},
		{attempts: 2, exchange: []string{contract.DeadLettersExchange}},
	} {
		t.Run(fmt.Sprint(test.attempts), func(t *testing.T) {
			f := newFixture(t, nil)
			b := f.batch(3, test.attempts)
			f.store.fail = refuses(map[uuid.UUID]bool{b.Messages[1].ID: true}, "P0001")
			require.NoError(t, f.writer.Write(t.Context(), t.Context(), b, &f.stats))
			require.Len(t, f.store.stored, 2)
			require.Len(t, f.publisher.published, 1)
			m := f.publisher.published[0]
			require.Contains(t, test.exchange, m.Exchange)
			require.Equal(t, f.tenant.String(), m.Key)
			require.Equal(t, b.Messages[1].ID.String(), m.Publishing.MessageId)
			require.EqualValues(t, test.attempts+1, m.Publishing.Headers[contract.HeaderAttempt])
			if m.Exchange == contract.DeadLettersExchange {
				require.Equal(t, string(contract.ReasonMaxAttempts), m.Publishing.Headers[contract.HeaderReason])
			}
		})
	}
}

// A database that is away costs no message an attempt: the writer waits, and stores when it is back.
func TestInfrastructureFaultWaits(t *testing.T) {
	for name, fault := range map[string]error{
		"no connection":  errors.New("dial tcp: connection refused"),
		"timeout":        context.DeadlineExceeded,
		"shutting down":  &pgconn.PgError{Code: "57P01"},
		"read-only":      &pgconn.PgError{Code: "25006"},
		"disk full":      &pgconn.PgError{Code: "53100"},
		"lock timeout":   &pgconn.PgError{Code: "55P03"},
		"deadlock":       &pgconn.PgError{Code: "40P01"},
		"no right":       &pgconn.PgError{Code: "42501"},
		"no partition":   &pgconn.PgError{Code: "23514"},
		"reading order":  &pgconn.PgError{Code: "23505"},
		"too many conns": &pgconn.PgError{Code: "53300"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t, nil)
				gate, stopGate := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- f.gate.Run(gate, func(error) {}) }()

				b := f.batch(10, 2) // one attempt before the last: nothing of it may be used up
				f.store.fail = func(_ []store.Row, statement int) error {
					if statement <= 5 {
						return fault
					}
					return nil
				}
				require.NoError(t, f.writer.Write(t.Context(), t.Context(), b, &f.stats))
				require.Len(t, f.store.stored, 10)
				require.Empty(t, f.publisher.published)
				stopGate()
				require.NoError(t, <-done)
			})
		})
	}
}

// During a long outage deliveries go back to the queue before the broker's own limit closes the channel on them.
func TestLongOutageGivesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := errors.New("connection refused")
		f := newFixture(t, func(context.Context) error { return away })
		gate, stopGate := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.gate.Run(gate, func(error) {}) }()
		f.store.fail = func([]store.Row, int) error { return away }

		began := time.Now()
		require.ErrorIs(t, f.writer.Write(t.Context(), t.Context(), f.batch(1, 0), &f.stats), batch.ErrHeld)
		require.Equal(t, 5*time.Minute, time.Since(began))
		require.Equal(t, 1, f.store.statements, "the gate keeps the writer from asking a database that is away")
		require.Empty(t, f.publisher.published)
		stopGate()
		require.NoError(t, <-done)
	})
}

// The limit is that of the batch, however often it waits: the broker counts from the delivery.
func TestHoldTimeoutCountsFromTheBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, nil)
		locked := time.Now().Add(4 * time.Minute)
		f.store.fail = func(messages []store.Row, _ int) error {
			if time.Now().Before(locked) {
				return &pgconn.PgError{Code: "55P03"} // lock_not_available
			}
			if len(messages) > 1 { // each half finds a lock of its own
				locked = time.Now().Add(4 * time.Minute)
				return &pgconn.PgError{Code: "22P05"}
			}
			return nil
		}
		began := time.Now()
		require.ErrorIs(t, f.writer.Write(t.Context(), t.Context(), f.batch(4, 0), &f.stats), batch.ErrHeld)
		require.Equal(t, 5*time.Minute, time.Since(began))
	})
}

// A process that stops must not wait for a database that is away.
func TestWaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, nil)
		f.store.fail = func([]store.Row, int) error { return &pgconn.PgError{Code: "55P03"} }
		waitCtx, cancelWait := context.WithTimeout(t.Context(), time.Second)
		defer cancelWait()
		require.ErrorIs(t, f.writer.Write(t.Context(), waitCtx, f.batch(1, 0), &f.stats), context.DeadlineExceeded)
		require.Empty(t, f.publisher.published)
	})
}

// A partition that is missing is made again; that of a deleted tenant is not.
func TestMissingPartition(t *testing.T) {
	missing := func(_ []store.Row, statement int) error {
		if statement == 1 {
			return &pgconn.PgError{Code: "23514"}
		}
		return nil
	}
	t.Run("is attached", func(t *testing.T) {
		f := newFixture(t, nil)
		f.store.fail = missing
		require.NoError(t, f.writer.Write(t.Context(), t.Context(), f.batch(2, 0), &f.stats))
		require.Equal(t, 1, f.store.attached)
		require.Len(t, f.store.stored, 2)
	})
	t.Run("of a retired tenant", func(t *testing.T) {
		f := newFixture(t, nil)
		f.store.fail, f.store.attach = missing, store.ErrRetired
		require.ErrorIs(t, f.writer.Write(t.Context(), t.Context(), f.batch(2, 0), &f.stats), store.ErrRetired)
		require.Empty(t, f.store.stored)
	})
}

// A delivery may be acknowledged only when its dead letter is in the broker's keeping.
func TestDeadLettersArePublishedUntilConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, nil)
		f.publisher.failures = 4
		b := f.batch(2, 0)
		b.Rejected = []batch.Rejection{{Delivery: 1, ID: b.Messages[1].ID, Reason: contract.ReasonNotJSON, Err: errors.New("not JSON")}}
		b.Messages, b.Index = b.Messages[:1], b.Index[:1]
		require.NoError(t, f.writer.Write(t.Context(), t.Context(), b, &f.stats))
		require.Len(t, f.store.stored, 1)
		require.Len(t, f.publisher.published, 1)
		require.EqualValues(t, 1, f.stats.DeadLettered(contract.ReasonNotJSON).Load())
	})
}

// What one statement of one tenant has met, a limit of time or a lock, must not make the others wait: the gate stays open, and
// nobody is there to open it here.
func TestFaultsOfOneTenantLeaveTheGateOpen(t *testing.T) {
	for _, code := range []string{"57014", "55P03", "40001", "40P01", "42501", "23505"} {
		synctest.Test(t, func(t *testing.T) {
			f := newFixture(t, nil)
			f.store.fail = func(_ []store.Row, statement int) error {
				if statement == 1 {
					return &pgconn.PgError{Code: code}
				}
				return nil
			}
			require.NoError(t, f.writer.Write(t.Context(), t.Context(), f.batch(2, 0), &f.stats), code)
			require.Len(t, f.store.stored, 2)
		})
	}
}

// Of several dead letters the broker may have taken some and not others. Each must be published until it is confirmed, and
// none that was confirmed again.
func TestEachDeadLetterIsPublishedUntilConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for failures := range 12 {
			f := newFixture(t, nil)
			f.publisher.failures = failures
			b := f.batch(5, 0)
			want := make(map[string]bool)
			for i, m := range b.Messages {
				b.Rejected = append(b.Rejected, batch.Rejection{Delivery: i, ID: m.ID, Reason: contract.ReasonNotJSON, Err: errors.New("not JSON")})
				want[m.ID.String()] = true
			}
			b.Messages, b.Index = nil, nil
			require.NoError(t, f.writer.Write(t.Context(), t.Context(), b, &f.stats))
			require.Len(t, f.publisher.published, len(want), "%d failures", failures)
			for _, m := range f.publisher.published {
				require.True(t, want[m.Publishing.MessageId], "published once")
				delete(want, m.Publishing.MessageId)
			}
		}
	})
}

// A dead letter or a retry that the broker does not take while the batch is held must send the batch back: acknowledged, the
// message would be nowhere.
func TestDeadLettersThatCannotBePublishedGoBack(t *testing.T) {
	for name, code := range map[string]string{"dead letter": "22P02", "retry": "P0001"} {
		for _, stopped := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v", name, stopped), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFixture(t, nil)
					f.publisher.failures = 1 << 30
					b := f.batch(4, 0)
					f.store.fail = refuses(map[uuid.UUID]bool{b.Messages[2].ID: true}, code)
					waitCtx, cancelWait := context.WithCancel(t.Context())
					defer cancelWait()
					want := batch.ErrHeld
					if stopped {
						time.AfterFunc(time.Minute, cancelWait)
						want = context.Canceled
					}
					require.ErrorIs(t, f.writer.Write(t.Context(), waitCtx, b, &f.stats), want)
					require.Empty(t, f.publisher.published)
					require.Zero(t, f.stats.DeadLettered(contract.ReasonRejected).Load()+f.stats.Retried.Load(), "nothing became of it")
				})
			})
		}
	}
}

// A message without an id that is tried again has one from then on, or each try could store it once more.
func TestRetryOfAMessageWithoutAnIDHasOne(t *testing.T) {
	f := newFixture(t, nil)
	b := f.batch(2, 0)
	b.Deliveries[1].MessageId = ""
	f.store.fail = refuses(map[uuid.UUID]bool{b.Messages[1].ID: true}, "P0001")
	require.NoError(t, f.writer.Write(t.Context(), t.Context(), b, &f.stats))
	require.Len(t, f.publisher.published, 1)
	require.Equal(t, b.Messages[1].ID.String(), f.publisher.published[0].Publishing.MessageId)
}

// delivery is a message that came through an exchange with headers.
func delivery(exchange string, headers amqp.Table) consume.Delivery {
	return consume.Delivery{Delivery: amqp.Delivery{Exchange: exchange}, Properties: amqptest.Encode(amqp.Publishing{Headers: headers})}
}

func TestEveryReasonHasACounter(t *testing.T) {
	var stats batch.Stats
	for i, reason := range contract.Reasons() {
		stats.DeadLettered(reason).Add(int64(i + 1))
	}
	for i, reason := range contract.Reasons() {
		require.EqualValues(t, i+1, stats.DeadLettered(reason).Load())
	}
}
