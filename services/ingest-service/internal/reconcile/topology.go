package reconcile

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/rabbitmq"
)

// requestTimeout bounds one declaration. A quorum queue takes milliseconds, on a busy cluster seconds.
const requestTimeout = 20 * time.Second

// Topology makes and removes what tenants need in the broker.
type Topology struct {
	link    *rabbitmq.Link
	delays  []time.Duration
	options rabbitmq.QueueOptions
	log     *zap.Logger

	declared chan struct{} // closed once the shared exchanges and queues have been declared for the first time

	mu     sync.Mutex
	shared *rabbitmq.Session    // guarded by mu: on which the shared exchanges and queues were declared
	young  map[uuid.UUID]*birth // guarded by mu: queues that are not settled yet
}

// birth is when and where a queue was made.
type birth struct {
	at      time.Time
	session *rabbitmq.Session
}

// settleTime is how long a new quorum queue has to live before anything is entrusted to it. RabbitMQ saves the register of
// its members every 500 ms (the autosave of ra_directory); a broker that is killed before that starts with a queue that
// never finds a leader, and what was confirmed into it is gone (seen with 4.0.5).
const settleTime = time.Second

// NewTopology returns the topology with retry tiers of the given delays.
func NewTopology(link *rabbitmq.Link, delays []time.Duration, options rabbitmq.QueueOptions, log *zap.Logger) *Topology {
	return &Topology{link: link, delays: delays, options: options, log: log, declared: make(chan struct{}), young: make(map[uuid.UUID]*birth)}
}

// Run makes what all tenants share as soon as there is a connection, and again on every new one and every half a minute,
// until ctx ends: dead letters and producers need it before the first tenant is provisioned, and somebody may delete it.
func (t *Topology) Run(ctx context.Context) error {
	first := sync.OnceFunc(func() { close(t.declared) })
	for ctx.Err() == nil {
		session, err := t.declareSoon(ctx)
		if err != nil {
			if ctx.Err() == nil {
				t.log.Warn("the shared exchanges and queues could not be declared; it will be repeated", zap.Error(err))
			}
			wait(ctx, declarePause)
			continue
		}
		first()
		again := time.NewTimer(declareInterval)
		select {
		case <-ctx.Done():
		case <-session.Done():
		case <-again.C:
			t.forgetShared(session)
		}
		again.Stop()
	}
	return nil
}

// Await returns once Run has made what all tenants share, or when ctx ends. Whoever consumes one of the shared queues waits
// for that: RabbitMQ 4 answers some consumers of a quorum queue that is just being declared with an internal error.
func (t *Topology) Await(ctx context.Context) error {
	select {
	case <-t.declared:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

const (
	// declarePause is between two tries to declare what all tenants share.
	declarePause = time.Second
	// declareInterval is between two declarations on a connection that is fine. They take milliseconds.
	declareInterval = 30 * time.Second
)

func (t *Topology) declareSoon(ctx context.Context) (*rabbitmq.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return t.DeclareShared(ctx)
}

// Declare makes the queue and the bindings of a tenant. The exchanges and queues that all share are declared before, once
// a connection: the broker may have lost them with its data.
func (t *Topology) Declare(ctx context.Context, tenant uuid.UUID) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	session, err := t.DeclareShared(ctx)
	if err != nil {
		return err
	}
	fresh, err := t.isFresh(ctx, session, tenant)
	if err != nil {
		return err
	}
	err = session.Do(ctx, func(ch *amqp.Channel) error {
		return rabbitmq.DeclareTenant(ch, tenant.String(), t.options)
	})
	if fresh && err == nil {
		t.mu.Lock()
		t.young[tenant] = &birth{at: time.Now(), session: session}
		t.mu.Unlock()
	}
	if errors.Is(err, rabbitmq.ErrQueueMismatch) {
		t.log.Warn("a queue exists with other arguments and is used as it is", zap.Stringer("tenant_id", tenant), zap.Error(err))
		err = session.Do(ctx, func(ch *amqp.Channel) error { return rabbitmq.AdoptTenant(ch, tenant.String()) })
	}
	var refused *amqp.Error
	if errors.As(err, &refused) && refused.Code == amqp.NotFound {
		t.forgetShared(session)
	}
	return err
}

// isFresh reports whether the queue of a tenant is yet to be made. One that was made shortly before the connection was lost
// is deleted: the broker may have forgotten half of it, and nobody was told to use it.
func (t *Topology) isFresh(ctx context.Context, session *rabbitmq.Session, tenant uuid.UUID) (bool, error) {
	if t.options.Type == rabbitmq.QueueClassic {
		return false, nil
	}
	t.mu.Lock()
	_, unsettled := t.young[tenant]
	t.mu.Unlock()
	err := session.Do(ctx, func(ch *amqp.Channel) error {
		if unsettled {
			_, err := rabbitmq.DeleteTenant(ch, tenant.String())
			return err
		}
		_, err := ch.QueueDeclarePassive(contract.QueueName(tenant.String()), true, false, false, false, nil)
		return err
	})
	var refused *amqp.Error
	if errors.As(err, &refused) && refused.Code == amqp.NotFound {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for the queue: %w", err)
	}
	return unsettled, nil
}

// Settle returns once the queue of a tenant can be trusted: at once for one that has been there before, else a second after
// it was declared. It fails if the connection was lost meanwhile; the queue is then to be declared again.
func (t *Topology) Settle(ctx context.Context, tenant uuid.UUID) error {
	t.mu.Lock()
	born := t.young[tenant]
	t.mu.Unlock()
	if born == nil {
		return nil
	}
	pause := time.NewTimer(time.Until(born.at.Add(settleTime)))
	defer pause.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-born.session.Done():
		return fmt.Errorf("the connection was lost when the queue had just been made: %w", born.session.Err())
	case <-pause.C:
	}
	t.forgetBirth(tenant)
	return nil
}

