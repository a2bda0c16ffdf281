package deadletter

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// outlet publishes nothing and remembers what it was given.
type outlet struct {
	published []publish.Message
	fail      func(m publish.Message) error
	during    func()
}

func (o *outlet) PublishBatch(_ context.Context, messages []publish.Message) []error {
	if o.during != nil {
		o.during()
	}
	errs := make([]error, len(messages))
	for i, m := range messages {
		if o.fail != nil {
			errs[i] = o.fail(m)
		}
		if errs[i] == nil {
			o.published = append(o.published, m)
		}
	}
	return errs
}

func replayer(t *testing.T, s *Store, publisher Publisher, perSecond int) *Replayer {
	t.Helper()
	return NewReplayer(s, publisher, perSecond, 10_000, NewMetrics(prometheus.NewPedanticRegistry()), zaptest.NewLogger(t))
}

// storeMessage has a message stored under an id, as a worker would.
func storeMessage(t *testing.T, operator *pgxpool.Pool, tenant, id uuid.UUID) {
	t.Helper()
	_, err := operator.Exec(t.Context(), `SELECT tenant_attach($1)`, tenant)
	require.NoError(t, err)
	_, err = operator.Exec(t.Context(), `INSERT INTO messages (tenant_id, id, payload) VALUES ($1, $2, '1')`, tenant, id)
	require.NoError(t, err)
}

func TestReplayBringsAMessageBackToItsTenant(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	link, publisher := broker(t, tenantA)
	l := newTestEntry(tenantA, 7)
	record(t, s, l, newTestEntry(tenantA, 8))
	r := replayer(t, s, publisher, 100)

	got, err := r.Replay(t.Context(), tenantA, l.ID, Edit{}, someone())
	require.NoError(t, err)
	require.Equal(t, Replayed{MessageID: *l.MessageID, Result: ResultReplayed}, got)
	amqptest.Do(t, link, func(ch *amqp.Channel) error {
		d, ok, err := ch.Get(contract.QueueName(tenantA.String()), true)
		require.True(t, ok)
		require.Equal(t, "7", d.MessageId)
		require.Equal(t, l.Payload, d.Body)
		require.Equal(t, "application/json", d.ContentType)
		require.Equal(t, tenantA.String(), d.RoutingKey)
		require.Empty(t, d.Headers)
		return err
	})
	_, err = r.Replay(t.Context(), tenantA, l.ID, Edit{}, someone())
	require.ErrorIs(t, err, ErrNotFound)
	require.Len(t, list(t, s, tenantA, Filter{}), 1)

	_, err = r.Replay(t.Context(), tenantB, newTestEntry(tenantA, 8).ID, Edit{}, someone())
	require.ErrorIs(t, err, ErrNotFound, "another tenant's dead letter")
	record(t, s, newTestEntry(tenantB, 1))
	_, err = r.Replay(t.Context(), tenantB, newTestEntry(tenantB, 1).ID, Edit{}, someone())
	require.ErrorIs(t, err, publish.ErrUnroutable, "a tenant without a queue")
	require.Len(t, list(t, s, tenantB, Filter{}), 1)
}

// A message whose envelope is outside of the limits comes back as a dead letter until it gets another one.
func TestReplayOfABadEnvelope(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	var o outlet
	r := replayer(t, s, &o, 100)
	l := newTestEntry(tenantA, 1)
	l.Properties = amqptest.Encode(amqp.Publishing{
		MessageId: "7", Type: "t", Headers: amqp.Table{contract.HeaderKey: "two\nlines", "mtm-attr-a": "1", "other": "kept"},
	})
	record(t, s, l)
	_, err := r.Replay(t.Context(), tenantA, l.ID, Edit{Payload: []byte(`1`)}, someone())
	var refused *contract.EnvelopeError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, contract.HeaderKey, refused.Field)
	require.Empty(t, o.published)

	got, err := r.Replay(t.Context(), tenantA, l.ID, Edit{Envelope: &contract.Envelope{Key: "one line"}}, someone())
	require.NoError(t, err)
	require.Equal(t, ResultReplayed, got.Result)
	require.Empty(t, o.published[0].Publishing.Type)
	require.Equal(t, amqp.Table{contract.HeaderKey: "one line", "other": "kept"}, o.published[0].Publishing.Headers)
	require.Equal(t, l.Payload, o.published[0].Publishing.Body)
}

