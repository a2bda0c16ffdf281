package traffic

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/e2e/internal/platform"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

// Options say how much traffic there is.
type Options struct {
	Tenants int
	// Seed makes ids, contents and choices reproducible; the timing of a machine is not.
	Seed int64
	// HTTPRate and AMQPRate are messages a second over all tenants; 0 is as fast as it goes.
	HTTPRate, AMQPRate float64
	// PoisonShare is the share of messages over AMQP that cannot be stored.
	PoisonShare float64
	// PayloadBytes is the length of a payload, about; 256 if 0.
	PayloadBytes int
	// Limits has limits of tenants changed during the run, and some messages larger than they allow.
	Limits bool
	// Retention has some tenants keep their messages for seconds only while [Traffic.Run] runs.
	Retention bool
	// Revocation has tokens and AMQP credentials issued, used and revoked during the run.
	Revocation bool
}

// Site is where a platform is reached.
type Site struct {
	TenantURL, IngestURL, QueryURL string
	// The servers themselves: what producers and the judge see must not depend on the ways that are disturbed.
	DatabaseURL, RabbitMQURL, RabbitMQManagementURL string
	// Token is one that may do everything that the applications of a tenant do.
	Token func(tenant uuid.UUID) (string, error)
	Admin *platform.Admin
	// Transport, unless nil, is what requests go through.
	Transport http.RoundTripper
}

// Traffic is producers, followers and the ledger of what they did. Its methods are called in the order Start, Run,
// Drain, Verdict, Close; those of fault.Probe and fault.Churn during Run.
type Traffic struct {
	site    Site
	opts    Options
	ledger  *ledger
	clients *clients
	found   findings

	operator  *pgxpool.Pool
	publisher *publish.Publisher
	hangUp    func() error // ends the connection to the broker

	probe     *account
	tenants   []*account // those with producers
	producers []*producer
	churned   atomic.Uint64 // numbers the choices of Churn

	limitChanges, rateLimited, tooLarge atomic.Int64

	mu       sync.Mutex
	armed    [hostileKinds]int64 // guarded by mu: confirmed messages, by kind
	remarks  map[string]int64    // guarded by mu: answers that a healthy platform never gives, by their code
	failures []error             // guarded by mu
	revoked  Revocations         // guarded by mu
}

// New makes the traffic of p.
func New(p *platform.Platform, opts Options) (*Traffic, error) {
	return newTraffic(Site{
		TenantURL: p.Stack.Tenant.URL, IngestURL: p.Stack.Ingest.URL, QueryURL: p.Stack.Query.URL,
		DatabaseURL: p.Backing.DatabaseURL, RabbitMQURL: p.Backing.RabbitMQURL, RabbitMQManagementURL: p.Backing.RabbitMQManagementURL,
		Token: p.Stack.TenantToken, Admin: p.Admin(),
	}, opts)
}

func newTraffic(site Site, opts Options) (*Traffic, error) {
	if site.Transport == nil {
		site.Transport = &http.Transport{MaxIdleConnsPerHost: 128, IdleConnTimeout: 10 * time.Second}
	}
	if opts.PayloadBytes == 0 {
		opts.PayloadBytes = 256
	}
	clients, err := newClients(site)
	if err != nil {
		return nil, err
	}
	ledger := newLedger(opts.Seed, opts.PayloadBytes)
	ledger.large = opts.Limits
	return &Traffic{
		site: site, opts: opts, ledger: ledger, clients: clients,
		hangUp: func() error { return nil }, remarks: make(map[string]int64), revoked: newRevocations(),
	}, nil
}

// workers of a new tenant.
const workers = 3

