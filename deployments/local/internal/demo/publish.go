package demo

import (
	"context"
	"errors"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

const (
	// batchLines is how many messages go into one HTTP request.
	batchLines = 100
	// amqpBatch is how many messages are published over AMQP before their confirms are waited for.
	amqpBatch = 200
)

// publishHTTP sends the messages from first up to, but not including, end. What the broker could not take for the moment is
// sent again by the client, under the same id.
func (s *subject) publishHTTP(ctx context.Context, first, end int) error {
	for ; first < end; first += batchLines {
		var batch []client.Publishing
		for i := first; i < min(first+batchLines, end); i++ {
			batch = append(batch, client.Publishing{ID: client.ID(s.ids[i]), Payload: s.corpus.document(i)})
		}
		if _, err := s.client.PublishBatch(ctx, batch); err != nil {
			return fmt.Errorf("publish for %s over HTTP: %w", s.name, err)
		}
		s.viaHTTP.Add(int64(len(batch)))
	}
	return nil
}

// publishAMQP sends the messages from first up to, but not including, end: persistent, mandatory and with confirms.
// What the broker could not take for the moment is sent again under the same id.
func (s *subject) publishAMQP(ctx context.Context, publisher *publish.Publisher, first, end int) error {
	for ; first < end; first += amqpBatch {
		var pending []publish.Message
		for i := first; i < min(first+amqpBatch, end); i++ {
			pending = append(pending, publish.Message{
				Exchange: contract.MessagesExchange, Key: s.id.String(),
				Publishing: amqp.Publishing{
					MessageId: s.ids[i].String(), ContentType: "application/json", DeliveryMode: amqp.Persistent,
					Body: s.corpus.document(i),
				},
			})
		}
		for len(pending) > 0 {
			var again []publish.Message
			for i, err := range publisher.PublishBatch(ctx, pending) {
				switch {
				case err == nil:
					s.viaAMQP.Add(1)
				case errors.Is(err, conn.ErrUnavailable), errors.Is(err, conn.ErrBlocked), errors.Is(err, publish.ErrRejected):
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
