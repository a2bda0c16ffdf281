package rig

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// atOnce is how many tenants are made or deleted at a time.
const atOnce = 16

// Neighbours returns n tenants that run, with the default number of workers. They stay for the whole run and are shared by
// the parts, which leave them as they are: running, with nothing in their queues.
func (r *Rig) Neighbours(ctx context.Context, n int) ([]uuid.UUID, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	made, err := several(ctx, n-len(r.neighbours), func(ctx context.Context) (uuid.UUID, error) { return r.Create(ctx, Workers) })
	if err != nil {
		return nil, err
	}
	r.neighbours = append(r.neighbours, made...)
	return slices.Clone(r.neighbours[:n]), nil
}

// several makes n tenants.
func several(ctx context.Context, n int, one func(context.Context) (uuid.UUID, error)) ([]uuid.UUID, error) {
	made := make([]uuid.UUID, max(n, 0))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i := range made {
		group.Go(func() (err error) {
			made[i], err = one(ctx)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("make %d tenants: %w", n, err)
	}
	return made, nil
}

// Suspended makes n tenants that nobody consumes.
func (r *Rig) Suspended(ctx context.Context, n int) ([]uuid.UUID, error) {
	return several(ctx, n, func(ctx context.Context) (uuid.UUID, error) { return r.Backlog(ctx, Workers, 0, nil) })
}

// DeleteAll removes tenants, as many of them as possible.
func (r *Rig) DeleteAll(ctx context.Context, tenants []uuid.UUID) error {
	var group errgroup.Group
	group.SetLimit(atOnce)
	for _, tenant := range tenants {
		group.Go(func() error { return r.Delete(ctx, tenant) })
	}
	return group.Wait()
}

// Workers is the number of workers of a tenant where nothing else is said.
const Workers = 3

// Backlog makes a suspended tenant with n messages of that payload in its queue.
func (r *Rig) Backlog(ctx context.Context, workers, n int, payload []byte) (uuid.UUID, error) {
	tenant, err := r.Create(ctx, workers)
	if err != nil {
		return tenant, err
	}
	if err := r.Suspend(ctx, tenant); err != nil {
		return tenant, err
	}
	return tenant, r.Fill(ctx, n, payload, tenant)
}

// fillBatch is how many messages are on their way to the broker at a time: enough to keep it busy, little memory.
const fillBatch = 2000

// Fill publishes n messages, the tenants taking turns, and returns when the broker has confirmed all of them.
func (r *Rig) Fill(ctx context.Context, n int, payload []byte, tenants ...uuid.UUID) error {
	ctx, cancel := context.WithTimeout(ctx, WaitLimit)
	defer cancel()
	keys := make([]string, len(tenants))
	for i, tenant := range tenants {
		keys[i] = tenant.String()
	}
	for done := 0; done < n; {
		messages := make([]publish.Message, min(fillBatch, n-done))
		for i := range messages {
			messages[i] = Message(keys[(done+i)%len(keys)], payload)
		}
		if err := errors.Join(r.Publisher.PublishBatch(ctx, messages)...); err != nil {
			return fmt.Errorf("fill: %w", err)
		}
		done += len(messages)
	}
	return nil
}

// loadChunk is how many messages one transaction of Load writes, so that none keeps readers waiting.
const loadChunk = 1000

// Load writes n messages of that payload straight into the table.
func (r *Rig) Load(ctx context.Context, tenant uuid.UUID, n int, payload []byte) error {
	for done := 0; done < n; done += loadChunk {
		_, err := r.Database.Exec(ctx, `
			INSERT INTO messages (tenant_id, id, payload, bytes, epoch, ord)
			SELECT $1, gen_random_uuid(), $2, $3, (SELECT reading_epoch()), n FROM generate_series(1, $4::integer) AS n`,
			tenant, payload, len(payload), min(loadChunk, n-done))
		if err != nil {
			return fmt.Errorf("load messages: %w", err)
		}
	}
	return nil
}

// DeadLetters is how many dead letters wait to be recorded.
func (r *Rig) DeadLetters(ctx context.Context) (waiting int, err error) {
	session, err := r.Link.Session(ctx)
	if err != nil {
		return 0, err
	}
	err = session.Do(ctx, func(channel *amqp.Channel) error {
		queue, err := channel.QueueDeclarePassive(contract.DeadLettersQueue, true, false, false, false, nil)
		waiting = queue.Messages
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("look at the dead letters: %w", err)
	}
	return waiting, nil
}

// Message is a publishing as a producer makes it, with a new id.
func Message(tenant string, payload []byte) publish.Message {
	return publish.Message{Exchange: contract.MessagesExchange, Key: tenant, Publishing: amqp.Publishing{
		MessageId: uuid.NewString(), DeliveryMode: amqp.Persistent, ContentType: "application/json", Body: payload,
	}}
}

// Partition is the table of a tenant's messages.
func Partition(tenant uuid.UUID) pgx.Identifier {
	return pgx.Identifier{"messages_" + strings.ReplaceAll(tenant.String(), "-", "")}
}
