package queuelimit_test

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/queuelimit"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// slack is how far a queue goes beyond its limit with one publisher: what is on its way when the limit is reached is accepted.
const slack = 2

// An operator lowers, raises and lifts limits of queues that exist, and each refuses from there on; what is in a queue stays whatever the limit.
func TestLimitsOfQueuesThatExist(t *testing.T) {
	t.Parallel()
	for _, queueType := range []string{amqp.QueueTypeQuorum, amqp.QueueTypeClassic} {
		t.Run(queueType, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			options := provision.QueueOptions{Type: queueType, MaxLengthBytes: 1 << 20}
			byMessages, byBytes, unlimited := w.tenant(options), w.tenant(options), w.tenant(options)
			w.limit(byMessages, contract.Limits{QueueMaxMessages: 10})
			w.limit(byBytes, contract.Limits{QueueMaxBytes: 5000})
			w.limit(unlimited, contract.Limits{})
			w.start()
			w.awaitInForce(byMessages, 10, 0)
			w.awaitInForce(byBytes, 0, 5000)

			require.InDelta(t, 10, w.publish(byMessages, 50, 1), slack)
			require.InDelta(t, 5, w.publish(byBytes, 50, 1000), slack)
			require.Equal(t, 50, w.publish(unlimited, 50, 1000))

			w.limit(byMessages, contract.Limits{QueueMaxMessages: 20})
			w.limit(byBytes, contract.Limits{QueueMaxBytes: 10_000})
			w.awaitInForce(byMessages, 20, 0)
			w.awaitInForce(byBytes, 0, 10_000)
			w.publish(byMessages, 50, 1)
			w.publish(byBytes, 50, 1000)
			require.InDelta(t, 20, w.depth(byMessages), slack)
			require.InDelta(t, 10, w.depth(byBytes), slack)

			before := w.depth(byMessages)
			w.limit(byMessages, contract.Limits{QueueMaxMessages: 3, QueueMaxBytes: 1 << 19})
			w.awaitInForce(byMessages, 3, 1<<19)
			require.Zero(t, w.publish(byMessages, 1, 1))
			require.Equal(t, before, w.depth(byMessages), "a limit below what is there drops nothing")

			w.limit(byMessages, contract.Limits{})
			w.awaitInForce(byMessages, 0, 0)
			require.Equal(t, 50, w.publish(byMessages, 50, 1))
			for _, id := range []uuid.UUID{byMessages, byBytes, unlimited} {
				w.awaitReason(id, "")
			}

			w.registry.set(func(all map[uuid.UUID]contract.Limits) { clear(all) })
			require.Eventually(t, func() bool { return len(w.policyNames()) == 0 }, waitLimit, poll, "tenants that are gone are named no more")
			require.Zero(t, w.metric("mtm_queue_limit_failures_total"))
		})
	}
}

// A default that most tenants have is one policy, and in force for the next tenant with its queue.
func TestMostCommonLimitsAreOnePolicy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 5 {
		w.limit(uuid.New(), contract.Limits{QueueMaxMessages: 7})
	}
	special, unlimited := w.tenant(provision.QueueOptions{}), w.tenant(provision.QueueOptions{})
	w.limit(special, contract.Limits{QueueMaxMessages: 9})
	w.limit(unlimited, contract.Limits{})
	w.start()
	w.awaitInForce(special, 9, 0)
	w.awaitInForce(unlimited, 0, 0)
	require.Len(t, w.policyNames(), 3)
	require.Contains(t, w.policyNames(), queuelimit.BaseName)
	newcomer := w.tenant(provision.QueueOptions{})
	w.awaitInForce(newcomer, 7, 0)
}

// A raise above the argument of a queue does nothing yet: the operator is told, and it acts once the queue has been made again.
func TestRaiseAboveTheArgument(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	options := provision.QueueOptions{MaxLengthBytes: 2000}
	id := w.tenant(options)
	w.limit(id, contract.Limits{QueueMaxBytes: 10_000})
	w.start()
	finding := w.awaitReason(id, contract.QueueLimitsArgument)
	require.EqualValues(t, 2000, finding.MaxBytes)
	require.Contains(t, finding.Detail, "2000")
	require.InDelta(t, 1, w.metric("mtm_queue_limits_differ"), 0)
	require.InDelta(t, 2, w.publish(id, 50, 1000), slack)

	options.Raised = func(tenant string) int64 {
		require.Equal(t, id.String(), tenant)
		return 10_000
	}
	w.do(func(ch *amqp.Channel) error {
		_, err := ch.QueueDelete(contract.QueueName(id.String()), false, false, false)
		return err
	})
	w.declare(id, options)
	require.InDelta(t, 10, w.publish(id, 50, 1000), slack)
	w.awaitReason(id, "")
	w.limit(id, contract.Limits{QueueMaxBytes: 1000}) // and can be lowered
	w.awaitInForce(id, 0, 1000)
}

