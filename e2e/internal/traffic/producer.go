package traffic

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

// outcome is what a producer learned of one try.
type outcome int

const (
	outcomeUnknown  outcome = iota // accepted or not: to be repeated under the same id
	outcomeReturned                // certainly not accepted: to be repeated
	outcomeConfirmed
	outcomeRefused  // impossible, and no repetition will change that
	outcomeDeclined // by a limit: certainly not accepted
)

// item is one message on its way.
type item struct {
	seq           uint32
	poison        bool
	revision      byte // a content other than the first one
	repeat        bool // published before: what becomes of it now does not count
	maybeAccepted bool // an earlier try may have been accepted
}

// way is how a producer publishes.
type way int

const (
	wayHTTP  way = iota // one message a request
	wayBatch            // NDJSON
	wayAMQP
)

const (
	// gather is how long messages of a batch are gathered.
	gather = 250 * time.Millisecond
	// largestBatch bounds a batch.
	largestBatch = 200
	// debt is how far a producer that was held up falls behind before it lets go of what it has missed.
	debt = time.Second
	// Shares of what is published again on purpose: with the same content, and with another one.
	repeatShare  = 0.02
	rewriteShare = 0.005
)

// producer publishes the messages of one tenant in one way. Its goroutine owns it.
type producer struct {
	*Traffic
	account *account
	way     way
	rate    float64 // messages a second; unlimited if 0
	random  *rand.Rand

	recent []item // confirmed not long ago
}

// run offers messages until ctx ends, and new ones only when those before have a clear outcome. What has none in the end
// is left to [Traffic.Drain].
func (p *producer) run(ctx context.Context) {
	began, offered := time.Now(), 0.0
	for ctx.Err() == nil {
		n := largestBatch
		if p.rate > 0 {
			due := time.Since(began).Seconds()*p.rate - offered
			if due > debt.Seconds()*p.rate+1 {
				began, offered, due = time.Now(), 0, 1
			}
			if want := p.portion(); due < want {
				_ = retry.Sleep(ctx, time.Duration((want-due)/p.rate*float64(time.Second)))
				continue
			}
			n = min(int(due), largestBatch)
		}
		if p.way == wayHTTP {
			n = 1
		}
		offered += float64(n)
		p.deliver(ctx, p.account, p.way, p.compose(n), p.remember)
	}
}

// portion is how many messages are due before any is sent.
func (p *producer) portion() float64 {
	if p.way == wayHTTP {
		return 1
	}
	return min(max(p.rate*gather.Seconds(), 1), largestBatch)
}

// compose offers n messages and adds some that were published before.
func (p *producer) compose(n int) []item {
	items := p.account.offer(n, func() bool {
		return p.way == wayAMQP && p.random.Float64() < p.opts.PoisonShare
	})
	fresh := len(items)
	for range fresh {
		if len(p.recent) > 0 && p.random.Float64() < repeatShare {
			again := p.recent[p.random.IntN(len(p.recent))]
			again.repeat = true
			items = append(items, again)
		}
		if p.random.Float64() >= rewriteShare || p.account.doesRetain() { // once it is removed, the other content may be stored
			continue
		}
		// Only what is stored for certain is published with another content: of two on their way, either may come first.
		if seq, ok := p.account.met(p.random.IntN); ok {
			items = append(items, item{seq: seq, revision: 1, repeat: true})
		}
	}
	return items
}

// remember keeps some of what was confirmed, to be published again.
func (p *producer) remember(m item) {
	const remembered = 64
	switch {
	case m.poison || m.repeat:
	case len(p.recent) < remembered:
		p.recent = append(p.recent, m)
	default:
		p.recent[p.random.IntN(remembered)] = m
	}
}