// Start connects, and creates the tenants, and returns when all of them run.
func (t *Traffic) Start(ctx context.Context) error {
	var err error
	if t.operator, err = pgxpool.New(ctx, t.site.DatabaseURL); err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	t.dial(context.WithoutCancel(ctx))

	random := rand.New(rand.NewPCG(uint64(t.opts.Seed), 0)) //nolint:gosec // reproducible, not secret
	open := func() *account {
		var id uuid.UUID
		for i := range id {
			id[i] = byte(random.Uint32())
		}
		id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
		return t.ledger.open(id)
	}
	t.probe = open()
	t.ledger.setNeighbour(t.probe.tenant)
	for range t.opts.Tenants {
		t.tenants = append(t.tenants, open())
	}
	const atOnce = 4
	group, creating := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for _, a := range t.ledger.all() {
		group.Go(func() error {
			if err := t.site.Admin.Create(creating, a.tenant, workers); err != nil {
				return err
			}
			return t.site.Admin.AwaitState(creating, a.tenant, client.ConsumerRunning, workers)
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("create the tenants: %w", err)
	}
	if t.opts.Retention {
		if err := t.retain(ctx); err != nil {
			return err
		}
	}
	t.hire()
	return nil
}

// dial keeps a connection to the broker until hangUp.
func (t *Traffic) dial(ctx context.Context) {
	const channels = 4
	ctx, cancel := context.WithCancel(ctx)
	link := conn.NewLink(conn.Config{URL: t.site.RabbitMQURL}, "traffic", zap.NewNop(), nil)
	t.publisher = publish.New(link, channels, zap.NewNop())
	var group errgroup.Group
	group.Go(func() error { return link.Run(ctx) })
	group.Go(func() error { return t.publisher.Run(ctx) })
	t.hangUp = func() error {
		cancel()
		return group.Wait()
	}
}

// singleShare is the share of messages over HTTP that go one by one: a request each is what costs most.
const singleShare = 0.3

// singleRate is what a tenant sends one by one where the rate is not limited.
const singleRate = 5

// hire makes the producers: three for each tenant, one a way.
func (t *Traffic) hire() {
	t.producers = nil
	each := 1 / float64(max(len(t.tenants), 1))
	for n, a := range t.tenants {
		rates := map[way]float64{
			wayHTTP: t.opts.HTTPRate * singleShare * each, wayBatch: t.opts.HTTPRate * (1 - singleShare) * each,
			wayAMQP: t.opts.AMQPRate * each,
		}
		if t.opts.HTTPRate == 0 {
			rates[wayHTTP] = singleRate
		}
		for _, way := range []way{wayHTTP, wayBatch, wayAMQP} {
			random := rand.New(rand.NewPCG(uint64(t.opts.Seed), uint64(n)<<8|uint64(way)+1)) //nolint:gosec // reproducible, not secret
			t.producers = append(t.producers, &producer{Traffic: t, account: a, way: way, rate: rates[way], random: random})
		}
	}
}

// SetRates changes how many messages a second are published over all tenants, from the next [Traffic.Run] on.
func (t *Traffic) SetRates(overHTTP, overAMQP float64) {
	t.opts.HTTPRate, t.opts.AMQPRate = overHTTP, overAMQP
	t.hire()
}

// Run produces and reads until ctx ends.
func (t *Traffic) Run(ctx context.Context) error {
	var group sync.WaitGroup
	for _, a := range append([]*account{t.probe}, t.tenants...) {
		t.read(ctx, &group, a)
	}
	for _, p := range t.producers {
		group.Go(func() { p.run(ctx) })
	}
	if t.opts.Limits {
		for range limiters {
			group.Go(func() { t.limit(ctx) })
		}
	}
	if t.opts.Revocation {
		group.Go(func() { t.revokeTokens(ctx) })
		group.Go(func() { t.revokeCredentials(ctx) })
	}
	group.Wait()
	t.keepAll(ctx)
	return nil
}

// fail notes that something was not done that has nothing to do with a message.
func (t *Traffic) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failures = append(t.failures, err)
}

// Failures are what an operator could not do during the run.
func (t *Traffic) Failures() []error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.failures)
}

// probePause is between two looks of a follower whose meeting of a message is waited for.
const probePause = 50 * time.Millisecond

func (t *Traffic) read(ctx context.Context, group *sync.WaitGroup, a *account) {
	every := followPause
	if a == t.probe {
		every = probePause
	}
	group.Go(func() { t.follow(ctx, a, every) })
}

// Progress is how far the traffic is.
type Progress struct {
	Tenants                   int
	Offered, Confirmed, Met   int64
	Unconfirmed, Unmet, Wrong int64
}

// Progress counts.
func (t *Traffic) Progress() Progress {
	var sum counts
	accounts := t.ledger.in(phaseLive)
	for _, a := range accounts {
		sum.plus(a.counts())
	}
	return Progress{
		Tenants: len(accounts), Offered: sum.offered, Confirmed: sum.confirmed, Met: sum.seen,
		Unconfirmed: sum.unknown, Unmet: sum.unseen, Wrong: t.found.total(),
	}
}

const (
	// drainTimeout is how long nothing may change before a drain is given up. The longest that anything waits by design
	// is a retry tier of 30 s.
	drainTimeout = time.Minute
	drainPoll    = 500 * time.Millisecond
)

// errStuck says that something that was confirmed does not arrive.
var errStuck = errors.New("nothing moves any more")

// Drain repeats what has no outcome, ends what was begun, and reads, until everything that was confirmed was read or is a
// dead letter, and every queue is empty. It gives up when nothing has changed for a minute. say is told of the progress.
func (t *Traffic) Drain(ctx context.Context, say func(format string, args ...any)) error {
	working, stop := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer stop()
	for _, a := range t.ledger.in(phaseLive) {
		t.read(working, &group, a)
		group.Go(func() { t.clear(working, a) })
	}
	for _, a := range t.ledger.in(phaseDeleting) {
		group.Go(func() { _ = t.remove(working, a) }) // one that is not deleted in the end is counted
	}
	moved, last := time.Now(), rest{}
	for tick := 0; ; tick++ {
		left, err := t.left(ctx)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("drain: %w", context.Cause(ctx))
		case err != nil:
			left = last // the database or the broker is away; the wait is limited all the same
		case left.none():
			return nil
		}
		if left != last {
			moved, last = time.Now(), left
		}
		if time.Since(moved) > drainTimeout {
			return errors.Join(fmt.Errorf("drain: %w: %s", errStuck, left), err)
		}
		if tick%10 == 0 {
			say("draining: %s", left)
		}
		_ = retry.Sleep(ctx, drainPoll)
	}
}

