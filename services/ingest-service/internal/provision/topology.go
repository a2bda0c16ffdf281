package provision

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

// requestTimeout bounds one declaration. A quorum queue takes milliseconds, on a busy cluster seconds.
const requestTimeout = 20 * time.Second

// Topology makes and removes what tenants need in the broker.
type Topology struct {
	link    *conn.Link
	prober  *consume.Prober
	delays  []time.Duration
	options QueueOptions
	screen  string // the mode
	log     *zap.Logger

	declared chan struct{} // closed once the shared exchanges and queues have been declared for the first time

	mu      sync.Mutex
	shared  *conn.Session              // guarded by mu: on which the shared exchanges and queues were declared
	warned  bool                       // guarded by mu: that the queues of the recorder have no quarantine
	unbound map[uuid.UUID]*declaration // guarded by mu: queues that are declared and not bound yet
}

// declaration is what this instance knows of a queue that it has not bound.
type declaration struct {
	at      time.Time     // it was there by then
	session *conn.Session // on which that was seen
	ours    bool          // this instance has made it, on this connection or on one that it has lost since
	found   bool          // on this connection it was there already
}

// trustAfter is how long a new quorum queue has to live before anything is entrusted to it. RabbitMQ saves the register of
// its members every 500 ms (the autosave of ra_directory); a broker that is killed before that starts with a queue that
// never finds a leader, and what was confirmed into it is gone (seen with 3.10.8 and 4.0.5).
//
// So a queue is bound, and only then can anything get into it, by an instance to which the broker has answered on one
// connection for so long. That goes for one that was found, too: another instance may have made it this very moment. None
// of the instances needs to know of the others, nor whether producers wait to be told that the tenant runs.
const trustAfter = time.Second

// errLost says that a queue was lost with its broker before anybody could use it.
var errLost = errors.New("the broker has lost the queue, which was new; it is made again")

// NewTopology returns the topology with retry tiers of the given delays. prober asks queues that may be lost; nil: nobody asks. screen
// is a mode of the screen.
func NewTopology(link *conn.Link, prober *consume.Prober, delays []time.Duration, options QueueOptions, screen string, log *zap.Logger) *Topology {
	return &Topology{
		link: link, prober: prober, delays: delays, options: options, screen: screen, log: log,
		declared: make(chan struct{}), unbound: make(map[uuid.UUID]*declaration),
	}
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
			_ = retry.Sleep(ctx, declarePause) // the loop ends with ctx
			continue
		}
		first()
		select {
		case <-ctx.Done():
		case <-session.Done():
		case <-time.After(declareInterval):
			t.forgetShared(session)
		}
	}
	return nil
}

// Await returns once Run has made what all tenants share, or when ctx ends. A consumer of one of the shared queues waits
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

func (t *Topology) declareSoon(ctx context.Context) (*conn.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return t.DeclareShared(ctx)
}

// Declare makes the queue of a tenant. A classic one is bound as well; that of a quorum queue is for Bind. The exchanges
// and queues that all share are declared before, once a connection: the broker may have lost them with its data.
func (t *Topology) Declare(ctx context.Context, tenant uuid.UUID) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	session, err := t.DeclareShared(ctx)
	if err != nil {
		return err
	}
	if t.options.Type == amqp.QueueTypeClassic {
		return t.declareClassic(ctx, session, tenant)
	}
	err = session.Do(ctx, func(ch *amqp.Channel) error {
		if _, err := ch.QueueDeclarePassive(contract.QueueName(tenant.String()), true, false, false, false, nil); err != nil {
			return fmt.Errorf("look for the queue: %w", err)
		}
		return DeclareTenantQueue(ch, tenant.String(), t.options) // tells whether its arguments are others
	})
	found := !isNotFound(err)
	if !found {
		err = session.Do(ctx, func(ch *amqp.Channel) error {
			return DeclareTenantQueue(ch, tenant.String(), t.options)
		})
	}
	if errors.Is(err, ErrQueueMismatch) {
		t.warnOfMismatch(tenant, err)
		err = nil
	}
	if err == nil || !found { // a queue whose declaration failed may have been made all the same
		t.noteDeclared(tenant, session, found)
	}
	return err
}