// Somebody else's policies are theirs. One that keeps a limit from being in force, or makes queues drop messages that were accepted, is
// noticed; what somebody has done to ours is put right.
func TestPoliciesOfOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	policies := "/api/policies/" + w.api.VHost() + "/"
	dropping := map[string]any{
		"pattern": `^tenant\.`, "priority": 10, "apply-to": "queues", "definition": map[string]any{"max-length": 3, "overflow": "drop-head"},
	}
	w.put(policies+"ops", dropping)
	harmless := map[string]any{"pattern": `^nothing$`, "priority": 99, "apply-to": "all", "definition": map[string]any{"expires": 1000}}
	w.put(policies+"mtm.queue-limit", harmless) // a name that is nearly ours
	stale := map[string]any{
		"pattern": `^tenant\.(?:` + uuid.NewString() + `)`, "priority": 1, "apply-to": "queues", "definition": map[string]any{"max-length": 1, "overflow": "drop-head"},
	}
	w.put(policies+"mtm.queue-limits.1.0.1of1", stale)
	id := w.tenant(provision.QueueOptions{MaxLengthBytes: 1 << 20})
	w.limit(id, contract.Limits{QueueMaxMessages: 5})
	w.start()
	finding := w.awaitReason(id, contract.QueueLimitsForeignPolicy)
	require.EqualValues(t, 3, finding.MaxMessages)
	require.Contains(t, finding.Detail, "ops")
	require.ErrorContains(t, w.lastDegraded(), contract.QueueName(id.String()))
	require.InDelta(t, 1, w.metric("mtm_queues_dropping"), 0)
	ours := queuelimit.BaseName // of the only tenant there is
	require.Equal(t, []string{"mtm.queue-limit", ours, "ops"}, w.policyNames())

	require.NoError(t, w.api.Do(t.Context(), http.MethodDelete, policies+"ops", nil, nil))
	w.limit(uuid.New(), contract.Limits{QueueMaxMessages: 5}) // whatever changes, the queues are looked at again
	w.awaitReason(id, "")
	require.Eventually(t, func() bool { return w.lastDegraded() == nil }, waitLimit, poll)
	require.Zero(t, w.metric("mtm_queues_dropping"))

	w.put(policies+ours, dropping)
	w.awaitInForce(id, 5, 0)
	require.NoError(t, w.api.Do(t.Context(), http.MethodDelete, policies+ours, nil, nil))
	require.Eventually(t, func() bool { return slices.Equal([]string{"mtm.queue-limit", ours}, w.policyNames()) }, waitLimit, poll)
	w.awaitInForce(id, 5, 0)
}

// An operator policy may lower a limit further, and the status says so.
func TestOperatorPolicy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.put("/api/operator-policies/"+w.api.VHost()+"/ceiling", map[string]any{
		"pattern": `^tenant\.`, "priority": 0, "apply-to": "queues", "definition": map[string]any{"max-length": 4},
	})
	id := w.tenant(provision.QueueOptions{})
	w.limit(id, contract.Limits{QueueMaxMessages: 50})
	w.start()
	finding := w.awaitReason(id, contract.QueueLimitsForeignPolicy)
	require.EqualValues(t, 4, finding.MaxMessages)
	require.Contains(t, finding.Detail, "ceiling")
}

// More different limits than there may be policies: each is held to no more than its own, and is told what it is held to.
func TestTooManyDifferentLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.tenant(provision.QueueOptions{})
	w.limit(id, contract.Limits{QueueMaxMessages: 1_000_001})
	for i := range queuelimit.MaxCombinations {
		w.limit(uuid.New(), contract.Limits{QueueMaxMessages: 1_000_002 + int64(i)})
	}
	w.start()
	finding := w.awaitReason(id, contract.QueueLimitsRounded)
	require.Equal(t, queuelimit.RoundDown(1_000_001, 1), finding.MaxMessages)
	w.limit(id, contract.Limits{QueueMaxMessages: 1_000_002})
	w.awaitReason(id, "")
}