// clear publishes what has no outcome until all of it has one, or ctx ends.
func (t *Traffic) clear(ctx context.Context, a *account) {
	for ctx.Err() == nil {
		overHTTP, direct := a.unresolved(largestBatch)
		if len(overHTTP)+len(direct) == 0 {
			return
		}
		t.deliver(ctx, a, wayBatch, overHTTP, ignore)
		t.deliver(ctx, a, wayAMQP, direct, ignore)
		_ = retry.Sleep(ctx, shortestPause) // what is refused now may have been accepted before, and stays without an outcome
	}
}

// rest is what is still on its way.
type rest struct{ unconfirmed, unmet, unburied, queued, deleting int64 }

func (r rest) none() bool { return r == rest{} }

func (r rest) String() string {
	return fmt.Sprintf("%d unconfirmed, %d confirmed and not read, %d poisoned and no dead letter yet, %d in queues, %d tenants being deleted",
		r.unconfirmed, r.unmet, r.unburied, r.queued, r.deleting)
}

// left counts what is still on its way.
func (t *Traffic) left(ctx context.Context) (rest, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r := rest{deleting: int64(len(t.ledger.in(phaseDeleting)))}
	var buried int64
	accounts := t.ledger.in(phaseLive)
	if err := t.lookForRemoved(ctx, accounts); err != nil {
		return rest{}, err
	}
	tenants := make([]uuid.UUID, len(accounts))
	for i, a := range accounts {
		c := a.counts()
		r.unconfirmed, r.unmet, r.unburied = r.unconfirmed+c.unknown, r.unmet+c.unseen, r.unburied+c.poisonConfirmed
		tenants[i] = a.tenant
	}
	// Copies of other tenants' messages are not waited for.
	err := t.operator.QueryRow(ctx, `SELECT count(DISTINCT (tenant_id, message_id)) FROM dead_letters
		WHERE tenant_id = ANY($1) AND NOT (tenant_id = $2 AND reason = $3)`,
		tenants, t.probe.tenant, contract.ReasonForeignKey).Scan(&buried)
	if err != nil {
		return rest{}, fmt.Errorf("count dead letters: %w", err)
	}
	overLimit, err := t.overLimit(ctx, accounts)
	if err != nil {
		return rest{}, err
	}
	r.unburied = max(r.unburied-(buried-overLimit), 0)
	queues, err := t.queues(ctx)
	if err != nil {
		return rest{}, err
	}
	for _, q := range queues {
		r.queued += q.Messages
	}
	return r, nil
}

// overLimit is how many good messages a limit of the payload has made dead letters. Nobody waits for those to be read.
func (t *Traffic) overLimit(ctx context.Context, accounts []*account) (n int64, err error) {
	for _, a := range accounts {
		if !a.isSqueezed() {
			continue
		}
		rows, err := t.operator.Query(ctx, `SELECT DISTINCT message_id FROM dead_letters WHERE tenant_id = $1 AND reason = $2 AND message_id IS NOT NULL`,
			a.tenant, contract.ReasonTooLarge)
		if err != nil {
			return 0, fmt.Errorf("look for large dead letters: %w", err)
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil {
			return 0, fmt.Errorf("look for large dead letters: %w", err)
		}
		n += a.bury(ids)
	}
	return n, nil
}

// remark counts an answer that says neither yes nor "not now".
func (t *Traffic) remark(a *account, err error) {
	refused, ok := errors.AsType[*client.Problem](err)
	if !ok || refused.Status == http.StatusServiceUnavailable || !a.isLive() {
		return
	}
	what := fmt.Sprintf("%d %s", refused.Status, refused.Code)
	if refused.Code == "" {
		what += "without a problem document: " + refused.Detail
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.remarks[what]++
}

// Remarks are answers that a client does not expect of a platform in trouble: neither success nor 503.
func (t *Traffic) Remarks() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var lines []string
	for what, n := range t.remarks {
		lines = append(lines, fmt.Sprintf("%d × %s", n, what))
	}
	slices.Sort(lines)
	return lines
}

// Close ends the connections. The tenants stay.
func (t *Traffic) Close() error {
	(&http.Client{Transport: t.site.Transport}).CloseIdleConnections()
	if t.operator != nil {
		t.operator.Close()
	}
	return t.hangUp()
}
