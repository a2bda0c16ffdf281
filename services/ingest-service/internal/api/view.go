package api

import (
	"encoding/json"
	"math"
	"strings"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/header"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/deadletter"
)

// DeadLetter is a message that could not be stored.
type DeadLetter struct {
	ID       uuid.UUID `json:"id" format:"uuid"`
	TenantID uuid.UUID `json:"tenant_id" format:"uuid"`
	// Under which the message would have been stored; null if its producer gave none.
	MessageID *uuid.UUID `json:"message_id" format:"uuid" extensions:"x-nullable"`
	// The message id that the producer gave, if it is text.
	OriginalMessageID string `json:"original_message_id,omitempty"`
	// Why it could not be stored.
	Reason string `json:"reason" enums:"not_json,unstorable,too_deep,too_large,foreign_key,bad_envelope,rejected,max_attempts,delivery_limit,expired,unroutable"`
	Error  string `json:"error"`
	// How often it was tried.
	Attempts int `json:"attempts"`
	// The payload, if it is JSON that could be stored. Otherwise null, and in payload_base64.
	Payload json.RawMessage `json:"payload" extensions:"x-nullable"`
	// The bytes of a payload that is no such JSON, in base64.
	PayloadBase64 []byte `json:"payload_base64,omitempty" swaggertype:"string" format:"byte"`
	// Length of the payload in bytes.
	PayloadSize int64 `json:"payload_size"`
	// The payload is too long to be shown here.
	PayloadOmitted bool   `json:"payload_omitted,omitempty"`
	ContentType    string `json:"content_type"`
	// Envelope of the message, as far as it has one that can be kept.
	Type       string            `json:"type,omitempty"`
	Key        string            `json:"key,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
	// What else came with the message: those AMQP properties that its producer has set.
	Properties Properties `json:"properties"`
	// Headers of the producer, in their order. What JSON cannot express is an object with one name: `$base64` (bytes, and text that is not UTF-8), `$float` (NaN, +Inf, -Inf), `$values` (all values of a name that occurs more than once), `$encoded` (a table or list nested over 200 levels, as on the wire in base64). Times are in UTC; what is beyond the year 9999 in seconds is read as milliseconds, microseconds or nanoseconds.
	Headers json.RawMessage `json:"headers" swaggertype:"object"`
	// Properties or headers could not be read from some byte on. What comes before is shown, and all of them are in properties_base64.
	PropertiesUnreadable bool `json:"properties_unreadable,omitempty"`
	// The bytes of properties and headers as on the wire (AMQP 0-9-1, section 4.2.6.1) in base64, if they could not be read.
	PropertiesBase64 []byte         `json:"properties_base64,omitempty" swaggertype:"string" format:"byte"`
	FirstFailedAt    rest.Timestamp `json:"first_failed_at" swaggertype:"string" format:"date-time"`
	LastFailedAt     rest.Timestamp `json:"last_failed_at" swaggertype:"string" format:"date-time"`
}

// Properties are the AMQP properties of a message, as its producer has set them. What is not UTF-8 in them is shown as U+FFFD.
type Properties struct {
	ContentType     string `json:"content_type,omitempty"`
	ContentEncoding string `json:"content_encoding,omitempty"`
	// 1: transient, 2: persistent.
	DeliveryMode  uint8  `json:"delivery_mode,omitempty"`
	Priority      *uint8 `json:"priority,omitempty"`
	CorrelationID string `json:"correlation_id,omitempty"`
	ReplyTo       string `json:"reply_to,omitempty"`
	// Milliseconds that the message might wait in the queue.
	Expiration string `json:"expiration,omitempty"`
	MessageID  string `json:"message_id,omitempty"`
	// RFC 3339 in UTC, read as times in headers are; the number where it is no time.
	Timestamp string `json:"timestamp,omitempty"`
	Type      string `json:"type,omitempty"`
	UserID    string `json:"user_id,omitempty"`
	AppID     string `json:"app_id,omitempty"`
} // @name AMQPProperties

// DeadLetterPage is a page of dead letters.
type DeadLetterPage struct {
	Data []DeadLetter `json:"data"`
	// The position of the next page; given on the last page, too.
	NextCursor string `json:"next_cursor"`
	HasMore    bool   `json:"has_more"`
} // @name DeadLetterPage

// Dropped is the answer to dropping many dead letters.
type Dropped struct {
	Dropped int64 `json:"dropped"`
	// The time was over before all were dropped.
	HasMore bool `json:"has_more"`
} // @name DeadLettersDropped

// DeadLetterReplayed is the answer to the replay of one dead letter.
type DeadLetterReplayed struct {
	ID        uuid.UUID `json:"id" format:"uuid"`
	MessageID uuid.UUID `json:"message_id" format:"uuid"`
	Result    string    `json:"result" enums:"replayed,already_stored"`
} // @name DeadLetterReplayed

// DeadLettersReplayed is the answer to the replay of many dead letters.
type DeadLettersReplayed struct {
	// How many dead letters there are; of a dry run only.
	Count  *int64 `json:"count,omitempty"`
	DryRun bool   `json:"dry_run"`
	// Published again.
	Replayed int `json:"replayed"`
	// Not published, since a message of their id is stored.
	AlreadyStored int `json:"already_stored"`
	// Not published, since their payload cannot be stored as it is. They stay.
	Refused int `json:"refused"`
	// Some are left: continue with next_cursor.
	HasMore    bool   `json:"has_more"`
	NextCursor string `json:"next_cursor,omitempty"`
	// Why it stopped before its time was over: the code of a problem.
	Stopped string `json:"stopped,omitempty" example:"queue_full"`
} // @name DeadLettersReplayed

// show renders a dead letter. Its payload is given as JSON only where a message of it would be: a client that could read
// the message can read the dead letter.
func show(l *deadletter.Entry) DeadLetter {
	entry := DeadLetter{
		ID: l.ID, TenantID: l.TenantID, MessageID: l.MessageID, OriginalMessageID: l.OriginalMessageID,
		Reason: string(l.Reason), Error: l.Error, Attempts: l.Attempts, PayloadSize: l.PayloadSize,
		ContentType: l.ContentType, Headers: l.Headers, FirstFailedAt: rest.Timestamp{Time: l.FirstFailedAt}, LastFailedAt: rest.Timestamp{Time: l.LastFailedAt},
	}
	if e, err := l.Envelope(); err == nil && e != nil {
		entry.Type, entry.Key, entry.Attributes = e.Type, e.Key, e.Attributes
	}
	entry.showProperties(l.Properties)
	switch {
	case l.Payload == nil:
		entry.PayloadOmitted = true
	case contract.CheckPayload(l.Payload, math.MaxInt) == nil:
		entry.Payload = l.Payload
	default:
		entry.PayloadBase64 = l.Payload
	}
	return entry
}

// showProperties renders properties as they came; those of a dead letter that an earlier version has recorded are not known.
func (l *DeadLetter) showProperties(encoded header.Properties) {
	if encoded == nil {
		l.Properties.ContentType = l.ContentType
		return
	}
	p, headers, err := encoded.Decode()
	l.Properties = Properties{
		ContentType: text(p.ContentType), ContentEncoding: text(p.ContentEncoding), DeliveryMode: p.DeliveryMode,
		CorrelationID: text(p.CorrelationId), ReplyTo: text(p.ReplyTo), Expiration: text(p.Expiration), MessageID: text(p.MessageId),
		Type: text(p.Type), UserID: text(p.UserId), AppID: text(p.AppId),
	}
	if encoded.HasPriority() {
		l.Properties.Priority = &p.Priority
	}
	if !p.Timestamp.IsZero() {
		l.Properties.Timestamp = deadletter.TimeText(p.Timestamp.Unix())
	}
	var unreadable error
	l.Headers, unreadable = deadletter.HeadersJSON(headers)
	if err != nil || unreadable != nil {
		l.PropertiesUnreadable, l.PropertiesBase64 = true, encoded
	}
}

func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
