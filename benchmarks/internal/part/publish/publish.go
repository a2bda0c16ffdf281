// Package publish measures how many messages a second POST /messages and POST /messages/batch take in, beside a client that
// publishes the same messages to the same kind of queue with as many of them in flight: 64 clients with one message each,
// and one client with 1,000.
//
// The tenants are suspended, so that storing does not take part.
package publish

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/report"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

const (
	part    = "publish"
	size    = 1 << 10
	clients = 64
	lines   = 1000
)

// amounts are how many messages are published one by one, and how many batches.
func amounts(quick bool) (single, batches int) {
	if quick {
		return 4_000, 8
	}
	return 30_000, 50
}

// Run is the part.
func Run(ctx context.Context, r *rig.Rig, rec report.Recorder) error {
	single, batches := amounts(r.Quick)
	var singles, rawSingles, batched, rawBatched report.Series
	for round := range r.Rounds {
		raw, err := withTenant(ctx, r, func(tenant uuid.UUID) (float64, error) { return rawSingle(ctx, r, tenant, single) })
		if err != nil {
			return fmt.Errorf("raw, %d in flight: %w", clients, err)
		}
		ours, err := withTenant(ctx, r, func(tenant uuid.UUID) (float64, error) { return httpSingle(ctx, r, tenant, single) })
		if err != nil {
			return fmt.Errorf("POST /messages: %w", err)
		}
		singles.Add(ours, raw)
		rawSingles.Add(raw, 0)
		rec.Progress("publish, round %d of %d: %d clients, one message each: %.0f msg/s, raw %.0f", round+1, r.Rounds, clients, ours, raw)
		raw, err = withTenant(ctx, r, func(tenant uuid.UUID) (float64, error) { return rawBatch(ctx, r, tenant, batches) })
		if err != nil {
			return fmt.Errorf("raw, %d in flight: %w", lines, err)
		}
		ours, err = withTenant(ctx, r, func(tenant uuid.UUID) (float64, error) { return httpBatch(ctx, r, tenant, batches) })
		if err != nil {
			return fmt.Errorf("POST /messages/batch: %w", err)
		}
		batched.Add(ours, raw)
		rawBatched.Add(raw, 0)
		rec.Progress("publish, round %d of %d: batches of %d: %.0f msg/s, raw %.0f", round+1, r.Rounds, lines, ours, raw)
	}
	rec.Add(singles.Result(part, fmt.Sprintf("POST /messages, %d clients", clients), "msg/s", ">= 0.5"))
	rec.Add(limit(rawSingles.Result(part, fmt.Sprintf("raw confirmed publish, %d in flight", clients), "msg/s", "")))
	rec.Add(batched.Result(part, fmt.Sprintf("POST /messages/batch, NDJSON of %d", lines), "msg/s", ">= 0.8"))
	rec.Add(limit(rawBatched.Result(part, fmt.Sprintf("raw confirmed publish, %d in flight", lines), "msg/s", "")))
	return nil
}

func limit(r report.Result) report.Result {
	r.Note = "limit"
	return r
}

// withTenant gives do a suspended tenant.
func withTenant(ctx context.Context, r *rig.Rig, do func(tenant uuid.UUID) (float64, error)) (rate float64, err error) {
	tenant, err := r.Backlog(ctx, rig.Workers, 0, nil)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.Delete(ctx, tenant)) }()
	return do(tenant)
}

