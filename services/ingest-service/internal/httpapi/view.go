package httpapi

import (
	"encoding/json"
	"math"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/deadletter"
)

// DeadLetter is a message that could not be stored.
type DeadLetter struct {
	ID       uuid.UUID `json:"id" format:"uuid"`
	TenantID uuid.UUID `json:"tenant_id" format:"uuid"`
	// Under which the message would have been stored; null if its producer gave none.
	MessageID *uuid.UUID `json:"message_id" format:"uuid"`
	// The message id that the producer gave, if it is text.
	OriginalMessageID string `json:"original_message_id,omitempty"`
	// Why it could not be stored.
	Reason string `json:"reason" enums:"not_json,unstorable,too_deep,too_large,foreign_key,rejected,max_attempts,delivery_limit,expired,unroutable"`
	Error  string `json:"error"`
	// How often it was tried.
	Attempts int `json:"attempts"`
	// The payload, if it is JSON that could be stored. Otherwise null, and in payload_base64.
	Payload json.RawMessage `json:"payload" swaggertype:"object"`
	// The bytes of a payload that is no such JSON, in base64.
	PayloadBase64 []byte `json:"payload_base64,omitempty" swaggertype:"string" format:"byte"`
	// Length of the payload in bytes.
	PayloadSize int64 `json:"payload_size"`
	// The payload is too long to be shown here.
	PayloadOmitted bool   `json:"payload_omitted,omitempty"`
	ContentType    string `json:"content_type"`
	// Headers of the producer.
	Headers       json.RawMessage `json:"headers" swaggertype:"object"`
	FirstFailedAt time.Time       `json:"first_failed_at" format:"date-time"`
	LastFailedAt  time.Time       `json:"last_failed_at" format:"date-time"`
}

// LetterPage is a page of dead letters.
type LetterPage struct {
	Data []DeadLetter `json:"data"`
	// Where to go on; on the last page, too.
	NextCursor string `json:"next_cursor"`
	HasMore    bool   `json:"has_more"`
}

// Dropped is the answer to dropping many dead letters.
type Dropped struct {
	Dropped int64 `json:"dropped"`
	// The time was over before all were dropped.
	HasMore bool `json:"has_more"`
}

// LetterReplayed is the answer to the replay of one dead letter.
type LetterReplayed struct {
	ID        uuid.UUID `json:"id" format:"uuid"`
	MessageID uuid.UUID `json:"message_id" format:"uuid"`
	Result    string    `json:"result" enums:"replayed,already_stored"`
}

// LettersReplayed is the answer to the replay of many dead letters.
type LettersReplayed struct {
	// How many letters there are; of a dry run only.
	Count  *int64 `json:"count,omitempty"`
	DryRun bool   `json:"dry_run"`
	// Published again.
	Replayed int `json:"replayed"`
	// Not published, since a message of their id is stored.
	AlreadyStored int `json:"already_stored"`
	// Not published, since their payload cannot be stored as it is. They stay.
	Refused int `json:"refused"`
	// Some are left: go on with next_cursor.
	HasMore    bool   `json:"has_more"`
	NextCursor string `json:"next_cursor,omitempty"`
	// Why it stopped before its time was over: the code of a problem.
	Stopped string `json:"stopped,omitempty" example:"queue_full"`
}

// show renders a letter. Its payload is given as JSON only where a message of it would be: a client that could read
// the message can read the letter.
func show(l *deadletter.Letter) DeadLetter {
	letter := DeadLetter{
		ID: l.ID, TenantID: l.TenantID, MessageID: l.MessageID, OriginalMessageID: l.OriginalMessageID,
		Reason: string(l.Reason), Error: l.Error, Attempts: l.Attempts, PayloadSize: l.PayloadSize,
		ContentType: l.ContentType, Headers: l.Headers, FirstFailedAt: l.FirstFailedAt, LastFailedAt: l.LastFailedAt,
	}
	switch {
	case l.Payload == nil:
		letter.PayloadOmitted = true
	case contract.CheckPayload(l.Payload, math.MaxInt) == nil:
		letter.Payload = l.Payload
	default:
		letter.PayloadBase64 = l.Payload
	}
	return letter
}
