package publish_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// BenchmarkPublish compares the publisher with the plain library: one channel, confirms, 1,000 messages in flight.
// Run with -benchtime=20000x.
func BenchmarkPublish(b *testing.B) {
	for _, queueType := range []string{amqp.QueueTypeQuorum, amqp.QueueTypeClassic} {
		b.Run(queueType+"/raw", func(b *testing.B) { benchmarkRaw(b, queueType) })
		for _, channels := range []int{1, 4} {
			name := queueType + "/channels=" + strconv.Itoa(channels)
			b.Run(name+"/single=64", func(b *testing.B) { benchmarkSingle(b, queueType, channels, 64) })
			b.Run(name+"/batch=1000", func(b *testing.B) { benchmarkBatch(b, queueType, channels, 1) })
			b.Run(name+"/batch=1000x2", func(b *testing.B) { benchmarkBatch(b, queueType, channels, 2) })
		}
	}
}

// bench starts a link and declares a tenant's queue.
func bench(b *testing.B, queueType string) (string, *conn.Link) {
	b.Helper()
	broker := backing.RabbitMQ(b)
	link := conn.NewLink(conn.Config{URL: broker.URL}, b.Name(), zap.NewNop(), nil)
	background(b, link.Run)
	s, err := link.Session(b.Context())
	require.NoError(b, err)
	require.NoError(b, s.Do(b.Context(), func(ch *amqp.Channel) error {
		return amqptest.DeclareOn(ch, amqp.Table{amqp.QueueTypeArg: queueType}, tenantA)
	}))
	return broker.URL, link
}

func background(b *testing.B, component func(context.Context) error) {
	b.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
	done := make(chan error, 1)
	go func() { done <- component(ctx) }()
	b.Cleanup(func() {
		cancel()
		require.NoError(b, <-done)
	})
}

func sample(i int) publish.Message {
	m := amqptest.NewMessage(tenantA, "0190f6b1-2c3d-7000-8000-"+strconv.Itoa(100_000_000_000+i))
	m.Publishing.Body = make([]byte, 256)
	m.Publishing.Timestamp = time.Now()
	return m
}

func benchmarkRaw(b *testing.B, queueType string) {
	b.Helper()
	address, _ := bench(b, queueType)
	conn, err := amqp.Dial(address)
	require.NoError(b, err)
	defer func() { require.NoError(b, conn.Close()) }()
	ch, err := conn.Channel()
	require.NoError(b, err)
	require.NoError(b, ch.Confirm(false))
	flights := make([]*amqp.DeferredConfirmation, 0, 1000)
	i := 0
	for b.Loop() {
		if len(flights) == 1000 {
			require.True(b, flights[0].Wait())
			flights = append(flights[:0], flights[1:]...)
		}
		m := sample(i)
		i++
		c, err := ch.PublishWithDeferredConfirm(amqptest.Exchange, tenantA, true, false, m.Publishing)
		require.NoError(b, err)
		flights = append(flights, c)
	}
	b.StartTimer() // what is still under way counts, too
	for _, c := range flights {
		require.True(b, c.Wait())
	}
	report(b, i)
}

func benchmarkSingle(b *testing.B, queueType string, channels, publishers int) {
	b.Helper()
	_, link := bench(b, queueType)
	p := publish.New(link, channels, zap.NewNop())
	background(b, p.Run)
	require.NoError(b, p.Publish(b.Context(), sample(0)))
	work := make(chan publish.Message, publishers)
	var group sync.WaitGroup
	for range publishers {
		group.Go(func() {
			for m := range work {
				if err := p.Publish(b.Context(), m); err != nil {
					b.Error(err)
				}
			}
		})
	}
	i := 0
	for b.Loop() {
		work <- sample(i)
		i++
	}
	b.StartTimer() // what is still under way counts, too
	close(work)
	group.Wait()
	report(b, i)
}

func benchmarkBatch(b *testing.B, queueType string, channels, publishers int) {
	b.Helper()
	_, link := bench(b, queueType)
	p := publish.New(link, channels, zap.NewNop())
	background(b, p.Run)
	require.NoError(b, p.Publish(b.Context(), sample(0)))
	work := make(chan []publish.Message)
	var group sync.WaitGroup
	for range publishers {
		group.Go(func() {
			for ms := range work {
				for _, err := range p.PublishBatch(b.Context(), ms) {
					if err != nil {
						b.Error(err)
					}
				}
			}
		})
	}
	i := 0
	var batch []publish.Message
	for b.Loop() {
		batch = append(batch, sample(i))
		i++
		if len(batch) == 1000 {
			work <- batch
			batch = nil
		}
	}
	b.StartTimer() // what is still under way counts, too
	close(work)
	group.Wait()
	report(b, i)
}

func report(b *testing.B, messages int) {
	b.Helper()
	b.ReportMetric(float64(messages)/b.Elapsed().Seconds(), "msg/s")
}
