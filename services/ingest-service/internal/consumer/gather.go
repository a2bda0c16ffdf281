package consumer

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/batch"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/envelope"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/republish"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

var errForeignKey = errors.New("the routing key is not the tenant of the queue")

// carefulFor is how many deliveries are expected to be stored already after one that was: a producer that repeats
// itself does so for more than one message. To expect it wrongly costs half of the speed.
const carefulFor = 10_000

// gatherer makes batches of deliveries: every delivery is in one batch, in the order of the tags and without gaps.
type gatherer struct {
	cfg    Config
	tenant uuid.UUID
	key    string // the routing key of the tenant
	// maxPayload is the tenant's own limit, 0 for none.
	maxPayload int64

	current *batch.Batch // nil while there is none
	began   time.Time    // when current was begun
	first   uint64       // tag of current
	last    uint64       // tag added last

	spare     []*batch.Batch // emptied, for the next ones
	careful   int            // how many of the next deliveries to treat as possibly stored, because an earlier one was
	meanBytes int64          // moving average of the size of a message
}

// add takes a delivery into the batch that is being gathered. It reports whether its AMQP property type is not one, and left out.
func (g *gatherer) add(d *consume.Delivery, now func() time.Time) (typeIgnored bool) {
	if g.current == nil {
		g.current, g.began, g.first = g.blank(), now(), d.DeliveryTag
	}
	g.last = d.DeliveryTag
	b, size := g.current, int64(len(d.Body)+len(d.Properties))
	if d.Exchange == contract.RetryReturnExchange {
		republish.Unwrap(d)
	}
	g.meanBytes += (size - g.meanBytes) / 16
	b.Bytes += size

	id := g.messageID(d)
	index := len(b.Deliveries)
	reason, err := g.check(d)
	var carried *contract.Envelope
	if err == nil {
		if carried, typeIgnored, err = envelope.Of(d.Type, republish.Original(d).Headers()); err != nil {
			reason = contract.ReasonBadEnvelope
		}
	}
	if err != nil {
		b.Rejected = append(b.Rejected, batch.Rejection{Delivery: index, ID: id, Reason: reason, Err: err})
	} else {
		b.Messages = append(b.Messages, store.Row{ID: id, Payload: d.Body, Envelope: carried, Again: d.Redelivered || g.careful > 0})
		b.Index = append(b.Index, index)
	}
	b.Deliveries = append(b.Deliveries, *d)
	g.careful = max(g.careful-1, 0)
	return typeIgnored
}

// full reports that the batch is to be handed over, whatever else.
func (g *gatherer) full() bool {
	return g.current != nil &&
		(len(g.current.Deliveries) >= g.cfg.BatchMessages || g.current.Bytes >= g.cfg.BatchBytes)
}

// flush hands the batch over, with the tags that it spans.
func (g *gatherer) flush(maxAttempts int) (b *batch.Batch, first, last uint64) {
	b, g.current = g.current, nil
	b.MaxAttempts = maxAttempts
	return b, g.first, g.last
}

// giveBack returns a batch that is done with, so that its memory serves the next one. A tenant at rest keeps none.
func (g *gatherer) giveBack(b *batch.Batch, rest bool) {
	if rest {
		g.spare = nil
		return
	}
	b.Reset()
	g.spare = append(g.spare, b)
}

func (g *gatherer) blank() *batch.Batch {
	if last := len(g.spare) - 1; last >= 0 {
		b := g.spare[last]
		g.spare = g.spare[:last]
		return b
	}
	return &batch.Batch{Tenant: g.tenant}
}

// check tells why a delivery cannot be stored.
func (g *gatherer) check(d *consume.Delivery) (contract.Reason, error) {
	if d.RoutingKey != g.key {
		return contract.ReasonForeignKey, errForeignKey
	}
	if g.maxPayload > 0 && int64(len(d.Body)) > g.maxPayload {
		return contract.ReasonTooLarge, fmt.Errorf("the payload has %d bytes, the limit of the tenant is %d", len(d.Body), g.maxPayload)
	}
	err := contract.CheckPayload(d.Body, g.cfg.MaxPayload)
	if bad, ok := errors.AsType[*contract.PayloadError](err); ok {
		return bad.Reason, err
	}
	return "", err
}

// messageID is the id under which a delivery is stored: its message id if that is a UUID, else one that follows from it
// and the tenant, else a random one.
func (g *gatherer) messageID(d *consume.Delivery) uuid.UUID {
	if d.MessageId == "" {
		return uuid.New()
	}
	return contract.MessageID(g.tenant, d.MessageId)
}
