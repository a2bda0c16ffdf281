package dlxhealth

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
)

// The ways that are tested, as the cause of a fault names them.
const (
	sharedTier = "retry tier"
	ownTier    = "node"
	screen     = "screen"
	// stuckQueues is tested by looking at the queues.
	stuckQueues = "queues"
)

func paths() []string { return []string{sharedTier, ownTier, screen} }

const (
	// ownDelay is how long a canary waits in the queue of its instance.
	ownDelay = time.Second
	// longestTier is the longest delay for which a canary is sent through a retry tier.
	longestTier = time.Minute
	// expiry is after how long the broker removes the queue of an instance that has gone. Nobody consumes it, so that of a living
	// instance goes as well (seen with 3.10.8: publishing and passive declarations are no use) and is made again: one miss at most.
	expiry = 10 * time.Minute
	// requestTimeout bounds a declaration and a publish.
	requestTimeout = 10 * time.Second
	// prefetch is how many canaries may come back late between two rounds.
	prefetch = 100
	// separator is between the path and the number in the id of a canary.
	separator = " #"
	// redial is the pause before a connection that cannot be used is looked for again.
	redial = time.Second
)

var (
	errNotBack    = errors.New("published, and it does not come back")
	errNotRefused = errors.New("a message with a header x-death is not refused")
)

// canaries are those of one connection.
type canaries struct {
	watch   *Watch
	session *conn.Session
	queue   string // into which canaries come back
	returns *consume.Consumer
	ended   bool // nothing comes from returns any more
}

// sendCanaries sends canaries until ctx ends, over each connection that there is.
func (w *Watch) sendCanaries(ctx context.Context) {
	missed := make(map[string]int) // by path
	for sent := 0; ctx.Err() == nil; {
		if !w.overConnection(ctx, missed, &sent) {
			_ = retry.Sleep(ctx, redial) // the loop ends with ctx
		}
	}
}

// overConnection sends canaries until the connection is lost or ctx ends. It reports false if it could not begin.
func (w *Watch) overConnection(ctx context.Context, missed map[string]int, sent *int) bool {
	session, err := w.link.Session(ctx)
	if err != nil {
		return false
	}
	c := &canaries{watch: w, session: session}
	if err := c.awaitReturns(ctx); err != nil {
		if ctx.Err() == nil {
			w.log.Info("no canary can be sent; it will be repeated", zap.Error(err))
		}
		return false
	}
	defer c.returns.Release()
	for {
		*sent++
		c.count(missed, c.round(ctx, *sent))
		if c.ended {
			return false
		}
		select {
		case <-ctx.Done():
			_ = c.returns.Stop() // its queue goes with the connection
			return true
		case <-session.Done():
			return retry.Sleep(ctx, w.cfg.Every) == nil // it may be lost to a canary: not more often than one is sent
		case <-time.After(w.cfg.Every):
		}
	}
}

// awaitReturns makes the queue into which canaries come back, and consumes it. It lives as long as the connection.
func (c *canaries) awaitReturns(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	name := make(chan string, 1)
	err := c.session.Do(ctx, func(ch *amqp.Channel) error {
		queue, err := ch.QueueDeclare("", false, true, true, false, nil)
		if err != nil {
			return fmt.Errorf("declare a queue for canaries: %w", err)
		}
		name <- queue.Name
		return nil
	})
	if err != nil {
		return err
	}
	c.queue = <-name
	c.returns, err = consume.Plain(ctx, c.session, c.queue, "", prefetch)
	return err
}

// count takes in what one round has come to: nil for a path that works, no entry for one that could not be tested.
func (c *canaries) count(missed map[string]int, results map[string]error) {
	for path, err := range results {
		if err == nil {
			missed[path] = 0
			c.watch.set(path, nil)
			continue
		}
		missed[path]++
		c.watch.log.Debug("a canary was missed", zap.String("which", path), zap.Int("misses", missed[path]), zap.Error(err))
		if missed[path] >= misses {
			c.watch.set(path, errMissed(path, missed[path], err))
		}
	}
}

