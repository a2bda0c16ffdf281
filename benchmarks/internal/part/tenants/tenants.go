// Package tenants measures what many tenants cost: how fast they are created while there are ever more of them, what they
// take in memory and CPU time while nothing happens, and how long ingest-service needs after a restart until it consumes
// all of them again.
//
// The limits are those of the servers, measured in the same run, at the same number of tenants, in turns with the
// platform: for creating, to declare a queue of the same type and attach a partition, and nothing else; for a restart, to open a channel and consume on it, and nothing else, for the same queues over as many
// connections.
//
// All of it happens in a database, a virtual host and a NATS server of its own, so that neither the tenants of other
// parts nor these get into the other's figures.
package tenants

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/report"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
)

const part = "tenants"

// plan is one number of tenants with queues of one type.
type plan struct {
	queueType string
	// tenants are created in all; the first and the last edge of them are timed, in rounds.
	tenants, edge int
	// connections are those that ingest-service consumes over; 0 is its default.
	connections int
	cooldown    time.Duration // from the last tenant to the first look at what idling costs
	idle        time.Duration // for which CPU time is counted
}

// plans are what is measured.
//
// Ten thousand tenants have classic queues: RabbitMQ itself asks to think again about more than about five thousand
// quorum queues, each of which is a Raft group with a log of its own, and declares 140 of them a second against 500 (and
// more over several connections). So the default type is measured with fewer tenants. A connection has 2,047 channels, and
// every consumer needs one: ten thousand take five connections, which the default is enough for.
func plans(quick bool) []plan {
	if quick {
		return []plan{{queueType: amqp.QueueTypeQuorum, tenants: 500, edge: 100, cooldown: 2 * time.Second, idle: 10 * time.Second}}
	}
	return []plan{
		{queueType: amqp.QueueTypeClassic, tenants: 10_000, edge: 1000, connections: 8, cooldown: 15 * time.Second, idle: 30 * time.Second},
		{queueType: amqp.QueueTypeQuorum, tenants: 2000, edge: 500, cooldown: 15 * time.Second, idle: 30 * time.Second},
	}
}

func (p plan) name(what string) string { return fmt.Sprintf("%d %s: %s", p.tenants, p.queueType, what) }

// Run measures all plans, one after the other.
func Run(ctx context.Context, r *rig.Rig, rec report.Recorder) error {
	var errs []error
	all := plans(r.Quick)
	for i, p := range all {
		if err := p.run(ctx, r, rec, i == len(all)-1); err != nil {
			errs = append(errs, fmt.Errorf("%d tenants with %s queues: %w", p.tenants, p.queueType, err))
		}
	}
	return errors.Join(errs...)
}

// run measures one plan. What the last one leaves in the servers goes with them: removing thousands of queues takes longer
// than stopping a broker.
func (p plan) run(ctx context.Context, r *rig.Rig, rec report.Recorder, last bool) (err error) {
	began := time.Now()
	w, err := newWorld(ctx, r, p)
	if err != nil {
		return err
	}
	defer func() {
		leaving := time.Now()
		err = errors.Join(err, w.stop(context.WithoutCancel(ctx)))
		if !last {
			err = errors.Join(err, w.remove(context.WithoutCancel(ctx)))
		}
		rec.Progress("%s: %s %.0f s, and %.0f s to end it", part, p.name("took"), leaving.Sub(began).Seconds(), time.Since(leaving).Seconds())
	}()
	empty, err := w.memory(ctx)
	if err != nil {
		return err
	}
	for _, step := range []func(context.Context, *world, report.Recorder) error{
		p.create,
		func(ctx context.Context, w *world, rec report.Recorder) error { return p.idling(ctx, w, empty, rec) },
		p.scrape,
		p.restart,
	} {
		if err := step(ctx, w, rec); err != nil {
			return err
		}
	}
	return nil
}