// A replay has what its producer gave the message; only another payload has its own type.
func TestReplayHasTheProperties(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	p := amqp.Publishing{
		MessageId: "7", ContentType: "application/vnd.example+json", ContentEncoding: "identity", Priority: 3, CorrelationId: "c", ReplyTo: "r", Type: "t",
		AppId: "a", Timestamp: time.Unix(1_700_000_000_000, 0), Headers: amqp.Table{"n": int8(1), "list": []any{int64(2), nil}},
	}
	kept := p
	kept.UserId, kept.Expiration, kept.DeliveryMode = "u", "1", amqp.Transient
	var o outlet
	for _, edited := range [][]byte{nil, []byte(`{"edited":true}`)} {
		l := newTestEntry(tenantA, 7)
		l.Properties = amqptest.Encode(kept)
		record(t, s, l)
		_, err := replayer(t, s, &o, 100).Replay(t.Context(), tenantA, l.ID, Edit{Payload: edited}, someone())
		require.NoError(t, err)
		want := p
		want.Body, want.DeliveryMode = l.Payload, amqp.Persistent
		if edited != nil {
			want.Body, want.ContentType, want.ContentEncoding = edited, "application/json", ""
		}
		require.Equal(t, want, o.published[len(o.published)-1].Publishing)
	}
}

// A message that was stored meanwhile must not be stored twice, and its dead letter is of no use any more.
func TestReplayOfAStoredMessage(t *testing.T) {
	t.Parallel()
	s, operator := database(t)
	l := newTestEntry(tenantA, 1)
	record(t, s, l)
	storeMessage(t, operator, tenantA, *l.MessageID)
	var o outlet
	got, err := replayer(t, s, &o, 100).Replay(t.Context(), tenantA, l.ID, Edit{}, someone())
	require.NoError(t, err)
	require.Equal(t, ResultAlreadyStored, got.Result)
	require.Empty(t, o.published)
	require.Empty(t, list(t, s, tenantA, Filter{}))
}

// A replay whose message fails again faster than the dead letter is removed must not remove the new failure.
func TestReplayKeepsADeadLetterThatCameAgain(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	l := newTestEntry(tenantA, 1)
	record(t, s, l)
	o := outlet{during: func() { record(t, s, l) }}
	got, err := replayer(t, s, &o, 100).Replay(t.Context(), tenantA, l.ID, Edit{}, someone())
	require.NoError(t, err)
	require.Equal(t, ResultReplayed, got.Result)
	left := list(t, s, tenantA, Filter{})
	require.Len(t, left, 1)
	require.EqualValues(t, 2, left[0].Version)
}

func TestReplayThatCannotPublishKeepsTheDeadLetter(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	l := newTestEntry(tenantA, 1)
	record(t, s, l)
	o := outlet{fail: func(publish.Message) error { return conn.ErrBlocked }}
	_, err := replayer(t, s, &o, 100).Replay(t.Context(), tenantA, l.ID, Edit{}, someone())
	require.ErrorIs(t, err, conn.ErrBlocked)
	require.Len(t, list(t, s, tenantA, Filter{}), 1)
}

// What cannot be stored would be a dead letter again at once: it has to be edited.
func TestReplayOfAPayloadThatCannotBeStored(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	var o outlet
	r := replayer(t, s, &o, 100)
	for n, c := range []struct {
		payload string
		reason  contract.Reason
	}{
		{"{", contract.ReasonNotJSON},
		{`"\u0000"`, contract.ReasonUnstorable},
		{"[" + strings.Repeat("1e399,", 100) + "0]", contract.ReasonUnstorable}, // grows over the limit when it is read
		{strings.Repeat("[", 300) + strings.Repeat("]", 300), contract.ReasonTooDeep},
		{`"` + strings.Repeat("x", 10_000) + `"`, contract.ReasonTooLarge},
	} {
		l := newTestEntry(tenantA, n)
		l.Payload, l.OriginalMessageID = []byte(c.payload), ""
		record(t, s, l)
		_, err := r.Replay(t.Context(), tenantA, l.ID, Edit{}, someone())
		var refused *contract.PayloadError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, c.reason, refused.Reason)
		_, err = r.Replay(t.Context(), tenantA, l.ID, Edit{Payload: []byte("{{")}, someone())
		require.ErrorAs(t, err, &refused)

		require.Empty(t, o.published)
		got, err := r.Replay(t.Context(), tenantA, l.ID, Edit{Payload: []byte(`{"edited":true}`)}, someone())
		require.NoError(t, err)
		require.Equal(t, ResultReplayed, got.Result)
		require.Equal(t, `{"edited":true}`, string(o.published[0].Publishing.Body))
		require.Equal(t, l.MessageID.String(), o.published[0].Publishing.MessageId, "its id was not text, so it is the one it is stored by")
		o.published = nil
	}
	require.Empty(t, list(t, s, tenantA, Filter{}))
}