// round sends one canary each way and waits for those that are to come back. One that comes too late is taken for the next: what
// matters is that they come.
func (c *canaries) round(ctx context.Context, number int) map[string]error {
	results := make(map[string]error)
	note := func(path string, err error) {
		if err == nil || ctx.Err() == nil && !isAway(err) {
			results[path] = err
		}
	}
	if provision.Screened(c.watch.cfg.Broker.Screen, c.session.Version()) {
		note(screen, c.tryScreen(ctx))
	}
	key := contract.CanaryName(c.watch.cfg.Instance)
	waiting := make(map[string]time.Duration)
	send := func(path, exchange string, delay time.Duration) {
		if err := c.publish(ctx, exchange, key, path+separator+strconv.Itoa(number), nil); err != nil {
			note(path, fmt.Errorf("publish: %w", err))
			return
		}
		waiting[path] = delay
	}
	if err := c.declareOwnTier(ctx); err != nil {
		note(ownTier, err)
	} else {
		send(ownTier, "", ownDelay)
	}
	if c.watch.cfg.Tier <= longestTier {
		send(sharedTier, contract.RetryTierName(c.watch.cfg.Tier), c.watch.cfg.Tier)
	}
	for path, back := range c.collect(ctx, waiting) {
		if back {
			results[path] = nil
		} else {
			results[path] = errNotBack
		}
	}
	return results
}

// collect tells which of the awaited canaries have come back. It is empty if the wait was cut short.
func (c *canaries) collect(ctx context.Context, awaited map[string]time.Duration) map[string]bool {
	back, longest, open := make(map[string]bool, len(awaited)), time.Duration(0), 0
	for path, delay := range awaited {
		back[path], longest = false, max(longest, delay)
		open++
	}
	limit := time.After(longest + c.watch.cfg.Grace)
	for open > 0 {
		select {
		case <-ctx.Done():
			return nil
		case <-c.session.Done():
			return nil
		case <-limit:
			return back
		case d, alive := <-c.returns.Deliveries:
			if !alive || c.returns.Ack(d.DeliveryTag, false) != nil {
				c.ended = true
				return nil
			}
			path, _, _ := strings.Cut(d.MessageId, separator)
			if seen, known := back[path]; known && !seen {
				back[path] = true
				open--
			}
		}
	}
	return back
}

// tryScreen publishes what the screen is to refuse, under a key that leads nowhere behind it.
func (c *canaries) tryScreen(ctx context.Context) error {
	err := c.publish(ctx, contract.MessagesExchange, contract.CanaryName(c.watch.cfg.Instance), screen, amqp.Table{"x-death": nil})
	switch {
	case errors.Is(err, publish.ErrRejected):
		return nil
	case err == nil || errors.Is(err, publish.ErrUnroutable):
		return fmt.Errorf("%w: %w", publish.ErrUnroutable, errNotRefused)
	default:
		return err
	}
}

func (c *canaries) publish(ctx context.Context, exchange, key, id string, headers amqp.Table) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return c.watch.publisher.Publish(ctx, publish.Message{Exchange: exchange, Key: key, Publishing: amqp.Publishing{
		MessageId: id, DeliveryMode: amqp.Persistent, Headers: headers, Timestamp: time.Now(), AppId: "canary",
	}})
}

// declareOwnTier binds the queue for canaries and makes the queue of this instance, on the node that it is connected to, unless it is there. The broker answers
// with an internal error, and closes the connection, while the dead-lettering of that node is dead.
func (c *canaries) declareOwnTier(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	name := contract.CanaryName(c.watch.cfg.Instance)
	err := c.session.Do(ctx, func(ch *amqp.Channel) error {
		// Each time: somebody may have deleted the exchange, and the bindings with it.
		if err := ch.QueueBind(c.queue, name, contract.RetryReturnExchange, false, nil); err != nil {
			return fmt.Errorf("bind the queue for canaries: %w", err)
		}
		_, err := ch.QueueDeclarePassive(name, true, false, false, false, nil)
		return err
	})
	if refused, ok := errors.AsType[*amqp.Error](err); !ok || refused.Code != amqp.NotFound {
		return err
	}
	return c.session.Do(ctx, func(ch *amqp.Channel) error {
		if _, err := ch.QueueDeclare(name, true, false, false, false, ownTierArgs()); err != nil {
			return fmt.Errorf("declare queue %s: %w", name, err)
		}
		return nil
	})
}

func ownTierArgs() amqp.Table {
	return amqp.Table{
		amqp.QueueTypeArg:             amqp.QueueTypeQuorum,
		"x-quorum-initial-group-size": int32(1),
		"x-queue-leader-locator":      "client-local",
		amqp.QueueMessageTTLArg:       ownDelay.Milliseconds(),
		amqp.QueueTTLArg:              expiry.Milliseconds(),
		amqp.QueueOverflowArg:         amqp.QueueOverflowRejectPublish,
		"x-dead-letter-exchange":      contract.RetryReturnExchange,
		"x-dead-letter-strategy":      "at-least-once",
	}
}