// declareClassic makes a queue that can be trusted at once.
func (t *Topology) declareClassic(ctx context.Context, session *conn.Session, tenant uuid.UUID) error {
	options := t.options
	options.Screened = Screened(t.screen, session.Version())
	err := session.Do(ctx, func(ch *amqp.Channel) error { return DeclareTenant(ch, tenant.String(), options) })
	if errors.Is(err, ErrQueueMismatch) {
		t.warnOfMismatch(tenant, err)
		err = t.bindOn(ctx, session, tenant)
	}
	if isNotFound(err) {
		t.forgetShared(session)
	}
	return err
}

func (t *Topology) warnOfMismatch(tenant uuid.UUID, err error) {
	if t.options.Raised != nil && strings.Contains(err.Error(), amqp.QueueMaxLenBytesArg) {
		return // its limit was another one when it was made, and its status says if it is too low now
	}
	t.log.Warn("a queue exists with other arguments and is used as it is", zap.Stringer("tenant_id", tenant), zap.Error(err))
}

func (t *Topology) noteDeclared(tenant uuid.UUID, session *conn.Session, found bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.unbound[tenant]
	t.unbound[tenant] = &declaration{at: time.Now(), session: session, ours: !found || before != nil && before.ours, found: found}
}

// Bind binds the queue of a tenant once it can be trusted: a second after it was declared, or at once if it was bound
// since, or is a classic one. It fails if the connection was lost meanwhile; the queue is then to be declared again.
func (t *Topology) Bind(ctx context.Context, tenant uuid.UUID) error {
	t.mu.Lock()
	declared := t.unbound[tenant]
	t.mu.Unlock()
	if declared == nil {
		return nil
	}
	if err := t.trust(ctx, tenant, declared); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	// On the same connection: its answer says that the broker has been there all the time.
	err := t.bindOn(ctx, declared.session, tenant)
	if isNotFound(err) { // the queue, or one of the exchanges
		t.forgetShared(declared.session)
	}
	if err == nil {
		t.forgetDeclared(tenant)
	}
	return err
}

// bindOn binds the queue of a tenant on a connection on which what all tenants share has been declared.
func (t *Topology) bindOn(ctx context.Context, session *conn.Session, tenant uuid.UUID) error {
	return session.Do(ctx, func(ch *amqp.Channel) error {
		return BindTenant(ch, tenant.String(), Screened(t.screen, session.Version()))
	})
}

// trust returns when the queue of a tenant can be trusted.
func (t *Topology) trust(ctx context.Context, tenant uuid.UUID, declared *declaration) error {
	since := declared.at
	if declared.ours && declared.found {
		if err := t.replaceLost(ctx, tenant); err != nil {
			return err
		}
		since = time.Now() // what has answered may have been made again by another instance
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-declared.session.Done():
		return fmt.Errorf("the connection was lost when the queue had just been made: %w", declared.session.Err())
	case <-time.After(time.Until(since.Add(trustAfter))):
		return nil
	}
}

