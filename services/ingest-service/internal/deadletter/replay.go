package deadletter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/envelope"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/republish"
)

// Result says what a replay has come to.
type Result string

// The results of replays.
const (
	// ResultReplayed: the message was published again and is on its way.
	ResultReplayed Result = "replayed"
	// ResultAlreadyStored: a message of this id is stored, so nothing was published; the dead letter is removed.
	ResultAlreadyStored Result = "already_stored"
	// resultRefused: the payload cannot be stored as it is, so nothing was published; the dead letter stays.
	resultRefused Result = "refused"
	// resultRateLimited: the tenant replays more than its limit, so nothing was tried.
	resultRateLimited Result = "rate_limited"
)

// ErrBusy says that another replay of all dead letters of the tenant is running.
var ErrBusy = errors.New("a replay is running already")

const (
	// replayPage is how many dead letters are replayed at a time, at most.
	replayPage = 100
	// replayBytes is how many bytes of payloads are replayed at a time.
	replayBytes = 8 << 20
	// replayReserve is left of the time of a request to answer it.
	replayReserve = time.Second
	// removeTimeout bounds the removal of dead letters that were just published, which the end of a request does not
	// interrupt.
	removeTimeout = 5 * time.Second
)

// Publisher publishes with confirms; [publish.Publisher] is one.
type Publisher interface {
	PublishBatch(ctx context.Context, messages []publish.Message) []error
}

// Replayer publishes the messages of dead letters again. It is safe for concurrent use.
type Replayer struct {
	store      *Store
	publisher  Publisher
	perSecond  int
	maxPayload int
	metrics    *Metrics
	log        *zap.Logger
	rates      Rates                        // nil: no tenant has a limit
	limit      func(tenant uuid.UUID) int64 // in dead letters a second; 0: none

	mu      sync.Mutex
	running map[uuid.UUID]bool // guarded by mu: tenants of which all dead letters are being replayed
}

// NewReplayer returns a replayer. When many dead letters of a tenant are replayed it publishes so many a second. Payloads
// over maxPayload bytes are not published: they would only come back.
func NewReplayer(store *Store, publisher Publisher, perSecond, maxPayload int, metrics *Metrics, log *zap.Logger) *Replayer {
	return &Replayer{
		store: store, publisher: publisher, perSecond: max(perSecond, 1), maxPayload: maxPayload, metrics: metrics, log: log,
		running: make(map[uuid.UUID]bool),
	}
}

// Replayed is the outcome of one replay.
type Replayed struct {
	MessageID uuid.UUID
	Result    Result
}

// Edit is what a replay changes of a message.
type Edit struct {
	// Payload is published in place of the one of the dead letter; nil: as it is.
	Payload []byte
	// Envelope is published in place of the one of the dead letter; nil: as it is. An empty one removes it.
	Envelope *contract.Envelope
}

// Replay publishes the message of a dead letter again, as by asked for it, changed by edit. The errors are [ErrNotFound], a [*RateError],
// a [*contract.PayloadError] or a [*contract.EnvelopeError] for a message that cannot be stored, those of [publish.Publisher], and
// those of the database.
func (r *Replayer) Replay(ctx context.Context, tenant, id uuid.UUID, edit Edit, by audit.Origin) (Replayed, error) {
	passed, wait := r.pass(ctx, tenant, 1)
	if passed == 0 {
		r.metrics.replayed.WithLabelValues(string(resultRateLimited)).Inc()
		return Replayed{}, &RateError{Wait: wait}
	}
	replayed, err := r.replayOne(ctx, tenant, id, edit, by)
	if err != nil {
		r.giveBack(tenant, 1)
	}
	return replayed, err
}

func (r *Replayer) replayOne(ctx context.Context, tenant, id uuid.UUID, edit Edit, by audit.Origin) (Replayed, error) {
	entry, err := r.store.Find(ctx, tenant, id, r.maxPayload)
	if err != nil {
		return Replayed{}, err
	}
	replayed := Replayed{MessageID: entry.ReplayID()}
	page := []Entry{entry}
	page[0].edit = edit
	if edit.Payload != nil {
		page[0].Payload, page[0].PayloadSize = edit.Payload, int64(len(edit.Payload))
	}
	results, errs, err := r.replay(ctx, tenant, page, replayEvent(by, &page[0]))
	if err == nil {
		err = errs[0]
	}
	replayed.Result = results[0]
	return replayed, err
}

// Outcome is what a replay of many dead letters has come to.
type Outcome struct {
	// Replayed, AlreadyStored and Refused count the dead letters by result. Refused ones have a payload that cannot be stored
	// as it is.
	Replayed, AlreadyStored, Refused int
	// Next is the position to continue from, if More dead letters are left.
	Next Position
	More bool
}

