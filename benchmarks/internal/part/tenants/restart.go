package tenants

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/report"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

const (
	// opening is how many consumers the limit starts at a time on each connection.
	opening = 16
	// prefetch is that of the platform.
	prefetch = 2000
	// sampled is how many queues are asked for consumers, again and again, until each has one. Asking all, or reading the
	// metrics of thousands of tenants all the time, would cost what is measured.
	sampled = 100
	// sampling is between two questions.
	sampling = 20 * time.Millisecond
)

// restart measures from the start of the process until it consumes all queues.
func (p plan) restart(ctx context.Context, w *world, rec report.Recorder) error {
	observer, err := amqp.Dial(w.amqpURL)
	if err != nil {
		return fmt.Errorf("connect to the broker: %w", err)
	}
	defer func() { _ = observer.Close() }() // there is nothing on its way
	var starting, stopping report.Series
	for round := range w.rig.Rounds {
		rec.Progress("%s: %s, round %d of %d", part, p.name("restart"), round+1, w.rig.Rounds)
		ended, started, alone, err := w.restartOnce(ctx, observer)
		if err != nil {
			return err
		}
		stopping.Add(ended.Seconds(), 0)
		starting.Add(started.Seconds(), alone.Seconds())
	}
	result := starting.Result(part, p.name("restart, from start to all consumed"), "s", "<= 1.5")
	result.Note = fmt.Sprintf("the ceiling is to open a channel and consume, %d connections each", w.connections)
	rec.Add(result)
	rec.Add(stopping.Result(part, p.name("restart, from SIGTERM to end"), "s", ""))
	m, err := w.memory(ctx)
	if err != nil {
		return err
	}
	var resident report.Series
	resident.Add(float64(m.resident)/(1<<20), 0)
	rec.Add(resident.Result(part, p.name("resident memory of ingest-service after a restart"), "MiB", ""))
	return nil
}

// restartOnce ends ingest-service, takes its place to see how long consuming alone takes, and starts it again.
func (w *world) restartOnce(ctx context.Context, observer *amqp.Connection) (ended, started, alone time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*rig.WaitLimit)
	defer cancel()
	began := time.Now()
	if _, err := w.stack.Ingest.Term(ctx); err != nil {
		return 0, 0, 0, fmt.Errorf("stop ingest-service: %w", err)
	}
	ended = time.Since(began)
	nobody := func(consumers int) bool { return consumers == 0 }
	if err := w.await(ctx, observer, nobody); err != nil {
		return 0, 0, 0, err
	}
	if alone, err = w.consumeAlone(ctx); err != nil {
		return 0, 0, 0, err
	}
	if err := w.await(ctx, observer, nobody); err != nil {
		return 0, 0, 0, err
	}
	began = time.Now()
	if err := w.stack.Ingest.Launch(); err != nil {
		return 0, 0, 0, fmt.Errorf("start ingest-service: %w", err)
	}
	if err := w.await(ctx, observer, func(consumers int) bool { return consumers > 0 }); err != nil {
		return 0, 0, 0, err
	}
	if err := w.awaitRunning(ctx); err != nil {
		return 0, 0, 0, err
	}
	return ended, time.Since(began), alone, nil
}

// consumeAlone consumes all queues over as many connections as ingest-service has, and does nothing else.
func (w *world) consumeAlone(ctx context.Context) (took time.Duration, err error) {
	var connections []*amqp.Connection
	defer func() {
		for _, connection := range connections {
			err = errors.Join(err, connection.Close())
		}
	}()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(w.connections * opening)
	began := time.Now()
	for range w.connections {
		connection, err := amqp.Dial(w.amqpURL)
		if err != nil {
			return 0, errors.Join(fmt.Errorf("connect to the broker: %w", err), group.Wait())
		}
		connections = append(connections, connection)
	}
	for i, tenant := range w.tenants {
		group.Go(func() error { return consume(ctx, connections[i%len(connections)], tenant) })
	}
	err = group.Wait()
	return time.Since(began), err
}

func consume(ctx context.Context, connection *amqp.Connection, tenant uuid.UUID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	channel, err := connection.Channel()
	if err == nil {
		err = channel.Qos(prefetch, 0, false)
	}
	if err == nil {
		// Nothing is delivered: the queues are empty.
		_, err = channel.ConsumeWithContext(context.WithoutCancel(ctx), contract.QueueName(tenant.String()), "", false, false, false, false, nil)
	}
	if err != nil {
		return fmt.Errorf("consume: %w", err)
	}
	return nil
}

// await returns when a sample of the queues has consumers as asked for.
func (w *world) await(ctx context.Context, observer *amqp.Connection, good func(consumers int) bool) error {
	channel, err := observer.Channel()
	if err != nil {
		return fmt.Errorf("open a channel: %w", err)
	}
	defer func() { _ = channel.Close() }() // there is nothing on its way
	n := min(sampled, len(w.tenants))
	for i := range n {
		queue := contract.QueueName(w.tenants[i*len(w.tenants)/n].String())
		for {
			found, err := channel.QueueDeclarePassive(queue, true, false, false, false, nil)
			if err != nil {
				return fmt.Errorf("ask for the consumers of a queue: %w", err)
			}
			if good(found.Consumers) {
				break
			}
			if err := retry.Sleep(ctx, sampling); err != nil {
				return fmt.Errorf("queue %s has %d consumers: %w", queue, found.Consumers, err)
			}
		}
	}
	return nil
}

// awaitRunning returns when ingest-service says that it consumes all tenants.
func (w *world) awaitRunning(ctx context.Context) error {
	want := fmt.Appendf(nil, "mtm_consumers{state=\"running\"} %d", len(w.tenants))
	if len(w.tenants) >= 1_000_000 {
		return errors.New("so many are not written as a plain number")
	}
	for {
		body, err := w.ops(ctx, "/metrics?name[]=mtm_consumers")
		if err != nil {
			return err
		}
		for line := range bytes.Lines(body) {
			if bytes.Equal(bytes.TrimSpace(line), want) {
				return nil
			}
		}
		if err := retry.Sleep(ctx, sampling); err != nil {
			return fmt.Errorf("not all tenants are consumed again: %s: %w", body, err)
		}
	}
}
