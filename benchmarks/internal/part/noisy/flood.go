package noisy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
)

const (
	small, large = 1 << 10, 256 << 10
	// producers are the connections of a flood over AMQP, each with a channel that has so many messages unconfirmed: two megabytes of small
	// ones, and what two hundred large ones are, a usual setting of client libraries whatever the size.
	producers                = 3
	smallWindow, largeWindow = 2000, 200
	// crowd is how many clients publish over HTTP, each as soon as it has its answer, and storming how many open and close connections.
	crowd, storming = 64, 16
	// lowRate is a publish_rate that a crowd is far above: nearly all of its requests are refused.
	lowRate = 100
	// readers page through everything, in pages of the largest size.
	readers, pageSize = 8, 1000
	dialTimeout       = 30 * time.Second
)

// flood is what the flooder does.
type flood struct {
	name string
	// size of what is published, 0 if nothing is.
	size int
	// atLimit: it is a flood of publishers that are at their limit, so there is none without one.
	atLimit bool
	// prepare does what has to be there before; nil for nothing.
	prepare func(ctx context.Context, r *rig.Rig, flooder uuid.UUID, a amounts) error
	// run is one of clients. It returns when ctx ends, or the flood cannot go on.
	clients int
	run     func(ctx context.Context, r *rig.Rig, flooder uuid.UUID) error
}

func floods() []flood {
	poison := rig.Payload(small)[:small-1] // without its end it is no JSON
	return []flood{
		{name: "1 KB messages", size: small, clients: producers, run: publishing(rig.Payload(small), smallWindow)},
		{name: "256 KB messages over three connections", size: large, clients: producers, run: publishing(rig.Payload(large), largeWindow)},
		{name: "poison", size: small, clients: producers, run: publishing(poison, smallWindow)},
		{name: "a storm of connections", clients: storming, run: reconnect},
		{name: "deep paging", prepare: fill, clients: readers, run: read},
		{name: "a crowd at its limit", size: small, atLimit: true, clients: crowd, run: post},
	}
}

// ended is err, unless a flood was stopped: what is cut then fails.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // its end is the reason
	}
	return err
}

// dial opens a connection with a channel. When ctx ends the socket is closed, whatever waits for it.
func dial(ctx context.Context, r *rig.Rig) (connection *amqp.Connection, channel *amqp.Channel, err error) {
	connection, err = amqp.DialConfig(r.Backing.RabbitMQURL, amqp.Config{Dial: func(network, address string) (net.Conn, error) {
		socket, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		context.AfterFunc(ctx, func() { _ = socket.Close() })
		return socket, socket.SetDeadline(time.Now().Add(dialTimeout)) // the client takes it away after the handshake
	}})
	if err != nil {
		return nil, nil, fmt.Errorf("connect: %w", err)
	}
	if channel, err = connection.Channel(); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open a channel: %w", err), connection.Close())
	}
	return connection, channel, nil
}

// publishing publishes body as fast as it is confirmed, or refused by a queue that is full.
func publishing(body []byte, window int) func(context.Context, *rig.Rig, uuid.UUID) error {
	return func(ctx context.Context, r *rig.Rig, flooder uuid.UUID) error {
		connection, channel, err := dial(ctx, r)
		if err != nil {
			return ended(ctx, err)
		}
		defer func() { _ = connection.Close() }() // its socket is closed as a rule
		if err := channel.Confirm(false); err != nil {
			return ended(ctx, fmt.Errorf("ask for confirms: %w", err))
		}
		unconfirmed := make([]*amqp.DeferredConfirmation, window)
		for i := 0; ctx.Err() == nil; i = (i + 1) % window {
			if unconfirmed[i] != nil {
				if _, err := unconfirmed[i].WaitContext(ctx); err != nil {
					return ended(ctx, fmt.Errorf("wait for a confirm: %w", err))
				}
			}
			message := rig.Message(flooder.String(), body)
			unconfirmed[i], err = channel.PublishWithDeferredConfirmWithContext(ctx, message.Exchange, message.Key, false, false, message.Publishing)
			if err != nil {
				return ended(ctx, fmt.Errorf("publish: %w", err))
			}
		}
		return nil
	}
}

// reconnect opens a connection and a channel, and closes them, again and again.
func reconnect(ctx context.Context, r *rig.Rig, _ uuid.UUID) error {
	for ctx.Err() == nil {
		connection, _, err := dial(ctx, r)
		if err != nil {
			return ended(ctx, err)
		}
		if err := connection.Close(); err != nil {
			return ended(ctx, fmt.Errorf("close a connection: %w", err))
		}
	}
	return nil
}

// post publishes over HTTP, whatever the answer.
func post(ctx context.Context, r *rig.Rig, flooder uuid.UUID) error {
	token, err := r.Stack.TenantToken(flooder)
	if err != nil {
		return fmt.Errorf("make a token: %w", err)
	}
	payload := rig.Payload(small)
	for ctx.Err() == nil {
		body := fmt.Appendf(nil, `{"id":"%s","payload":%s}`, uuid.New(), payload)
		err := r.Send(ctx, rig.Request{
			Method: http.MethodPost, URL: r.Stack.Ingest.URL + "/messages", Token: token, ContentType: "application/json", Body: body, Status: rig.AnyStatus,
		}, func([]byte) error { return nil })
		if err != nil {
			return ended(ctx, err)
		}
	}
	return nil
}

// fill gives the flooder messages to page through.
func fill(ctx context.Context, r *rig.Rig, flooder uuid.UUID, a amounts) error {
	return r.Load(ctx, flooder, a.pages, rig.Payload(small))
}

// read pages through all messages, from the beginning to the end and again.
func read(ctx context.Context, r *rig.Rig, flooder uuid.UUID) error {
	token, err := r.Stack.TenantToken(flooder)
	if err != nil {
		return fmt.Errorf("make a token: %w", err)
	}
	var page struct {
		NextCursor string `json:"next_cursor"`
		HasMore    bool   `json:"has_more"`
	}
	for ctx.Err() == nil {
		url := fmt.Sprintf("%s/messages?limit=%d", r.Stack.Query.URL, pageSize)
		if page.HasMore {
			url += "&cursor=" + page.NextCursor
		}
		err := r.Send(ctx, rig.Request{URL: url, Token: token}, func(body []byte) error { return json.Unmarshal(body, &page) })
		if err != nil {
			return ended(ctx, err)
		}
	}
	return nil
}