// ReplayAll replays the dead letters of tenant that pass filter, as by asked for it, from a position on, until all are done or the time
// of ctx is nearly over. The error, beside those of [Replayer.Replay], is [ErrBusy]; dead letters that were replayed before an error
// are in the outcome, and the rest follows from its Next.
func (r *Replayer) ReplayAll(ctx context.Context, tenant uuid.UUID, filter Filter, after Position, by audit.Origin) (Outcome, error) {
	outcome := Outcome{Next: after, More: true}
	if !r.begin(tenant) {
		return outcome, ErrBusy
	}
	defer r.end(tenant)
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-min(replayReserve, time.Until(deadline)/5)))
		defer cancel()
	}
	entries := min(r.perSecond, replayPage)
	limiter := rate.NewLimiter(rate.Limit(r.perSecond), entries)
	for outcome.More {
		limits := Limits{Entries: min(entries, r.atATime(tenant)), Payload: r.maxPayload, Bytes: replayBytes}
		page, err := r.store.List(ctx, tenant, filter, outcome.Next, limits)
		if err != nil {
			return outcome.until(ctx, err)
		}
		if len(page.Entries) == 0 {
			outcome.More = false
			break
		}
		passed := r.await(ctx, tenant, len(page.Entries))
		if passed < len(page.Entries) {
			page.Entries, page.More = page.Entries[:passed], true
		}
		if err := limiter.WaitN(ctx, passed); err != nil || passed == 0 {
			r.giveBack(tenant, passed)
			return outcome, nil // there is no time for another page: the caller continues from Next
		}
		results, errs, err := r.replay(ctx, tenant, page.Entries, replayStepEvent(by, tenant, filter))
		failed := outcome.add(results, errs)
		if err = cmp.Or(err, failed); err != nil {
			return outcome.until(ctx, err)
		}
		last := page.Entries[len(page.Entries)-1]
		outcome.Next, outcome.More = Position{last.FirstFailedAt, last.ID}, page.More
	}
	return outcome, nil
}

// add counts results, and returns the first error of those that have none: of many, that says enough.
func (o *Outcome) add(results []Result, errs []error) (failed error) {
	for i, result := range results {
		switch result {
		case ResultReplayed:
			o.Replayed++
		case ResultAlreadyStored:
			o.AlreadyStored++
		case resultRefused:
			o.Refused++
		default:
			failed = cmp.Or(failed, errs[i])
		}
	}
	return failed
}

// until hides an error that is only the end of the time: what is left follows from Next.
func (o Outcome) until(ctx context.Context, err error) (Outcome, error) {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) && o.Replayed+o.AlreadyStored+o.Refused > 0 {
		return o, nil
	}
	return o, err
}

func (r *Replayer) begin(tenant uuid.UUID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running[tenant] {
		return false
	}
	r.running[tenant] = true
	return true
}

func (r *Replayer) end(tenant uuid.UUID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.running, tenant)
}

// replay replays dead letters, and removes those that need no further one. A dead letter has either a result or an error. event makes
// the audit event of results and of how many were removed.
func (r *Replayer) replay(
	ctx context.Context, tenant uuid.UUID, entries []Entry, event func([]Result, int64) audit.Event,
) ([]Result, []error, error) {
	results, errs := make([]Result, len(entries)), make([]error, len(entries))
	ids := make([]uuid.UUID, len(entries))
	for i := range entries {
		ids[i] = entries[i].ReplayID()
	}
	stored, err := r.store.stored(ctx, tenant, ids)
	if err != nil {
		return results, errs, err
	}
	var messages []publish.Message
	var published []int // messages[k] is that of dead letters[published[k]]
	for i := range entries {
		if stored[ids[i]] {
			results[i] = ResultAlreadyStored
			continue
		}
		if errs[i] = r.check(&entries[i]); errs[i] != nil {
			results[i] = resultRefused
			continue
		}
		messages, published = append(messages, replayMessage(tenant, &entries[i])), append(published, i)
	}
	for k, err := range r.publisher.PublishBatch(ctx, messages) {
		if errs[published[k]] = err; err == nil {
			results[published[k]] = ResultReplayed
		}
	}
	r.finish(ctx, tenant, entries, results, event)
	return results, errs, nil
}

// finish counts the results and removes the dead letters that are done, with the audit event. If that fails they stay, and the next
// replay of them finds their messages stored, which is an event then.
func (r *Replayer) finish(ctx context.Context, tenant uuid.UUID, entries []Entry, results []Result, event func([]Result, int64) audit.Event) {
	var done []Entry
	for i, result := range results {
		if result != "" {
			r.metrics.replayed.WithLabelValues(string(result)).Inc()
		}
		if result == ResultReplayed || result == ResultAlreadyStored {
			done = append(done, entries[i])
		}
	}
	if len(done) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	err := r.store.remove(ctx, tenant, done, func(removed int64) audit.Event { return event(results, removed) })
	if err != nil {
		r.log.Warn("replayed dead letters could not be removed; another replay will find them stored",
			zap.Stringer("tenant_id", tenant), zap.Int("dead_letters", len(done)), zap.String("request_id", event(results, 0).RequestID), zap.Error(err))
	}
}

// check refuses a message that would only become a dead letter again.
func (r *Replayer) check(l *Entry) error {
	if l.edit.Envelope == nil {
		if _, err := l.Envelope(); err != nil {
			return err
		}
	}
	if l.PayloadSize > int64(r.maxPayload) {
		return &contract.PayloadError{
			Reason: contract.ReasonTooLarge, Offset: r.maxPayload,
			Detail: fmt.Sprintf("the payload has %d bytes, the limit is %d", l.PayloadSize, r.maxPayload),
		}
	}
	return contract.CheckPayload(l.Payload, r.maxPayload)
}

// replayMessage is the message of a dead letter, under its old id and with the properties of its producer, as far as
// [republish.Replay] publishes them again. Its attempts start again.
func replayMessage(tenant uuid.UUID, l *Entry) publish.Message {
	id := l.OriginalMessageID
	if id == "" {
		id = l.ReplayID().String()
	}
	publishing := republish.Replay(l.Properties, id)
	if l.Properties == nil { // recorded by an earlier version
		publishing.ContentType, publishing.Timestamp = cut(l.ContentType, 255), time.Now()
	}
	if l.edit.Payload != nil {
		publishing.ContentType, publishing.ContentEncoding = "application/json", ""
	}
	if l.edit.Envelope != nil {
		envelope.Put(&publishing, l.edit.Envelope)
	}
	publishing.Body = l.Payload
	return publish.Message{Exchange: contract.TenantsExchange, Key: tenant.String(), Publishing: publishing}
}