// replaceLost deletes the queue of a tenant, and returns [errLost], if it was lost: this instance has made it and then lost
// the connection before it was bound. That says little: the broker may have been there all the time, and another instance
// may have bound the queue and had messages confirmed. RabbitMQ deletes a quorum queue whatever is in it (it refuses
// if-empty and if-unused), and tells of one without a leader that it has neither messages nor consumers. So the queue
// itself is asked. One that was bound by anybody had its members saved, and answers once its broker does; that the
// broker does is known from a queue that all share, asked in between: a disk that hangs, and as a rule a cluster
// without a majority, silences both. It is one into which the platform alone publishes: of what it delivers, nothing ends the connection.
//
// Several instances may take themselves for the maker, and come to the same end. A deletion ends the question of any other,
// so that one comes too late only by moments (seen with 3.10.8 and 4.0.5), and meets a queue that is too young to be bound.
func (t *Topology) replaceLost(ctx context.Context, tenant uuid.UUID) error {
	queue := contract.QueueName(tenant.String())
	if err := t.ask(ctx, queue); !errors.Is(err, conn.ErrUnanswered) {
		return err
	}
	if err := t.ask(ctx, contract.DeadLettersQueue); err != nil {
		return err
	}
	if err := t.ask(ctx, queue); !errors.Is(err, conn.ErrUnanswered) {
		return err
	}
	t.log.Warn("a queue that was new was lost with its broker; it is deleted and made again", zap.Stringer("tenant_id", tenant))
	if err := t.Delete(ctx, tenant); err != nil {
		return err
	}
	return errLost
}

// ask returns an error if a queue does not answer a consumer. It takes 10 s for one that is lost.
func (t *Topology) ask(ctx context.Context, queue string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return t.prober.Probe(ctx, queue)
}

func (t *Topology) forgetDeclared(tenant uuid.UUID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.unbound, tenant)
}

// isNotFound reports whether the broker does not have what a request was about.
func isNotFound(err error) bool {
	refused, ok := errors.AsType[*amqp.Error](err)
	return ok && refused.Code == amqp.NotFound
}

// DeclareShared makes what all tenants share, unless that was done on the living connection, which it returns.
func (t *Topology) DeclareShared(ctx context.Context) (*conn.Session, error) {
	session, err := t.link.Session(ctx)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock() // the others wait: they need the result
	if t.shared == session {
		return session, nil
	}
	// The tiers are few, and what waits in them must survive the loss of a node: always quorum queues.
	err = session.Do(ctx, func(ch *amqp.Channel) error { return DeclareShared(ch, t.delays, amqp.QueueTypeQuorum) })
	if errors.Is(err, ErrQueueMismatch) {
		mismatch := err
		err = session.Do(ctx, func(ch *amqp.Channel) error {
			return DeclareSharedUnlimited(ch, t.delays, amqp.QueueTypeQuorum)
		})
		if err == nil && !t.warned {
			t.warned = true
			t.log.Warn("the queues of dead letters are older than the quarantine, and have one by a policy alone; see the runbook", zap.Error(mismatch))
		}
	}
	if err == nil {
		err = DeclareScreen(ctx, session, Screened(t.screen, session.Version()))
	}
	if err != nil {
		return nil, fmt.Errorf("declare the shared exchanges and queues: %w", err)
	}
	t.shared = session
	return session, nil
}

func (t *Topology) forgetShared(session *conn.Session) {
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
		_, err := DeleteTenant(ctx, ch, tenant.String())
		return err
	})
	if err == nil {
		t.forgetDeclared(tenant)
	}
	return err
}

// Missing is the depth of a queue that does not exist.
const Missing = -1

// Depths calls observe with the number of messages that wait in the queue of each of tenants, or [Missing]. A queue that
// does not exist ends the channel: the rest of tenants is then asked on another one.
func (t *Topology) Depths(ctx context.Context, tenants []uuid.UUID, observe func(tenant uuid.UUID, ready int64)) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	session, err := t.link.Session(ctx)
	if err != nil {
		return err
	}
	for len(tenants) > 0 {
		depths := make(chan []int64, 1) // the requests continue when ctx ends first, and nobody may wait for them then
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
		if err != nil && !isNotFound(err) {
			return fmt.Errorf("read queue depths: %w", err)
		}
		known := <-depths
		if err != nil {
			known = append(known, Missing)
		}
		for i, ready := range known {
			observe(tenants[i], ready)
		}
		tenants = tenants[len(known):]
	}
	return nil
}