func (t *Topology) forgetBirth(tenant uuid.UUID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.young, tenant)
}

// DeclareShared makes what all tenants share, unless that was done on the living connection, which it returns.
func (t *Topology) DeclareShared(ctx context.Context) (*rabbitmq.Session, error) {
	session, err := t.link.Session(ctx)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock() // the others wait: they need the result
	if t.shared == session {
		return session, nil
	}
	err = session.Do(ctx, func(ch *amqp.Channel) error {
		// The tiers are few, and what waits in them must survive the loss of a node: always quorum queues.
		return rabbitmq.DeclareShared(ch, t.delays, rabbitmq.QueueQuorum)
	})
	if err != nil {
		return nil, fmt.Errorf("declare the shared exchanges and queues: %w", err)
	}
	t.shared = session
	return session, nil
}

func (t *Topology) forgetShared(session *rabbitmq.Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shared == session {
		t.shared = nil
	}
}

// Delete removes the queue of a tenant with everything in it.
func (t *Topology) Delete(ctx context.Context, tenant uuid.UUID) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	session, err := t.link.Session(ctx)
	if err != nil {
		return err
	}
	err = session.Do(ctx, func(ch *amqp.Channel) error {
		_, err := rabbitmq.DeleteTenant(ch, tenant.String())
		return err
	})
	if err == nil {
		t.forgetBirth(tenant)
	}
	return err
}

// missing is the depth of a queue that does not exist.
const missing = -1

// Depths calls observe with the number of messages that wait in the queue of each of tenants, or [missing]. A queue that
// does not exist ends the channel: the rest of tenants is then asked on another one.
func (t *Topology) Depths(ctx context.Context, tenants []uuid.UUID, observe func(tenant uuid.UUID, ready int64)) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	session, err := t.link.Session(ctx)
	if err != nil {
		return err
	}
	for len(tenants) > 0 {
		depths := make(chan []int64, 1) // the requests go on when ctx ends first, and nobody may wait for them then
		err := session.Do(ctx, func(ch *amqp.Channel) error {
			var known []int64
			defer func() { depths <- known }()
			for _, tenant := range tenants {
				queue, err := ch.QueueDeclarePassive(contract.QueueName(tenant.String()), true, false, false, false, nil)
				if err != nil {
					return err
				}
				known = append(known, int64(queue.Messages))
			}
			return nil
		})
		var refused *amqp.Error
		if err != nil && (!errors.As(err, &refused) || refused.Code != amqp.NotFound) {
			return fmt.Errorf("read queue depths: %w", err)
		}
		known := <-depths
		if err != nil {
			known = append(known, missing)
		}
		for i, ready := range known {
			observe(tenants[i], ready)
		}
		tenants = tenants[len(known):]
	}
	return nil
}
