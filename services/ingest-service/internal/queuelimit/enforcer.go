package queuelimit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/management"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

// Registry is the registry of tenants; store.Store reads it.
type Registry interface {
	// RegistryVersion changes with every change of the registry.
	RegistryVersion(ctx context.Context) (string, error)
	// Registered is a page of the tenants that are not deleted, in the order of their ids; an empty one is the end.
	Registered(ctx context.Context, behind uuid.UUID) ([]store.Registration, error)
}

// Everything is done at multiples of [Config.Interval].
const (
	// defaultInterval is between two looks at whether the registry has changed. What changes in between is written together.
	defaultInterval = time.Second
	// retryLongest is the longest pause after a fault, give or take a half: a login that is refused is so for hours.
	retryLongest = 10
	// compareEvery is between two comparisons with the policies that are there, although nothing was changed.
	compareEvery = 5
	// standbyEvery is the same for an instance that does not lead: the one that does may be of a version that knows nothing of this.
	standbyEvery = 30
	// verifyEvery is between two looks at the queues, verifyDiffering while some are held to something else, and verifyPause after a
	// change: that is the shortest time, as long as a look takes no more than a tenth of it.
	verifyEvery     = 60
	verifyDiffering = 15
	verifyPause     = 5
	verifyShare     = 10
)

// Config is whose queues are held to their limits, and who is told.
type Config struct {
	// ManagementURL and URL are those of the broker, see [management.New].
	ManagementURL, URL string
	// Leads reports whether this instance is the one that writes, as far as it knows.
	Leads func() bool
	// Changed is told of a tenant for which [Enforcer.Of] gives another answer now.
	Changed func(tenant uuid.UUID)
	// Degrade is told what is wrong with queues, nil for nothing.
	Degrade func(error)
	// Interval is between two looks at the registry; others are multiples of it. Default: a second.
	Interval time.Duration
}

// times is so many intervals.
func (c Config) times(n int) time.Duration { return time.Duration(n) * c.Interval }

// Enforcer has the broker hold all queues to the limits of their tenants.
type Enforcer struct {
	cfg      Config
	broker   broker
	registry Registry
	log      *zap.Logger

	// Owned by the goroutine of Run.
	version    string               // of the registry, when wanted was read
	wanted     map[uuid.UUID]Limits // of all tenants that are not deleted
	level      int                  // that they were rounded down by
	compared   time.Time            // when the policies were found to be, or made, what is wanted
	unverified bool                 // something has changed since the queues were looked at
	differing  bool                 // some were held to something else then
	verified   map[uuid.UUID]Limits // what was wanted of the queues that were looked at
	verifiedAt time.Time            // when that was
	verifyTook time.Duration        // how long
	failing    bool                 // the last round has failed, which was logged
	dropped    string               // queues that drop messages, as was logged

	failures prometheus.Counter
	dropping prometheus.Gauge
	differ   *prometheus.GaugeVec

	mu       sync.Mutex
	findings map[uuid.UUID]contract.QueueLimits // guarded by mu: of queues that are held to something else
}

// New returns an enforcer and registers its metrics on reg.
func New(cfg Config, registry Registry, reg prometheus.Registerer, log *zap.Logger) (*Enforcer, error) {
	api, err := management.New(cfg.ManagementURL, cfg.URL)
	if err != nil {
		return nil, err
	}
	if cfg.Interval == 0 {
		cfg.Interval = defaultInterval
	}
	e := &Enforcer{
		cfg: cfg, broker: broker{api}, registry: registry, log: log,
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mtm_queue_limit_failures_total", Help: "Rounds in which limits of queues could not be written as policies, or verified; they are repeated.",
		}),
		dropping: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mtm_queues_dropping",
			Help: "Queues that a policy makes drop their oldest messages instead of refusing new ones; 0 on instances that do not look.",
		}),
		differ: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "mtm_queue_limits_differ",
			Help: "Tenants whose queue is not held to their limits, by the reason in their status; 0 on instances that do not look.",
		}, []string{"reason"}),
	}
	reg.MustRegister(e.failures, e.dropping, e.differ)
	e.publish(nil)
	cfg.Degrade(nil)
	return e, nil
}

// Unmanaged is [Enforcer.Of] where there is no management API.
func Unmanaged(_ uuid.UUID, limits contract.Limits) *contract.QueueLimits {
	if of(limits).IsZero() {
		return nil
	}
	return &contract.QueueLimits{
		Reason: contract.QueueLimitsNotManaged, Detail: "ingest-service has no rabbitmq.management_url",
	}
}