// While the management API does not do its work, limits stay as they are, tenants whose limits are not in force are told why, and what was
// missed is made up for afterwards.
func TestFaultsOfTheManagementAPI(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fault  http.HandlerFunc
		reason contract.QueueLimitsReason
	}{
		"login refused":    {answering(http.StatusUnauthorized, `{"error":"not_authorised","reason":"Login failed"}`), contract.QueueLimitsRefused},
		"no policymaker":   {answering(http.StatusForbidden, `{"error":"not_authorised","reason":"Not policymaker"}`), contract.QueueLimitsRefused},
		"failing":          {answering(http.StatusInternalServerError, `{"error":"internal_server_error"}`), contract.QueueLimitsUnavailable},
		"a login page":     {answering(http.StatusOK, `<html>`), contract.QueueLimitsUnavailable},
		"another API":      {answering(http.StatusOK, `{"items":[]}`), contract.QueueLimitsUnavailable},
		"cut off":          {answering(http.StatusOK, `[{"name":"mtm.queue-limits`), contract.QueueLimitsUnavailable},
		"connections lost": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, contract.QueueLimitsUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			steady, changing := w.tenant(provision.QueueOptions{}), w.tenant(provision.QueueOptions{})
			w.limit(steady, contract.Limits{QueueMaxMessages: 5})
			w.limit(changing, contract.Limits{QueueMaxMessages: 6})
			w.start()
			w.awaitInForce(steady, 5, 0)
			w.awaitInForce(changing, 6, 0)
			w.awaitReason(changing, "")
			require.Eventually(t, func() bool { return w.metric("mtm_queue_limits_differ") == 0 }, waitLimit, poll)

			w.setFault(test.fault)
			w.limit(changing, contract.Limits{QueueMaxMessages: 9})
			finding := w.awaitReason(changing, test.reason)
			require.NotEmpty(t, finding.Detail)
			require.Positive(t, w.metric("mtm_queue_limit_failures_total"))
			w.awaitInForce(steady, 5, 0)
			w.awaitInForce(changing, 6, 0)

			w.setFault(nil)
			w.awaitInForce(changing, 9, 0)
			w.awaitReason(changing, "")
		})
	}
}

// A management API that takes its time, and one that never answers, keep nothing else from ending.
func TestManagementAPIThatHangs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.tenant(provision.QueueOptions{})
	w.limit(id, contract.Limits{QueueMaxMessages: 5})
	asked := make(chan struct{}, 100)
	w.setFault(func(_ http.ResponseWriter, request *http.Request) {
		asked <- struct{}{}
		<-request.Context().Done()
	})
	stop := w.start()
	<-asked
	stop()
	w.setFault(nil)
	w.start()
	w.awaitInForce(id, 5, 0)
}

// A change that is made while the broker is down is in force once it is back, and what was in force is.
func TestChangeWhileTheBrokerIsAway(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT RUN with -short, by make test-long alone: it kills a broker and starts it again")
	}
	t.Parallel()
	services := backing.Dedicated(t, backing.ServiceRabbitMQ)
	process := services.Process(backing.ServiceRabbitMQ)
	w := newWorldOn(t, backing.Broker{URL: services.RabbitMQURL, ManagementURL: services.RabbitMQManagementURL, VHost: "%2F"})
	steady, changing := w.tenant(provision.QueueOptions{}), w.tenant(provision.QueueOptions{})
	w.limit(steady, contract.Limits{QueueMaxMessages: 5})
	w.limit(changing, contract.Limits{QueueMaxMessages: 6})
	w.start()
	w.awaitInForce(steady, 5, 0)
	w.awaitReason(changing, "")
	require.NoError(t, process.Kill(t.Context()))
	w.limit(changing, contract.Limits{QueueMaxMessages: 9})
	w.awaitReason(changing, contract.QueueLimitsUnavailable)
	require.NoError(t, process.Start(t.Context()))
	require.Eventually(t, func() bool { return w.api.Do(t.Context(), http.MethodGet, "/api/whoami", nil, nil) == nil }, waitLimit, poll)
	w.awaitInForce(steady, 5, 0)
	w.awaitInForce(changing, 9, 0)
	w.awaitReason(changing, "")
}

