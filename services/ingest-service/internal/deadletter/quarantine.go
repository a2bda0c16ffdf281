package deadletter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

const (
	// breaks is how many connections in a row have to be lost for the deliveries of a queue to be named as the cause.
	breaks = 2
	// lossesBeforePause is how many connections in a row may be lost until the queue is tried less often: the broker would have put the message
	// into quarantine by then, if this queue had one.
	lossesBeforePause = 50
	// hold is how long a connection has to live with a consumer on it before its deliveries count as harmless. What ends a
	// connection follows the start of its consumer by milliseconds.
	hold = 5 * time.Second
	// lookTimeout bounds a look at the quarantine.
	lookTimeout = 10 * time.Second
)

// faults are what keeps the recorder from its work, by queue.
type faults struct {
	report func(error)

	mu      sync.Mutex
	byQueue map[string]error // guarded by mu
}

func newFaults(report func(error)) *faults {
	report(nil)
	return &faults{report: report, byQueue: make(map[string]error)}
}

// set notes what is wrong with a queue, nil for nothing, and reports what is wrong with all.
func (f *faults) set(queue string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.byQueue[queue] = err
	f.report(errors.Join(f.byQueue[contract.DeadLettersQueue], f.byQueue[contract.ParkingQueue], f.byQueue[contract.LargeDeadLettersQueue],
		f.byQueue[contract.QuarantineQueue]))
}

// losses counts the connections in a row that the deliveries of a queue have ended. It is owned by the goroutine that consumes it.
type losses struct {
	recorder *Recorder
	queue    string
	count    int
	since    time.Time
}

// lost notes that the connection was lost with err.
func (l *losses) lost(err error) {
	if lost, ok := errors.AsType[*conn.LostError](err); !ok || lost.Explained {
		return
	}
	if l.count++; l.count == 1 {
		l.since = time.Now()
	}
	if l.count < breaks {
		return
	}
	l.recorder.metrics.blocked.WithLabelValues(l.queue).Set(1)
	l.recorder.faults.set(l.queue, fmt.Errorf("%s: the deliveries of this queue break the connection (%d lost since %s); see the runbook; last error: %w",
		l.queue, l.count, l.since.UTC().Format(time.RFC3339), err))
}

// held notes that deliveries come and do no harm.
func (l *losses) held() {
	if l.count == 0 {
		return
	}
	l.count = 0
	l.recorder.metrics.blocked.WithLabelValues(l.queue).Set(0)
	l.recorder.faults.set(l.queue, nil)
}

// watchQuarantine reports what is in quarantine until ctx ends.
func (r *Recorder) watchQuarantine(ctx context.Context) {
	for {
		waiting, err := r.quarantined(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			r.log.Debug("the quarantine could not be looked at; it will be repeated", zap.Error(err))
		case err == nil:
			r.metrics.quarantined.Set(float64(waiting))
			var fault error
			if waiting > 0 {
				fault = fmt.Errorf("%s: %d messages are dead letters that cannot be recorded; see the runbook", contract.QuarantineQueue, waiting)
			}
			r.faults.set(contract.QuarantineQueue, fault)
		}
		if retry.Sleep(ctx, refresh) != nil {
			return
		}
	}
}

// quarantined is how many messages are in quarantine.
func (r *Recorder) quarantined(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	session, err := r.links.Shared.Session(ctx)
	if err != nil {
		return 0, err
	}
	waiting := make(chan int, 1) // the request continues when ctx ends first
	err = session.Do(ctx, func(ch *amqp.Channel) error {
		queue, err := ch.QueueDeclarePassive(contract.QuarantineQueue, true, false, false, false, nil)
		waiting <- queue.Messages
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("look at the quarantine: %w", err)
	}
	return <-waiting, nil
}