// Of tells what a tenant's queue is held to while that is not what limits, those in force for it, say; nil while it is, and on an instance
// that does not lead.
func (e *Enforcer) Of(tenant uuid.UUID, limits contract.Limits) *contract.QueueLimits {
	if of(limits).IsZero() {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if found, differs := e.findings[tenant]; differs {
		return &found
	}
	return nil
}

// Run enforces limits until ctx ends. Whatever fails is tried again.
func (e *Enforcer) Run(ctx context.Context) error {
	pauses := retry.Backoff(e.cfg.Interval, e.cfg.times(retryLongest))
	for ctx.Err() == nil {
		pause := e.cfg.Interval
		if err := e.round(ctx); err != nil {
			pause = pauses.NextBackOff()
			e.reportFailure(ctx, err)
		} else {
			pauses.Reset()
			if e.failing {
				e.failing = false
				e.log.Info("limits of queues are enforced again")
			}
		}
		_ = retry.Sleep(ctx, pause) // the loop ends with ctx
	}
	return nil
}

func (e *Enforcer) reportFailure(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	e.failures.Inc()
	if !e.failing {
		e.log.Warn("limits of queues could not be enforced; it will be repeated", zap.Error(err))
	}
	e.failing = true
}

// round does what is due.
func (e *Enforcer) round(ctx context.Context) error {
	leads := e.cfg.Leads()
	if !leads {
		e.stand()
		if time.Since(e.compared) < e.cfg.times(standbyEvery) {
			return nil
		}
	}
	changed, err := e.learn(ctx)
	if err != nil {
		return err
	}
	if !changed && !e.failing && leads && time.Since(e.compared) < e.cfg.times(compareEvery) {
		return e.verifyIfDue(ctx)
	}
	err = e.enforce(ctx)
	if leads {
		if err == nil {
			err = e.verifyIfDue(ctx)
		}
		if err != nil {
			e.doubt(err)
		}
	}
	return err
}

// stand has an instance that does not lead say nothing.
func (e *Enforcer) stand() {
	e.publish(nil)
	e.verified, e.unverified = nil, true
	e.dropping.Set(0)
	if e.dropped != "" {
		e.dropped = ""
		e.cfg.Degrade(nil)
	}
}

// learn reads what is wanted if the registry has changed, and reports whether it is something else now.
func (e *Enforcer) learn(ctx context.Context) (changed bool, err error) {
	version, err := e.registry.RegistryVersion(ctx)
	if err != nil || version == e.version {
		return false, err
	}
	wanted := make(map[uuid.UUID]Limits, len(e.wanted))
	for behind := uuid.Nil; ; {
		page, err := e.registry.Registered(ctx, behind)
		if err != nil {
			return false, err
		}
		if len(page) == 0 {
			break
		}
		for _, registration := range page {
			if behind, err = uuid.Parse(registration.Spec.TenantID); err != nil {
				return false, fmt.Errorf("read the registry: %w", err)
			}
			wanted[behind] = of(registration.Spec.Limits)
		}
	}
	changed = e.wanted == nil || !maps.Equal(wanted, e.wanted)
	e.version, e.wanted = version, wanted
	if changed {
		e.unverified, e.compared = true, time.Time{}
	}
	return changed, nil
}

// enforce makes the policies what is wanted.
func (e *Enforcer) enforce(ctx context.Context) error {
	there, err := e.broker.policies(ctx)
	if err != nil {
		return err
	}
	p := newPlan(e.wanted, base(there))
	if p.level > e.level {
		e.log.Warn("more different limits of queues are in use than there may be policies; they are rounded down", zap.Int("level", p.level))
	}
	e.level = p.level
	changes, err := e.broker.write(ctx, p, there)
	if changes > 0 {
		e.unverified = true
		e.log.Info("policies for limits of queues were written", zap.Int("changes", changes), zap.Int("policies", len(p.policies)))
	}
	if err != nil {
		return err
	}
	e.compared = time.Now()
	return nil
}

// verifyIfDue looks at what the queues are held to.
func (e *Enforcer) verifyIfDue(ctx context.Context) error {
	pause := e.cfg.times(verifyEvery)
	switch {
	case e.unverified:
		pause = e.cfg.times(verifyPause)
	case e.differing:
		pause = e.cfg.times(verifyDiffering)
	}
	if time.Since(e.verifiedAt) < max(pause, min(verifyShare*e.verifyTook, e.cfg.times(verifyEvery))) {
		return nil
	}
	began := time.Now()
	findings := make(map[uuid.UUID]contract.QueueLimits)
	verified := make(map[uuid.UUID]Limits, len(e.wanted))
	var dropping []queue
	unsure := false
	err := e.broker.queues(ctx, func(q queue) {
		if q.drops() {
			dropping = append(dropping, q)
		}
		name, _ := contract.TenantOfQueue(q.Name)
		id, err := uuid.Parse(name)
		wanted, known := e.wanted[id]
		if err != nil || !known {
			return
		}
		finding, sure := q.judge(wanted, e.level)
		if finding != nil {
			findings[id] = *finding
		}
		if sure {
			verified[id] = wanted
		}
		unsure = unsure || !sure
	})
	if err != nil {
		return err
	}
	e.verified, e.unverified, e.differing = verified, unsure, len(findings)+len(dropping) > 0
	e.verifiedAt, e.verifyTook = time.Now(), time.Since(began)
	e.report(dropping)
	e.publish(findings)
	return nil
}

// judge says what the broker holds a queue to, if that is not what is wanted, which is rounded down by level; nil if it is. It is not sure
// while the policies of ours have not reached the queue.
func (q queue) judge(wanted Limits, level int) (finding *contract.QueueLimits, sure bool) {
	have, rounded := q.inForce(), wanted.roundDown(level)
	holds := func(wanted Limits) bool {
		return (wanted.Messages == 0 || have.Messages == wanted.Messages) && (wanted.Bytes == 0 || have.Bytes == wanted.Bytes)
	}
	differs := func(reason contract.QueueLimitsReason, detail string) (*contract.QueueLimits, bool) {
		return &contract.QueueLimits{Reason: reason, MaxMessages: have.Messages, MaxBytes: have.Bytes, Detail: detail}, true
	}
	argument := q.Arguments.number(argumentPrefix + keyMaxBytes)
	switch {
	case wanted.IsZero(), holds(wanted) && !q.drops():
		return nil, true
	case q.Policy != "" && !isOurs(q.Policy):
		return differs(contract.QueueLimitsForeignPolicy, "another policy applies to the queue: "+q.Policy)
	case argument > 0 && argument < rounded.Bytes:
		return differs(contract.QueueLimitsArgument, fmt.Sprintf("the argument x-max-length-bytes of the queue, %d, counts until it is made again", argument))
	case q.OperatorPolicy != "" && q.Policy != "":
		return differs(contract.QueueLimitsForeignPolicy, "an operator policy applies to the queue: "+q.OperatorPolicy)
	case rounded != wanted && holds(rounded):
		return differs(contract.QueueLimitsRounded, fmt.Sprintf("more than %d different limits are in use", maxCombinations))
	}
	return nil, false
}

// doubt says of each tenant whose limits are not known to be in force why they may not be.
func (e *Enforcer) doubt(err error) {
	finding := contract.QueueLimits{Reason: contract.QueueLimitsUnavailable, Detail: "the broker's management API cannot be reached; it is tried again"}
	if errors.Is(err, management.ErrRefused) {
		finding = contract.QueueLimits{Reason: contract.QueueLimitsRefused, Detail: "the broker's management API refuses the login of ingest-service"}
	}
	e.mu.Lock()
	before := e.findings
	e.mu.Unlock()
	findings := make(map[uuid.UUID]contract.QueueLimits)
	for id, wanted := range e.wanted {
		verified, known := e.verified[id]
		switch last, differed := before[id]; {
		case wanted.IsZero():
		case !known || verified != wanted:
			findings[id] = finding
		case differed:
			findings[id] = last
		}
	}
	e.publish(findings)
}

// publish makes findings known.
func (e *Enforcer) publish(findings map[uuid.UUID]contract.QueueLimits) {
	counts := make(map[contract.QueueLimitsReason]int)
	for _, finding := range findings {
		counts[finding.Reason]++
	}
	for _, reason := range contract.QueueLimitsReasons() {
		e.differ.WithLabelValues(string(reason)).Set(float64(counts[reason]))
	}
	e.mu.Lock()
	before := e.findings
	e.findings = findings
	e.mu.Unlock()
	for id, finding := range findings {
		if last, known := before[id]; !known || last != finding {
			e.cfg.Changed(id)
		}
	}
	for id := range before {
		if _, still := findings[id]; !still {
			e.cfg.Changed(id)
		}
	}
}

// maxShown is how many queues are named.
const maxShown = 5

// report tells of queues that drop messages.
func (e *Enforcer) report(dropping []queue) {
	e.dropping.Set(float64(len(dropping)))
	var shown []string
	for _, q := range dropping[:min(maxShown, len(dropping))] {
		shown = append(shown, fmt.Sprintf("%s (%s)", q.Name, q.Policy))
	}
	named := strings.Join(shown, " ")
	if named == e.dropped {
		return
	}
	e.dropped = named
	if named == "" {
		e.log.Info("no policy makes queues drop messages any more")
		e.cfg.Degrade(nil)
		return
	}
	err := fmt.Errorf("%w: %d, such as %s", errDropping, len(dropping), named)
	e.log.Error("remove overflow from the policy; see the runbook", zap.Error(err))
	e.cfg.Degrade(err)
}

// errDropping says that messages that were accepted may be lost.
var errDropping = errors.New("a policy makes queues drop their oldest messages when they are full")