// One instance writes; the others say nothing and write nothing as long as nothing is to be written, and take over when they lead.
func TestOneWrites(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.tenant(provision.QueueOptions{MaxLengthBytes: 10})
	w.limit(id, contract.Limits{QueueMaxMessages: 5, QueueMaxBytes: 100})
	w.start()
	w.awaitReason(id, contract.QueueLimitsArgument)
	before := w.written()
	w.registry.mu.Lock()
	reads := w.registry.reads
	w.registry.mu.Unlock()
	second := w.second()
	second.start()
	require.Eventually(t, func() bool {
		w.registry.mu.Lock()
		defer w.registry.mu.Unlock()
		return w.registry.reads > reads
	}, waitLimit, poll)
	require.Nil(t, second.enforcer.Of(id, contract.Limits{QueueMaxBytes: 100}))
	second.lead()
	second.awaitReason(id, contract.QueueLimitsArgument)
	require.Equal(t, before, w.written(), "what is there is what is wanted")
}

// Limits act on a thousand queues, of which a tenth have limits of their own; how long a change takes is in the log.
func TestManyQueues(t *testing.T) {
	t.Parallel()
	queues := 1000
	if testing.Short() {
		queues = 40 // the rest takes a minute
	}
	w := newWorld(t)
	ids := w.tenants(queues)
	w.registry.set(func(all map[uuid.UUID]contract.Limits) {
		for i, id := range ids {
			all[id] = contract.Limits{QueueMaxMessages: 1000}
			if i < queues/10 {
				all[id] = contract.Limits{QueueMaxMessages: 200 + int64(i%10), QueueMaxBytes: 1 << 20}
			}
		}
	})
	began := time.Now()
	w.start()
	w.awaitAll(ids, func(i int) int64 {
		if i < queues/10 {
			return 200 + int64(i%10)
		}
		return 1000
	})
	t.Logf("%d queues: %d policies in force after %v", queues, len(w.policyNames()), time.Since(began).Round(10*time.Millisecond))
	w.awaitReason(ids[0], "")

	special, common := ids[:queues/10], ids[queues/10:]
	for _, id := range []uuid.UUID{special[0], special[1], common[0], common[1]} {
		require.Equal(t, 100, w.publish(id, 100, 1))
	}
	w.change("one tenant", common[:1], common[:1], contract.Limits{QueueMaxMessages: 99})
	w.change("a twentieth of the tenants", special[:queues/20], special[:2], contract.Limits{QueueMaxMessages: 98})
	w.change("the default", common[1:], common[1:2], contract.Limits{QueueMaxMessages: 50})
	w.awaitAll(common[1:], func(int) int64 { return 50 })
	w.awaitAll(special[:queues/20], func(int) int64 { return 98 })
}

// change changes limits of tenants, waits until a sample of them, whose queues hold more, refuses, and logs how long that has taken.
func (w *world) change(whose string, ids, sample []uuid.UUID, limits contract.Limits) {
	w.t.Helper()
	before, began := w.written(), time.Now()
	w.registry.set(func(all map[uuid.UUID]contract.Limits) {
		for _, id := range ids {
			all[id] = limits
		}
	})
	for _, id := range sample {
		require.Eventually(w.t, func() bool { return w.publish(id, 1, 1) == 0 }, waitLimit, poll)
	}
	w.t.Logf("limits of %s: in force after %v, with %d requests by then", whose, time.Since(began).Round(10*time.Millisecond), w.written()-before)
}

// awaitAll waits until queues are held to so many messages, as the broker's statistics say, which are up to five seconds old.
func (w *world) awaitAll(ids []uuid.UUID, messages func(i int) int64) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		var all []struct {
			Name      string
			Effective any `json:"effective_policy_definition"`
		}
		w.get("/api/queues/"+w.api.VHost()+"?columns=name,effective_policy_definition", &all)
		in := make(map[string]float64, len(all))
		for _, q := range all {
			definition, _ := q.Effective.(map[string]any)
			in[q.Name], _ = definition["max-length"].(float64)
		}
		for i, id := range ids {
			if in[contract.QueueName(id.String())] != float64(messages(i)) {
				return false
			}
		}
		return true
	}, 5*waitLimit, poll)
}
