// Package benchmarks measures the platform on real servers with fsync on, beside the limits of the machine and the obvious
// alternative, in the same run: absolute figures belong to a machine, ratios travel.
//
//	make bench
package benchmarks_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/backing"
	"github.com/srireskianita/multi-tenant-messaging/libs/backing/stack"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/rabbitmq"
)

const (
	backlog  = 20_000 // messages of one drain: seconds of work, far beyond any warm-up
	workers  = 3
	prefetch = 2000
	patience = 5 * time.Minute
)

// rig is the platform and the connections to the servers below it.
type rig struct {
	stack     *stack.Stack
	database  *pgxpool.Pool
	link      *rabbitmq.Link
	publisher *rabbitmq.Publisher
	payload   []byte
}

func newRig(b *testing.B) *rig {
	b.Helper()
	services := backing.Dedicated(b) // fsync on, as shipped
	r := &rig{stack: stack.Start(b, stack.On(services))}
	var err error
	r.database, err = pgxpool.New(b.Context(), services.DatabaseURL)
	check(b, err)
	b.Cleanup(r.database.Close)
	r.link = rabbitmq.NewLink(rabbitmq.Config{URL: services.RabbitMQURL}, "benchmark", zap.NewNop(), nil)
	r.publisher = rabbitmq.NewPublisher(r.link, 2, zap.NewNop())
	for _, run := range []func(context.Context) error{r.link.Run, r.publisher.Run} {
		ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
		done := make(chan error, 1)
		go func() { done <- run(ctx) }()
		b.Cleanup(func() {
			cancel()
			check(b, <-done)
		})
	}
	r.payload = fmt.Appendf(nil, `{"type":"order.created","text":%q}`, strings.Repeat("x", 1<<10))
	return r
}

func check(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// admin makes a request to tenant-service.
func (r *rig) admin(b *testing.B, method, path, body string) {
	b.Helper()
	token, err := r.stack.AdminToken()
	check(b, err)
	request, err := http.NewRequestWithContext(b.Context(), method, r.stack.Tenant.URL+path, strings.NewReader(body))
	check(b, err)
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Prefer", "wait=30")
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := http.DefaultClient.Do(request)
	check(b, err)
	check(b, response.Body.Close())
	if response.StatusCode >= http.StatusMultipleChoices {
		b.Fatalf("%s %s: %s", method, path, response.Status)
	}
}

// suspended is a new tenant with a backlog that nobody consumes yet.
func (r *rig) suspended(b *testing.B) uuid.UUID {
	b.Helper()
	tenant := uuid.New()
	r.admin(b, http.MethodPost, "/tenants", fmt.Sprintf(`{"id":%q,"name":"benchmark","workers":%d}`, tenant, workers))
	r.admin(b, http.MethodPost, "/tenants/"+tenant.String()+"/suspend", "")
	r.fill(b, tenant)
	return tenant
}

func (r *rig) fill(b *testing.B, tenant uuid.UUID) {
	b.Helper()
	messages := make([]rabbitmq.Message, backlog)
	for i := range messages {
		messages[i] = rabbitmq.Message{Exchange: contract.MessagesExchange, Key: tenant.String(), Publishing: amqp.Publishing{
			MessageId: uuid.NewString(), DeliveryMode: amqp.Persistent, ContentType: "application/json", Body: r.payload,
		}}
	}
	ctx, cancel := context.WithTimeout(b.Context(), patience)
	defer cancel()
	check(b, errors.Join(r.publisher.PublishBatch(ctx, messages)...))
}

func (r *rig) await(b *testing.B, tenant uuid.UUID) {
	b.Helper()
	// A count is exact, and rare enough not to cost the platform much.
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		var n int
		check(b, r.database.QueryRow(b.Context(), `SELECT count(*) FROM messages WHERE tenant_id = $1`, tenant).Scan(&n))
		if n >= backlog {
			return
		}
		timer := time.NewTimer(100 * time.Millisecond)
		<-timer.C
	}
	b.Fatal("the backlog was not drained")
}

