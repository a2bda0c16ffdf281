package deadletter

import (
	"crypto/sha256"
	"encoding/json"
	"maps"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/header"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/attempt"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/envelope"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/republish"
)

// Reasons of parked messages, beside those of [contract.Reasons].
const (
	// ReasonExpired: the producer gave the message a lifetime, which ended in the tenant's queue.
	ReasonExpired contract.Reason = "expired"
	// ReasonUnroutable: the message came back from a retry tier when its tenant had no queue.
	ReasonUnroutable contract.Reason = "unroutable"
)

// Reasons are all reasons that a dead letter may have.
func Reasons() []contract.Reason {
	return append(contract.Reasons(), ReasonExpired, ReasonUnroutable)
}

// Entry is a dead letter.
type Entry struct {
	ID       uuid.UUID
	TenantID uuid.UUID
	// MessageID is the id under which the message would have been stored; nil if its producer gave none.
	MessageID *uuid.UUID
	// OriginalMessageID is what the producer gave, if it can be kept as text.
	OriginalMessageID string
	// Payload is the body; what was read of it, where the reader has a limit.
	Payload []byte
	// PayloadSize is the length of the whole body in bytes.
	PayloadSize int64
	ContentType string
	// Properties are those that the producer gave the message, headers included, byte by byte as they came. They are nil if an
	// earlier version has recorded the dead letter.
	Properties header.Properties
	// Headers are what an earlier version has kept of the producer's headers: a JSON object for people to read. It is empty where
	// there are Properties.
	Headers json.RawMessage
	Reason  contract.Reason
	Error   string
	// Attempts is how often the message was tried, 1 at least.
	Attempts int
	// Version rises whenever the dead letter comes again.
	Version       int64
	FirstFailedAt time.Time
	LastFailedAt  time.Time

	// came is what the dead letter was read from, as its producer has sent it; nil if it was read from the table.
	came *consume.Delivery
	// edit is what a replay changes.
	edit Edit
}

// Envelope is that of the message: nil if it has none, or if an earlier version has recorded the dead letter. The error is a
// [*contract.EnvelopeError].
func (l *Entry) Envelope() (*contract.Envelope, error) {
	p, headers, err := l.Properties.Decode()
	if err != nil {
		return nil, nil //nolint:nilnil,nilerr // what cannot be read is not published again either
	}
	e, _, err := envelope.Of(p.Type, headers)
	return e, err
}

// ReplayID is the id under which the dead letter's message is stored. A message without one is given the dead letter's, so that
// replaying it twice stores it once.
func (l *Entry) ReplayID() uuid.UUID {
	if l.MessageID != nil {
		return *l.MessageID
	}
	return l.ID
}

// EntryID is the id of the dead letter of a message: the same for the same message that fails for the same reason, so
// that it is one dead letter however often it is dead-lettered. Without a message id there is no telling whether two messages
// are the same one; then it is random.
func EntryID(tenant uuid.UUID, messageID string, reason contract.Reason, body []byte) uuid.UUID {
	if messageID == "" {
		return uuid.New()
	}
	id := uuid.UUID(contract.MessageID(tenant, messageID))
	content := sha256.Sum256(body)
	name := make([]byte, 0, len(id)+len(reason)+1+len(content))
	name = append(name, id[:]...)
	name = append(name, reason...)
	name = append(name, 0)
	return uuid.NewSHA1(tenant, append(name, content[:]...))
}

// Publishing is the dead letter of d, which came through the queue of tenant. attempts
// counts the one that failed last; cause is cut to [contract.MaxErrorBytes].
func Publishing(tenant uuid.UUID, d consume.Delivery, reason contract.Reason, cause error, attempts int) publish.Message {
	publishing := republish.Publishing(d)
	text := ""
	if cause != nil {
		text = cut(cause.Error(), contract.MaxErrorBytes)
	}
	failed := attempt.Of(d, time.Now())
	failed.Attempts = max(attempts, 1)
	maps.Copy(publishing.Headers, failed.Headers())
	maps.Copy(publishing.Headers, amqp.Table{
		contract.HeaderTenant:       tenant.String(),
		contract.HeaderReason:       string(reason),
		contract.HeaderError:        text,
		contract.HeaderDeadLetterID: EntryID(tenant, d.MessageId, reason, d.Body).String(),
	})
	exchange := contract.DeadLettersExchange
	if len(publishing.Body) > usual().large {
		exchange = contract.LargeDeadLettersExchange
	}
	return publish.Message{Exchange: exchange, Key: tenant.String(), Publishing: publishing}
}