// deliver publishes items until each is confirmed or refused, or ctx ends, or the tenant is deleted. It returns what is
// left. What a limit declines it lets go of, and waits as it is told, unless an earlier try may have been accepted.
func (t *Traffic) deliver(ctx context.Context, a *account, way way, items []item, confirmed func(item)) []item {
	for wait := shortestPause; len(items) > 0 && ctx.Err() == nil && a.isLive(); {
		outcomes, asked := t.try(ctx, a, way, items)
		var left []item
		for i, m := range items {
			a.resolve(m, outcomes[i])
			switch outcomes[i] {
			case outcomeConfirmed:
				confirmed(m)
			case outcomeRefused:
			case outcomeUnknown:
				m.maybeAccepted = true
				left = append(left, m)
			case outcomeReturned:
				left = append(left, m)
			case outcomeDeclined:
				if m.maybeAccepted && !m.repeat {
					left = append(left, m)
				}
			}
		}
		if items = left; len(items) > 0 {
			asked = max(asked, wait)
			wait = min(2*wait, longestPause)
		}
		if asked > 0 {
			_ = retry.Sleep(ctx, asked)
		}
	}
	return items
}

const (
	shortestPause = 50 * time.Millisecond
	longestPause  = time.Second
)

// try publishes items once, and tells how long to wait if the platform asks for that.
func (t *Traffic) try(ctx context.Context, a *account, way way, items []item) (outcomes []outcome, asked time.Duration) {
	var err error
	switch way {
	case wayHTTP, wayBatch:
		messages := make([]client.Publishing, len(items))
		for i, m := range items {
			messages[i] = a.publishing(m)
		}
		limited := a.isLimited()
		errs := t.clients.publish(ctx, a.tenant, messages, way == wayBatch)
		outcomes = make([]outcome, len(items))
		for i := range errs {
			outcomes[i], asked = outcomeOf(errs[i]), max(asked, retryAfter(errs[i]))
		}
		t.noteLimits(a, limited, outcomes, errs)
		for i, o := range outcomes {
			if err == nil && o != outcomeDeclined {
				err = errs[i]
			}
		}
	case wayAMQP:
		a.publishesDirectly(items...)
		messages := make([]publish.Message, len(items))
		for i, m := range items {
			messages[i] = a.message(m)
		}
		outcomes, err = t.publishAMQP(ctx, messages)
		for i, m := range items {
			if outcomes[i] == outcomeConfirmed {
				t.noteHostile(a.hostileOf(m.seq, m.poison))
			}
		}
	}
	if err != nil && ctx.Err() == nil {
		t.remark(a, err)
	}
	return outcomes, asked
}

// message is m as it is published to the broker.
func (a *account) message(m item) publish.Message {
	key, headers, body := a.tenant.String(), amqp.Table(nil), a.payload(m.seq, m.revision)
	if m.poison {
		key, headers = a.disguise(m.seq)
		body = a.poisoned(m.seq)
	}
	p := amqp.Publishing{
		MessageId: a.id(m.seq).String(), DeliveryMode: amqp.Persistent, ContentType: "application/json", Headers: headers, Body: body,
	}
	a.hostileOf(m.seq, m.poison).arm(&p, a.neighbour, m.maybeAccepted || m.repeat)
	return publish.Message{Exchange: contract.MessagesExchange, Key: key, Publishing: p}
}

// publishAMQP publishes to the broker directly, mandatory and with confirms. The error is one of those that there were.
func (t *Traffic) publishAMQP(ctx context.Context, messages []publish.Message) (outcomes []outcome, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	outcomes = make([]outcome, len(messages))
	for i, failed := range t.publisher.PublishBatch(ctx, messages) {
		switch {
		case failed == nil:
			outcomes[i] = outcomeConfirmed
			continue
		case errors.Is(failed, publish.ErrInvalid):
			outcomes[i] = outcomeRefused
		case errors.Is(failed, publish.ErrUnroutable):
			outcomes[i] = outcomeReturned
		default: // a message that one of two queues has refused may be in the other
			outcomes[i] = outcomeUnknown
		}
		err = failed
	}
	return outcomes, err
}