// eachClient lets all clients work until n messages are done, and returns their rate.
func eachClient(ctx context.Context, n int, do func(ctx context.Context) error) (rate float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, rig.WaitLimit)
	defer cancel()
	var begun atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	began := time.Now()
	for range clients {
		group.Go(func() error {
			for begun.Add(1) <= int64(n) {
				if err := do(ctx); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	return float64(n) / time.Since(began).Seconds(), nil
}

func httpSingle(ctx context.Context, r *rig.Rig, tenant uuid.UUID, n int) (rate float64, err error) {
	token, err := r.Stack.TenantToken(tenant)
	if err != nil {
		return 0, fmt.Errorf("make a token: %w", err)
	}
	payload := rig.Payload(size)
	return eachClient(ctx, n, func(ctx context.Context) error {
		return post(ctx, r, token, "/messages", "application/json", line(payload), nil)
	})
}

// line is a message as the API takes it, with an id of the producer's.
func line(payload []byte) []byte {
	return fmt.Appendf(nil, `{"id":"%s","payload":%s}`, uuid.New(), payload)
}

func httpBatch(ctx context.Context, r *rig.Rig, tenant uuid.UUID, batches int) (rate float64, err error) {
	token, err := r.Stack.TenantToken(tenant)
	if err != nil {
		return 0, fmt.Errorf("make a token: %w", err)
	}
	bodies := make([][]byte, batches) // made before: a producer has its messages
	payload := rig.Payload(size)
	for i := range bodies {
		all := make([][]byte, lines)
		for j := range all {
			all[j] = line(payload)
		}
		bodies[i] = append(bytes.Join(all, []byte("\n")), '\n')
	}
	began := time.Now()
	for _, body := range bodies {
		var answer struct {
			Accepted int `json:"accepted"`
		}
		if err := post(ctx, r, token, "/messages/batch", "application/x-ndjson", body, &answer); err != nil {
			return 0, err
		}
		if answer.Accepted != lines {
			return 0, fmt.Errorf("%d of %d messages were accepted", answer.Accepted, lines)
		}
	}
	return float64(batches*lines) / time.Since(began).Seconds(), nil
}

// post makes a request to ingest-service and reads the answer, which has to be 202, into answer unless that is nil.
func post(ctx context.Context, r *rig.Rig, token, path, contentType string, body []byte, answer any) error {
	err := r.Send(ctx, rig.Request{
		Method: http.MethodPost, URL: r.Stack.Ingest.URL + path, Token: token, ContentType: contentType, Body: body, Status: http.StatusAccepted,
	}, func(body []byte) error {
		if answer == nil {
			return nil
		}
		return json.Unmarshal(body, answer)
	})
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}

// raw is a channel with confirms on a connection of its own.
type raw struct {
	channel *amqp.Channel
	key     string
	payload []byte
}

// onChannel gives do such a channel. What is returned to it would have been lost, and is an error.
func onChannel(r *rig.Rig, tenant uuid.UUID, do func(raw) (float64, error)) (rate float64, err error) {
	connection, err := amqp.Dial(r.Backing.RabbitMQURL)
	if err != nil {
		return 0, fmt.Errorf("connect: %w", err)
	}
	defer func() { err = errors.Join(err, connection.Close()) }()
	channel, err := connection.Channel()
	if err != nil {
		return 0, fmt.Errorf("open a channel: %w", err)
	}
	if err := channel.Confirm(false); err != nil {
		return 0, fmt.Errorf("ask for confirms: %w", err)
	}
	// Returns come before their confirms; one is enough to know.
	returned := channel.NotifyReturn(make(chan amqp.Return, 1))
	rate, err = do(raw{channel: channel, key: tenant.String(), payload: rig.Payload(size)})
	select {
	case message := <-returned:
		return 0, errors.Join(err, fmt.Errorf("the broker returned a message: %s", message.ReplyText))
	default:
		return rate, err
	}
}

func (c raw) send(ctx context.Context) (*amqp.DeferredConfirmation, error) {
	confirmation, err := c.channel.PublishWithDeferredConfirmWithContext(ctx, contract.MessagesExchange, c.key, true, false, amqp.Publishing{
		MessageId: uuid.NewString(), DeliveryMode: amqp.Persistent, ContentType: "application/json", Body: c.payload,
	})
	if err != nil {
		return nil, fmt.Errorf("publish: %w", err)
	}
	return confirmation, nil
}

var errRefused = errors.New("the broker refused a message")

func confirmed(ctx context.Context, confirmation *amqp.DeferredConfirmation) error {
	acknowledged, err := confirmation.WaitContext(ctx)
	if err != nil {
		return fmt.Errorf("wait for the confirm: %w", err)
	}
	if !acknowledged {
		return errRefused
	}
	return nil
}

func rawSingle(ctx context.Context, r *rig.Rig, tenant uuid.UUID, n int) (float64, error) {
	return onChannel(r, tenant, func(c raw) (float64, error) {
		return eachClient(ctx, n, func(ctx context.Context) error {
			confirmation, err := c.send(ctx)
			if err != nil {
				return err
			}
			return confirmed(ctx, confirmation)
		})
	})
}

func rawBatch(ctx context.Context, r *rig.Rig, tenant uuid.UUID, batches int) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, rig.WaitLimit)
	defer cancel()
	return onChannel(r, tenant, func(c raw) (float64, error) {
		confirmations := make([]*amqp.DeferredConfirmation, lines)
		began := time.Now()
		for range batches {
			for i := range confirmations {
				var err error
				if confirmations[i], err = c.send(ctx); err != nil {
					return 0, err
				}
			}
			for _, confirmation := range confirmations {
				if err := confirmed(ctx, confirmation); err != nil {
					return 0, err
				}
			}
		}
		return float64(batches*lines) / time.Since(began).Seconds(), nil
	})
}