// A message without an id gets one with its first replay, so that the second does not store it again.
func TestReplayOfAMessageWithoutAnID(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	l := newTestEntry(tenantA, 1)
	l.MessageID, l.OriginalMessageID = nil, ""
	o := outlet{during: func() { record(t, s, l) }} // the dead letter stays, as if it could not be removed
	r := replayer(t, s, &o, 100)
	record(t, s, l)
	for range 2 {
		got, err := r.Replay(t.Context(), tenantA, l.ID, Edit{}, someone())
		require.NoError(t, err)
		require.Equal(t, l.ID, got.MessageID)
	}
	require.Equal(t, l.ID.String(), o.published[0].Publishing.MessageId)
	require.Equal(t, l.ID.String(), o.published[1].Publishing.MessageId)
}

func TestReplayAll(t *testing.T) {
	t.Parallel()
	s, operator := database(t)
	var all []Entry
	for n := range 250 {
		l := newTestEntry(tenantA, n)
		switch n % 50 {
		case 0:
			l.Payload = []byte("{")
		case 1:
			storeMessage(t, operator, tenantA, *l.MessageID)
		}
		all = append(all, l)
	}
	other := newTestEntry(tenantA, 1000)
	other.Reason = contract.ReasonNotJSON
	record(t, s, append(all, other, newTestEntry(tenantB, 1))...)
	var o outlet
	outcome, err := replayer(t, s, &o, 10_000).ReplayAll(t.Context(), tenantA, Filter{Reason: contract.ReasonRejected}, Position{}, someone())
	require.NoError(t, err)
	last := Position{all[249].FirstFailedAt, all[249].ID}
	require.Equal(t, Outcome{Replayed: 240, AlreadyStored: 5, Refused: 5, Next: last}, outcome)
	require.Len(t, o.published, 240)
	require.Len(t, list(t, s, tenantA, Filter{}), 6, "the refused ones, and that of another reason")
	require.Len(t, list(t, s, tenantB, Filter{}), 1)
}

// A tenant's replay shares the way with what is new: it has to be slow, and to continue where it stopped.
func TestReplayAllIsSlowAndGoesOnWhereItStopped(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	var all []Entry
	for n := range 60 {
		all = append(all, newTestEntry(tenantA, n))
	}
	record(t, s, all...)
	var o outlet
	r := replayer(t, s, &o, 20)
	total, rounds := 0, 0
	outcome := Outcome{More: true}
	for outcome.More {
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		var err error
		outcome, err = r.ReplayAll(ctx, tenantA, Filter{}, outcome.Next, someone())
		cancel()
		require.NoError(t, err)
		require.LessOrEqual(t, outcome.Replayed, 40, "twenty at once, and as many for every second")
		total += outcome.Replayed
		rounds++
	}
	require.Equal(t, 60, total)
	require.Len(t, o.published, 60)
	require.Greater(t, rounds, 1)
	require.Empty(t, list(t, s, tenantA, Filter{}))
}

func TestReplayAllStopsAtAnErrorAndSaysWhatIsDone(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	var all []Entry
	for n := range 150 {
		all = append(all, newTestEntry(tenantA, n))
	}
	record(t, s, all...)
	o := outlet{fail: func(m publish.Message) error {
		if m.Publishing.MessageId == "120" {
			return fmt.Errorf("publish: %w", publish.ErrRejected)
		}
		return nil
	}}
	outcome, err := replayer(t, s, &o, 10_000).ReplayAll(t.Context(), tenantA, Filter{}, Position{}, someone())
	require.ErrorIs(t, err, publish.ErrRejected)
	require.Equal(t, Outcome{Replayed: 149, Next: Position{all[99].FirstFailedAt, all[99].ID}, More: true}, outcome)
	require.Len(t, list(t, s, tenantA, Filter{}), 1)
}

func TestReplayAllRunsOnceATenant(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	record(t, s, newTestEntry(tenantA, 1), newTestEntry(tenantB, 1))
	inside, leave := make(chan struct{}), make(chan struct{})
	o := outlet{during: func() { inside <- struct{}{}; <-leave }}
	r := replayer(t, s, &o, 10)
	done := make(chan error, 1)
	go func() {
		_, err := r.ReplayAll(t.Context(), tenantA, Filter{}, Position{}, someone())
		done <- err
	}()
	<-inside
	_, err := r.ReplayAll(t.Context(), tenantA, Filter{}, Position{}, someone())
	require.ErrorIs(t, err, ErrBusy)
	close(leave)
	require.NoError(t, <-done)
	go func() { <-inside }()
	_, err = r.ReplayAll(t.Context(), tenantB, Filter{}, Position{}, someone())
	require.NoError(t, err)
	_, err = r.ReplayAll(t.Context(), tenantA, Filter{}, Position{}, someone())
	require.NoError(t, err)
}