// moved is the dead letter as [Publishing] would have written it, for another queue of the recorder, or for quarantine. tries is how often
// it could not be recorded in time.
func (l *Entry) moved(exchange string, tries int) publish.Message {
	m := Publishing(l.TenantID, *l.came, l.Reason, nil, l.Attempts)
	m.Exchange = exchange
	maps.Copy(m.Publishing.Headers, attempt.History{Attempts: l.Attempts, FirstFailedAt: l.FirstFailedAt}.Headers())
	maps.Copy(m.Publishing.Headers, amqp.Table{
		contract.HeaderError: l.Error, contract.HeaderDeadLetterID: l.ID.String(), contract.HeaderRecordTries: int32(min(max(tries, 0), math.MaxInt32)),
	})
	return m
}

// size is what the dead letter takes, in bytes.
func (l *Entry) size() int { return len(l.Payload) + len(l.Properties) }

// fromDeadLetters reads what [Publishing] has written. A dead letter that names no tenant, which only an operator can have
// published, is kept under the nil UUID: no tenant sees it, and it is not lost.
func fromDeadLetters(d consume.Delivery, now time.Time) Entry {
	republish.Unwrap(&d)
	headers := d.Properties.Headers()
	tenant, err := uuid.Parse(headers.Lookup(contract.HeaderTenant).Text())
	if err != nil {
		tenant = uuid.Nil
	}
	l := newEntry(tenant, d, now)
	l.Reason = contract.Reason(cut(clean(headers.Lookup(contract.HeaderReason).Text()), 64))
	l.Error = cut(clean(headers.Lookup(contract.HeaderError).Text()), contract.MaxErrorBytes)
	l.setHistory(headers, now)
	if l.ID, err = uuid.Parse(headers.Lookup(contract.HeaderDeadLetterID).Text()); err != nil {
		l.ID = EntryID(tenant, d.MessageId, l.Reason, d.Body)
	}
	return l
}

// fromParking reads a message that the broker itself gave up on. Its tenant is in the name of the queue that it died in,
// or, when it came back from a retry tier to nobody, in its routing key.
func fromParking(d consume.Delivery, now time.Time) Entry {
	headers := d.Properties.Headers()
	death := lastDeath(headers)
	tenant, reason, cause := parseOrNil(d.RoutingKey), ReasonUnroutable, "the message came back from a retry when its tenant had no queue"
	returned := true // headers of ours count only on what comes back from our own retry exchange
	if name, ok := contract.TenantOfQueue(death.Lookup("queue").Text()); ok {
		tenant, returned = parseOrNil(name), death.Lookup("exchange").Text() == contract.RetryReturnExchange
		switch why := death.Lookup("reason").Text(); why {
		case "delivery_limit":
			reason, cause = contract.ReasonDeliveryLimit, "delivered too often without being acknowledged; its consumers may have crashed over it"
		case "expired":
			reason, cause = ReasonExpired, "its expiration, set by the producer, ended in the queue"
		default:
			reason, cause = contract.ReasonRejected, "removed from the queue by the broker: "+clean(why)
		}
	}
	if returned {
		republish.Unwrap(&d)
	} else {
		republish.Undead(&d)
	}
	l := newEntry(tenant, d, now)
	l.Reason, l.Error = reason, cut(cause, contract.MaxErrorBytes)
	if returned {
		l.setHistory(headers, now)
	}
	l.ID = EntryID(tenant, d.MessageId, reason, d.Body)
	return l
}

func parseOrNil(s string) uuid.UUID {
	id, err := uuid.Parse(s)
	if err != nil {
		return uuid.Nil
	}
	return id
}

// lastDeath is the most recent entry of x-death, which the broker keeps at the front.
func lastDeath(headers header.Table) header.Table {
	for death, err := range headers.Lookup("x-death").Elements() {
		if err == nil && death.Kind == 'F' {
			return header.Table(death.Value)
		}
		break
	}
	return nil
}

// newEntry has what does not depend on how a dead letter came.
func newEntry(tenant uuid.UUID, d consume.Delivery, now time.Time) Entry {
	l := Entry{
		TenantID: tenant, Payload: d.Body, PayloadSize: int64(len(d.Body)),
		ContentType: clean(d.ContentType), Properties: republish.Original(&d), Headers: json.RawMessage(`{}`),
		Attempts: 1, Version: 1, FirstFailedAt: now, LastFailedAt: now, came: &d,
	}
	if l.Payload == nil {
		l.Payload = []byte{}
	}
	if d.MessageId != "" {
		id := uuid.UUID(contract.MessageID(tenant, d.MessageId))
		l.MessageID = &id
		if clean(d.MessageId) == d.MessageId {
			l.OriginalMessageID = d.MessageId
		}
	}
	return l
}

// setHistory takes over what headers of ours say of the attempts, the one that failed last included.
func (l *Entry) setHistory(headers header.Table, now time.Time) {
	failed := attempt.Read(headers, now)
	l.Attempts, l.FirstFailedAt = max(failed.Attempts, 1), failed.FirstFailedAt
}

// clean makes s fit for a text column: valid UTF-8 without NUL.
func clean(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// cut shortens s to at most n bytes, at the beginning of a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
