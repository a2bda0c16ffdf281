package tenants

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/report"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
	"github.com/srireskianita/multi-tenant-messaging/client"
)

const (
	// requests is how many tenants the platform is asked for at a time. A quorum queue is trusted a second after it was made:
	// with fewer of them than the broker declares in a second, the platform would wait for that most of the time.
	requests = 256
	// inFlight is the same of the limit, which waits for the servers alone; more make it no faster.
	inFlight = 32
	// limitChannels is how many channels of the limit share a connection. One connection for all would be the bottleneck.
	limitChannels = 8
)

// create makes all tenants. The first and the last ones are made in rounds, in which platform and limit take turns; the
// queues and partitions of the limit stay as well, so that both have the same servers.
func (p plan) create(ctx context.Context, w *world, rec report.Recorder) error {
	limit, err := newLimit(w)
	if err != nil {
		return err
	}
	defer limit.close()
	rec.Progress("%s: %s", part, p.name("the first are created"))
	first, err := p.edgeRounds(ctx, w, limit)
	if err != nil {
		return err
	}
	rec.Progress("%s: %s", part, p.name("more are created"))
	for left := p.tenants - 2*p.edge; left > 0; left -= p.edge {
		if _, err := w.create(ctx, min(left, p.edge)); err != nil {
			return err
		}
	}
	rec.Progress("%s: %s", part, p.name("the last are created"))
	last, err := p.edgeRounds(ctx, w, limit)
	if err != nil {
		return err
	}

	var atFirst, atLast, slowing report.Series
	for i := range first {
		atFirst.Add(first[i].platform, first[i].limit)
		atLast.Add(last[i].platform, last[i].limit)
		slowing.Add(last[i].platform, first[i].platform)
	}
	note := fmt.Sprintf("between the first and the last to be consumed, %d requests in flight; the ceiling is to declare a queue and attach a partition, %d in flight",
		requests, inFlight)
	result := atFirst.Result(part, p.name(fmt.Sprintf("the first %d created", p.edge)), "tenants/s", "")
	result.Note = note
	rec.Add(result)
	result = atLast.Result(part, p.name(fmt.Sprintf("the last %d created", p.edge)), "tenants/s", ">= 0.6")
	result.Note = note
	rec.Add(result)
	result = slowing.Result(part, p.name("the last against the first created"), "tenants/s", ">= 0.7")
	result.Note = fmt.Sprintf("the ceiling is the platform at the first %d", p.edge)
	rec.Add(result)
	return p.oneByOne(ctx, w, rec)
}

// oneByOne measures how long a single tenant takes, one after the other.
func (p plan) oneByOne(ctx context.Context, w *world, rec report.Recorder) error {
	var took report.Series
	for range w.rig.Rounds {
		began := time.Now()
		if _, err := w.create(ctx, 1); err != nil {
			return err
		}
		took.Add(float64(time.Since(began))/float64(time.Millisecond), 0)
	}
	result := took.Result(part, p.name("one created, from the request until it is consumed"), "ms", "")
	if p.queueType == amqp.QueueTypeQuorum {
		result.Note = "1 s of it until a new quorum queue is trusted"
	}
	rec.Add(result)
	return nil
}

// rates are tenants a second in one round.
type rates struct{ platform, limit float64 }

// edgeRounds creates edge tenants in rounds.
func (p plan) edgeRounds(ctx context.Context, w *world, limit *limit) ([]rates, error) {
	rounds := make([]rates, w.rig.Rounds)
	made := 0
	for i := range rounds {
		n := p.edge*(i+1)/len(rounds) - made
		made += n
		turns := []func() error{
			func() (err error) {
				rounds[i].platform, err = w.create(ctx, n)
				return err
			},
			func() (err error) {
				rounds[i].limit, err = limit.create(ctx, n)
				return err
			},
		}
		for turn := range turns {
			if err := turns[(i+turn)%len(turns)](); err != nil {
				return nil, err
			}
		}
	}
	return rounds, nil
}

// create makes n tenants over the API and returns how many a second came to be consumed.
func (w *world) create(ctx context.Context, n int) (rate float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, rig.WaitLimit)
	defer cancel()
	made := make([]uuid.UUID, n)
	rate, err = throughput(ctx, n, requests, func(ctx context.Context, i int) error {
		tenant, err := w.operator.CreateTenant(ctx, client.NewTenant{Name: "benchmark"}, client.Wait())
		made[i] = uuid.UUID(tenant.ID)
		return err
	})
	if err == nil {
		w.tenants = append(w.tenants, made...)
	}
	return rate, err
}

// throughput does n things, at most so many at a time, and returns how many a second were done between the end of the first
// and that of the last: how long a single one takes does not count.
func throughput(ctx context.Context, n, atATime int, do func(ctx context.Context, i int) error) (rate float64, err error) {
	done := make([]time.Time, n)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atATime)
	for i := range n {
		group.Go(func() error {
			err := do(ctx, i)
			done[i] = time.Now()
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	slices.SortFunc(done, time.Time.Compare)
	return float64(n-1) / done[n-1].Sub(done[0]).Seconds(), nil
}

// limit declares queues and attaches partitions, and does nothing else.
type limit struct {
	world       *world
	connections []*amqp.Connection
	channels    chan *amqp.Channel // inFlight of them
}

func newLimit(w *world) (*limit, error) {
	l := &limit{world: w, channels: make(chan *amqp.Channel, inFlight)}
	for range inFlight / limitChannels {
		connection, err := amqp.Dial(w.amqpURL)
		if err != nil {
			l.close()
			return nil, fmt.Errorf("connect to the broker: %w", err)
		}
		l.connections = append(l.connections, connection)
		for range limitChannels {
			channel, err := connection.Channel()
			if err != nil {
				l.close()
				return nil, fmt.Errorf("open a channel: %w", err)
			}
			l.channels <- channel
		}
	}
	return l, nil
}

func (l *limit) close() {
	for _, connection := range l.connections {
		_ = connection.Close() // there is nothing on its way
	}
}

// create makes n queues and partitions and returns how many a second.
func (l *limit) create(ctx context.Context, n int) (rate float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, rig.WaitLimit)
	defer cancel()
	return throughput(ctx, n, inFlight, func(ctx context.Context, _ int) error { return l.createOne(ctx, uuid.New()) })
}

func (l *limit) createOne(ctx context.Context, tenant uuid.UUID) error {
	if _, err := l.world.database.Exec(ctx, `SELECT tenant_attach($1)`, tenant); err != nil {
		return fmt.Errorf("attach a partition: %w", err)
	}
	channel := <-l.channels // as many as goroutines
	defer func() { l.channels <- channel }()
	_, err := channel.QueueDeclare("limit."+tenant.String(), true, false, false, false, amqp.Table{amqp.QueueTypeArg: l.world.queueType})
	if err != nil {
		return fmt.Errorf("declare a queue: %w", err)
	}
	return nil
}