// consume takes the backlog of a tenant and calls each for every delivery. end is to be called when all are acknowledged.
func (r *rig) consume(b *testing.B, tenant uuid.UUID, each func(c *rabbitmq.Consumption, d amqp.Delivery) error) (end func()) {
	b.Helper()
	session, err := r.link.Session(b.Context())
	check(b, err)
	c, err := session.Consume(b.Context(), contract.QueueName(tenant.String()), "benchmark", prefetch)
	check(b, err)
	for range backlog {
		check(b, each(c, <-c.Deliveries))
	}
	return func() {
		check(b, c.Stop())
		c.Release()
	}
}

// BenchmarkDrain is how fast the backlog of one tenant, messages of 1 KB, goes from the queue into the table.
func BenchmarkDrain(b *testing.B) {
	r := newRig(b)
	rate := func(b *testing.B, drain func(b *testing.B, tenant uuid.UUID)) {
		b.Helper()
		for b.Loop() {
			b.StopTimer()
			tenant := r.suspended(b)
			b.StartTimer()
			drain(b, tenant)
			b.StopTimer()
			r.admin(b, http.MethodDelete, "/tenants/"+tenant.String(), "")
			b.StartTimer()
		}
		b.ReportMetric(float64(backlog)*float64(b.N)/b.Elapsed().Seconds(), "msg/s")
	}
	// The machine's limits: take and throw away, and COPY into the same kind of partition.
	b.Run("limit/discard", func(b *testing.B) {
		rate(b, func(b *testing.B, tenant uuid.UUID) {
			b.Helper()
			r.consume(b, tenant, func(c *rabbitmq.Consumption, d amqp.Delivery) error {
				if d.DeliveryTag%500 != 0 {
					return nil
				}
				return c.Ack(d.DeliveryTag, true)
			})()
		})
	})
	b.Run("limit/copy", func(b *testing.B) { rate(b, r.copy) })
	b.Run("platform", func(b *testing.B) {
		rate(b, func(b *testing.B, tenant uuid.UUID) {
			b.Helper()
			r.admin(b, http.MethodPost, "/tenants/"+tenant.String()+"/resume", "")
			r.await(b, tenant)
		})
	})
	// What one would write first: an INSERT and an ack for each message, with as many workers.
	b.Run("one insert a message", func(b *testing.B) { rate(b, r.oneByOne) })
}

// copy loads the backlog in batches of 500.
func (r *rig) copy(b *testing.B, tenant uuid.UUID) {
	b.Helper()
	partition := pgx.Identifier{"messages_" + strings.ReplaceAll(tenant.String(), "-", "")}
	connection, err := r.database.Acquire(b.Context())
	check(b, err)
	defer connection.Release()
	const batch = 500
	for range backlog / batch {
		rows := make([][]any, batch)
		for i := range rows {
			rows[i] = []any{tenant, uuid.New(), r.payload, i}
		}
		_, err := connection.CopyFrom(b.Context(), partition, []string{"tenant_id", "id", "payload", "ord"}, pgx.CopyFromRows(rows))
		check(b, err)
	}
}

func (r *rig) oneByOne(b *testing.B, tenant uuid.UUID) {
	b.Helper()
	deliveries := make(chan amqp.Delivery)
	var inserting sync.WaitGroup
	for range workers {
		inserting.Go(func() {
			for d := range deliveries {
				_, err := r.database.Exec(b.Context(), `
					INSERT INTO messages (tenant_id, id, payload) VALUES ($1, $2, $3) ON CONFLICT (tenant_id, id) DO NOTHING`,
					tenant, d.MessageId, d.Body)
				if err == nil {
					err = d.Ack(false)
				}
				if err != nil {
					b.Error(err)
				}
			}
		})
	}
	end := r.consume(b, tenant, func(_ *rabbitmq.Consumption, d amqp.Delivery) error {
		deliveries <- d
		return nil
	})
	close(deliveries)
	inserting.Wait()
	end()
}
