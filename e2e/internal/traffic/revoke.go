package traffic

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

const (
	// A token, and a credential, is used for that long until it is revoked, and the next one is issued that much later.
	grantLeast, grantMost = 3 * time.Second, 6 * time.Second
	// usePause is between two uses. After the revocation it grows with the time that has passed since, so that what was revoked early in a
	// long run is tried to its end and costs little.
	usePause    = 100 * time.Millisecond
	pauseGrowth = 20
	// dialTimeout bounds a login at the broker, confirmTimeout the wait for a confirm.
	dialTimeout, confirmTimeout = 5 * time.Second, 5 * time.Second
	// heartbeat finds a broker that has gone without a word.
	heartbeat = 2 * time.Second
)

// Late is something that was accepted although what it was asked for with had been revoked before it was begun.
type Late struct {
	// Service is one of the services, or the broker.
	Service        string
	Revoked, Began time.Time
}

// Revocations are what became of tokens and credentials that were used until they were revoked, and on.
type Revocations struct {
	// Tokens and Credentials are how many were revoked.
	Tokens, Credentials int64
	// Accepted is how often one was accepted before its revocation, Refused how often it was refused after it; by service, and by the
	// broker, where logins and confirmed messages count.
	Accepted, Refused map[string]int64
	Late              []Late
}

func newRevocations() Revocations {
	return Revocations{Accepted: make(map[string]int64), Refused: make(map[string]int64)}
}

// Revocations counts.
func (t *Traffic) Revocations() Revocations {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.revoked
	r.Accepted, r.Refused, r.Late = maps.Clone(r.Accepted), maps.Clone(r.Refused), slices.Clone(r.Late)
	return r
}

// Verifiers are what accepts tokens and credentials, or refuses them, in the order of a report.
func Verifiers() []string { return append(stack.Names(), string(backing.ServiceRabbitMQ)) }

// grant is a token or a credential.
type grant struct {
	what    string      // for people
	asked   atomic.Bool // its revocation was asked for
	revoked atomic.Pointer[time.Time]
}

// pause is the time until it is used again.
func (g *grant) pause() time.Duration {
	if revoked := g.revoked.Load(); revoked != nil {
		return max(usePause, time.Since(*revoked)/pauseGrowth)
	}
	return usePause
}

// accepted notes that a use of g that began at that time was accepted.
func (t *Traffic) accepted(g *grant, service string, began time.Time) {
	revoked := g.revoked.Load()
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !g.asked.Load():
		t.revoked.Accepted[service]++
	case revoked != nil && began.After(*revoked):
		t.revoked.Late = append(t.revoked.Late, Late{Service: service, Revoked: *revoked, Began: began})
	}
}

// declined notes that a use of g was refused.
func (t *Traffic) declined(g *grant, service string) {
	if g.revoked.Load() == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.revoked.Refused[service]++
}

// revokeTokens issues tokens, uses each of them on every service, revokes it and uses it on, until ctx ends.
func (t *Traffic) revokeTokens(ctx context.Context) {
	t.revoke(ctx, func(ctx context.Context, using *sync.WaitGroup, a *account) (*grant, func(context.Context) error, error) {
		issued, err := t.site.Admin.IssueToken(ctx, a.tenant, "of a run")
		if err != nil {
			return nil, nil, err
		}
		g := &grant{what: fmt.Sprintf("the token %s of tenant %s", issued.ID, a.tenant)}
		of := t.clients.shared.With(client.WithToken(client.StaticToken(issued.Token)))
		for service, use := range map[string]func(context.Context) error{
			stack.TenantService: func(ctx context.Context) error {
				_, err := of.Tenant(ctx, client.ID(a.tenant))
				return err
			},
			stack.IngestService: func(ctx context.Context) error { return t.publishWith(ctx, of, a) },
			stack.QueryService: func(ctx context.Context) error {
				_, err := of.Messages(client.MessageQuery{Limit: 1}).Next(ctx)
				return err
			},
		} {
			using.Go(func() { t.useToken(ctx, g, service, use) })
		}
		return g, func(ctx context.Context) error { return t.site.Admin.RevokeToken(ctx, a.tenant, issued.ID) }, nil
	}, func(r *Revocations) { r.Tokens++ })
}

// revokeCredentials issues AMQP credentials, publishes with each of them, revokes it and tries it on, until ctx ends.
func (t *Traffic) revokeCredentials(ctx context.Context) {
	t.revoke(ctx, func(ctx context.Context, using *sync.WaitGroup, a *account) (*grant, func(context.Context) error, error) {
		issued, err := t.site.Admin.IssueCredential(ctx, a.tenant, "of a run")
		if err != nil {
			return nil, nil, err
		}
		g := &grant{what: fmt.Sprintf("the credential %s of tenant %s", issued.ID, a.tenant)}
		using.Go(func() { t.useCredential(ctx, g, a, issued) })
		return g, func(ctx context.Context) error { return t.site.Admin.RevokeCredential(ctx, a.tenant, issued.ID) }, nil
	}, func(r *Revocations) { r.Credentials++ })
}

