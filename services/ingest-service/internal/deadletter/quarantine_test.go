package deadletter

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/component"
)

// What ends the connection counts as a delivery of everything that was held with it. So a new connection begins with one dead letter: a
// neighbour's must not get into quarantine with it. Once many have gone well, they come many at a time.
func TestRecorderBeginsWithOneLetterAtATime(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	link, publisher := broker(t)
	f := &faulty{Store: s}
	var hold atomic.Bool // the next dead letters
	held, free := make(chan int), make(chan struct{})
	f.set(func(letters []Entry) error {
		if hold.CompareAndSwap(true, false) {
			held <- len(letters)
			<-free
		}
		return nil
	}, nil)
	const extra = 10
	sent := 0
	send := func(n int) {
		for range n {
			publishAll(t, publisher, deadMessage(tenantA, fmt.Sprint(sent)))
			sent++
		}
	}
	send(probation)
	hold.Store(true)
	component.Run(t, recorder(t, link, f).Run)
	require.Equal(t, 1, <-held)
	require.Equal(t, probation-1, depth(t, link, contract.DeadLettersQueue), "one is held")
	free <- struct{}{}
	waitForEntries(t, s, tenantA, probation)
	hold.Store(true)
	send(1)
	<-held
	send(extra)
	require.Eventually(t, func() bool { return depth(t, link, contract.DeadLettersQueue) == 0 }, waitLimit, 10*time.Millisecond, "all are held")
	free <- struct{}{}
	waitForEntries(t, s, tenantA, sent)
}

// An operator is told of a queue whose deliveries break the connection, and only then.
func TestBrokenConnectionsAreReported(t *testing.T) {
	t.Parallel()
	reported := []error{errors.New("nothing yet")}
	r := &Recorder{metrics: NewMetrics(prometheus.NewPedanticRegistry()), log: zap.NewNop()}
	r.faults = newFaults(func(err error) { reported = append(reported, err) })
	last := func() error { return reported[len(reported)-1] }
	require.NoError(t, last())
	l := &losses{recorder: r, queue: contract.ParkingQueue}
	gauge := func() float64 { return testutil.ToFloat64(r.metrics.blocked.WithLabelValues(contract.ParkingQueue)) }
	cause := &amqp.Error{Code: amqp.InternalError, Reason: "INTERNAL_ERROR", Server: true}
	for range 3 {
		l.lost(&conn.LostError{Cause: cause, Explained: true})
		l.lost(conn.ErrUnavailable) // given up from this side
	}
	l.lost(&conn.LostError{Cause: cause})
	require.NoError(t, last(), "one loss is no proof")
	l.held()
	l.lost(&conn.LostError{Cause: cause})
	require.NoError(t, last())
	l.lost(&conn.LostError{Cause: cause})
	require.ErrorIs(t, last(), cause)
	require.ErrorContains(t, last(), "parking: the deliveries of this queue break the connection (2 lost")
	require.InDelta(t, 1, gauge(), 0)
	r.faults.set(contract.QuarantineQueue, errors.New("quarantine: 1"))
	require.Len(t, strings.Split(last().Error(), "\n"), 2)
	l.held()
	require.EqualError(t, last(), "quarantine: 1")
	require.Zero(t, gauge())
}

// While the database is away nothing is delivered: each time that a dead letter is given back would bring it nearer to the quarantine.
func TestRecorderAwaitsTheDatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pings := 0
		r := &Recorder{ping: func(context.Context) error {
			if pings++; pings < 100 {
				return errors.New("away")
			}
			return nil
		}}
		r.awaitDatabase(t.Context())
		require.Equal(t, 100, pings)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		pings = 0
		r.awaitDatabase(ctx)
		require.Equal(t, 1, pings)
	})
}
