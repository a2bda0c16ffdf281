package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/rabbitmq"
)

const (
	// batchLines is how many messages go into one HTTP request. Their bodies stay below the usual limit of 1 MiB, unless
	// the documents are large: then fewer.
	batchLines = 100
	batchBytes = 512 << 10
	// amqpBatch is how many messages are published over AMQP before their confirms are waited for.
	amqpBatch = 200
)

// line is one line of a batch.
type line struct {
	ID      uuid.UUID       `json:"id"`
	Payload json.RawMessage `json:"payload"`
}

// result is what became of one line.
type result struct {
	ID     string `json:"id"`
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

// publishHTTP sends the messages from first up to, but not including, end.
func (s *subject) publishHTTP(ctx context.Context, first, end int) error {
	for first < end {
		var body bytes.Buffer
		count := 0
		for encoder := json.NewEncoder(&body); first+count < end && count < batchLines && body.Len() < batchBytes; count++ {
			encoder.SetEscapeHTML(false)
			if err := encoder.Encode(line{s.ids[first+count], s.corpus.document(first + count)}); err != nil {
				return fmt.Errorf("encode message %d: %w", first+count, err)
			}
		}
		if err := s.publishBatch(ctx, body.Bytes(), count); err != nil {
			return fmt.Errorf("publish for %s over HTTP: %w", s.name, err)
		}
		s.viaHTTP.Add(int64(count))
		first += count
	}
	return nil
}

// publishBatch sends one batch, again and again while the broker is away: a line that was accepted already is stored once.
func (s *subject) publishBatch(ctx context.Context, body []byte, count int) error {
	batch := request{method: http.MethodPost, path: "/messages/batch", body: body, contentType: "application/x-ndjson"}
	return until(ctx, time.Second, func() (accepted bool, err error) {
		var answer struct {
			Results []result `json:"results"`
		}
		if err := s.ingest.do(ctx, batch, &answer); err != nil {
			return false, err
		}
		if len(answer.Results) != count {
			return false, fmt.Errorf("%d results for %d lines", len(answer.Results), count)
		}
		accepted = true
		for _, r := range answer.Results {
			switch r.Status {
			case http.StatusAccepted:
			case http.StatusServiceUnavailable:
				accepted = false
			default:
				return false, fmt.Errorf("message %s: %d %s: %s", r.ID, r.Status, r.Code, r.Detail)
			}
		}
		return accepted, nil
	})
}

// publishAMQP sends the messages from first up to, but not including, end: persistent, mandatory and with confirms.
// What the broker could not take for the moment is sent again under the same id.
func (s *subject) publishAMQP(ctx context.Context, publisher *rabbitmq.Publisher, first, end int) error {
	for ; first < end; first += amqpBatch {
		var pending []rabbitmq.Message
		for i := first; i < min(first+amqpBatch, end); i++ {
			pending = append(pending, rabbitmq.Message{
				Exchange: contract.MessagesExchange, Key: s.id.String(),
				Publishing: amqp.Publishing{
					MessageId: s.ids[i].String(), ContentType: "application/json", DeliveryMode: amqp.Persistent,
					Body: s.corpus.document(i),
				},
			})
		}
		for len(pending) > 0 {
			var again []rabbitmq.Message
			for i, err := range publisher.PublishBatch(ctx, pending) {
				switch {
				case err == nil:
					s.viaAMQP.Add(1)
				case errors.Is(err, rabbitmq.ErrUnavailable), errors.Is(err, rabbitmq.ErrBlocked), errors.Is(err, rabbitmq.ErrRejected):
					again = append(again, pending[i])
				default:
					return fmt.Errorf("publish for %s over AMQP: %w", s.name, err)
				}
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			pending = again
		}
	}
	return nil
}