// revoke has begin issue one grant after the other and use it in the background, and revokes each after a while. count counts those
// that are revoked.
func (t *Traffic) revoke(
	ctx context.Context,
	begin func(ctx context.Context, using *sync.WaitGroup, a *account) (g *grant, revoke func(context.Context) error, err error),
	count func(*Revocations),
) {
	var using sync.WaitGroup
	defer using.Wait()
	dice := t.dice()
	for ctx.Err() == nil {
		g, revoke, err := begin(ctx, &using, t.tenants[dice.IntN(len(t.tenants))])
		if err == nil {
			_ = retry.Sleep(ctx, grantLeast+rand.N(grantMost-grantLeast)) //nolint:gosec // timing is not reproducible anyway
			if ctx.Err() != nil {
				return
			}
			g.asked.Store(true)
			err = revoke(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			t.fail(fmt.Errorf("issue or revoke: %w", err))
			_ = retry.Sleep(ctx, longestPause)
			continue
		}
		now := time.Now()
		g.revoked.Store(&now)
		t.mu.Lock()
		count(&t.revoked)
		t.mu.Unlock()
	}
}

// useToken makes a request of one service again and again until ctx ends. A token that was not revoked is never refused.
func (t *Traffic) useToken(ctx context.Context, g *grant, service string, use func(context.Context) error) {
	for ctx.Err() == nil {
		began := time.Now()
		err := use(ctx)
		refused, problem := errors.AsType[*client.Problem](err)
		switch {
		case problem && refused.Status == http.StatusUnauthorized:
			t.declined(g, service)
			if !g.asked.Load() {
				t.found.add(faultRefused, "%s refuses %s, which was not revoked: %v", service, g.what, err)
			}
		case err == nil, problem && refused.Status < http.StatusInternalServerError && refused.Status != http.StatusRequestTimeout:
			t.accepted(g, service, began)
		}
		_ = retry.Sleep(ctx, g.pause())
	}
}

// publishWith publishes a new message once as of, and as everybody else does if it is not known whether it was accepted.
func (t *Traffic) publishWith(ctx context.Context, of *client.Client, a *account) error {
	m := a.offer(1, never)[0]
	limited := a.isLimited()
	_, err := of.Publish(ctx, a.publishing(m))
	outcomes := []outcome{outcomeOf(err)}
	t.noteLimits(a, limited, outcomes, []error{err})
	if refused, ok := errors.AsType[*client.Problem](err); ok && refused.Status == http.StatusUnauthorized {
		outcomes[0] = outcomeDeclined
	}
	a.resolve(m, outcomes[0])
	if outcomes[0] == outcomeUnknown {
		m.maybeAccepted = true
		t.deliver(ctx, a, wayHTTP, []item{m}, ignore)
	}
	return err
}

// useCredential publishes with a credential, and logs in again whenever the connection has ended, until ctx ends.
func (t *Traffic) useCredential(ctx context.Context, g *grant, a *account, issued client.IssuedCredential) {
	for ctx.Err() == nil {
		began := time.Now()
		connection, err := amqp.DialConfig(issued.URL, amqp.Config{Heartbeat: heartbeat, Dial: amqp.DefaultDial(dialTimeout)})
		if err == nil {
			t.accepted(g, string(backing.ServiceRabbitMQ), began)
			err = t.publishThrough(ctx, connection, g, a, issued)
			_ = connection.CloseDeadline(time.Now().Add(dialTimeout)) // as a rule it has ended, and that is why
		}
		if refused, ok := errors.AsType[*amqp.Error](err); ok && refused.Code == amqp.AccessRefused {
			t.declined(g, string(backing.ServiceRabbitMQ))
		}
		_ = retry.Sleep(ctx, g.pause())
	}
}

// errNotConfirmed says that the broker has not taken a message.
var errNotConfirmed = errors.New("the message is not confirmed")

// publishThrough publishes new messages on a connection, one after the other, until it ends or ctx does.
func (t *Traffic) publishThrough(ctx context.Context, connection *amqp.Connection, g *grant, a *account, issued client.IssuedCredential) error {
	channel, err := connection.Channel()
	if err != nil {
		return err
	}
	if err := channel.Confirm(false); err != nil {
		return err
	}
	returned := channel.NotifyReturn(make(chan amqp.Return, 1)) // one message at a time
	for ctx.Err() == nil {
		m := a.offer(1, never)[0]
		a.publishesDirectly(m)
		began := time.Now()
		if err := publishOne(ctx, channel, returned, issued, amqp.Publishing{
			MessageId: a.id(m.seq).String(), DeliveryMode: amqp.Persistent, ContentType: "application/json", Body: a.payload(m.seq, 0),
		}); err != nil {
			m.maybeAccepted = true
			t.deliver(ctx, a, wayAMQP, []item{m}, ignore) // as everybody else does
			return err
		}
		t.accepted(g, string(backing.ServiceRabbitMQ), began)
		a.resolve(m, outcomeConfirmed)
		_ = retry.Sleep(ctx, usePause)
	}
	return nil
}

// publishOne publishes a message and returns when it is confirmed. Any error means that it may have been accepted.
func publishOne(ctx context.Context, channel *amqp.Channel, returned <-chan amqp.Return, issued client.IssuedCredential, m amqp.Publishing) error {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	confirm, err := channel.PublishWithDeferredConfirmWithContext(ctx, issued.Exchange, issued.RoutingKey, true, false, m)
	if err != nil {
		return err
	}
	acked, err := confirm.WaitContext(ctx)
	if err != nil {
		return err
	}
	select {
	case <-returned: // which comes before its confirm
		return errNotConfirmed
	default:
	}
	if !acked {
		return errNotConfirmed
	}
	return nil
}
