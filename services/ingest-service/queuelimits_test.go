package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/rendezvous"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// managed has an instance use the management API of its broker.
func managed(cfg *Config, broker backing.Broker) { cfg.RabbitMQ.ManagementURL = broker.ManagementURL }

// suspend has a tenant suspended with limits, in the registry and the control channel, and waits until those instances have seen it that
// are given.
func (w *rateWorld) suspend(tenant uuid.UUID, generation int64, limits contract.Limits, names []string) {
	w.t.Helper()
	text, err := json.Marshal(limits)
	require.NoError(w.t, err)
	_, err = w.operator.Exec(w.t.Context(), `
		INSERT INTO tenants (id, name, workers, state, generation, limits) VALUES ($1, 'test', 1, 'suspended', $2, $3)
		ON CONFLICT (id) DO UPDATE SET generation = excluded.generation, limits = excluded.limits`, tenant, generation, string(text))
	require.NoError(w.t, err)
	_, err = w.specs.Put(w.t.Context(), tenant.String(), contract.TenantSpec{
		TenantID: tenant.String(), State: contract.DesiredSuspended, Workers: 1, Generation: generation, Limits: limits,
	})
	require.NoError(w.t, err)
	for _, name := range names {
		require.Eventually(w.t, func() bool {
			entry, err := w.statuses.Get(w.t.Context(), contract.StatusKey(tenant.String(), name))
			return err == nil && entry.Value.State == contract.StateSuspended && entry.Value.ObservedGeneration >= generation
		}, waitLimit, tick, name)
	}
}

// sendOne publishes one message over AMQP.
func (w *rateWorld) sendOne(tenant uuid.UUID, size int) error {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), waitLimit)
	defer cancel()
	return w.producer.Publish(ctx, publish.Message{Exchange: contract.MessagesExchange, Key: tenant.String(), Publishing: amqp.Publishing{
		MessageId: uuid.NewString(), DeliveryMode: amqp.Persistent, Body: []byte(`"` + strings.Repeat("x", size) + `"`),
	}})
}

// fill publishes over AMQP until the queue refuses, and returns how many it has accepted.
func (w *rateWorld) fill(tenant uuid.UUID) (accepted int) {
	w.t.Helper()
	for ; accepted < 1000; accepted++ {
		err := w.sendOne(tenant, 1000)
		if errors.Is(err, publish.ErrRejected) {
			return accepted
		}
		require.NoError(w.t, err)
	}
	return accepted
}

// requireFull requires that a tenant is refused over HTTP, one by one and by line, by each instance, and over AMQP.
func (w *rateWorld) requireFull(tenant uuid.UUID, instances []int) {
	w.t.Helper()
	require.ErrorIs(w.t, w.sendOne(tenant, 1000), publish.ErrRejected, "basic.nack")
	body := `{"payload":"` + strings.Repeat("x", 1000) + `"}`
	for _, i := range instances {
		answer, err := w.request(w.t.Context(), i, "/messages", "application/json", tenant, body)
		require.NoError(w.t, err)
		require.Equal(w.t, http.StatusServiceUnavailable, answer.Status, "%s", answer.Body)
		require.Contains(w.t, string(answer.Body), `"code":"queue_full"`)
		require.NotEmpty(w.t, answer.Header.Get("Retry-After"))
		require.Zero(w.t, w.accepted(i, tenant, 3))
	}
}

// accepted is how many of some lines of a batch an instance accepts; the others are to be refused because the queue is full.
func (w *rateWorld) accepted(instance int, tenant uuid.UUID, lines int) int {
	w.t.Helper()
	line := `{"payload":"` + strings.Repeat("x", 1000) + `"}` + "\n"
	answer, err := w.request(w.t.Context(), instance, "/messages/batch", "application/x-ndjson", tenant, strings.Repeat(line, lines))
	require.NoError(w.t, err)
	var result struct {
		Accepted int
		Results  []struct {
			Status int
			Code   string
		}
	}
	require.NoError(w.t, json.Unmarshal(answer.Body, &result), "%s", answer.Body)
	require.Len(w.t, result.Results, lines)
	for _, r := range result.Results {
		if r.Status != http.StatusAccepted {
			require.Equal(w.t, http.StatusServiceUnavailable, r.Status)
			require.Equal(w.t, "queue_full", r.Code)
		}
	}
	return result.Accepted
}

// slack is how far a queue goes beyond its limit: what is on its way when the limit is reached is accepted.
const slack = 2

// Below its limit a queue takes everything, above it every producer is told so by name, and a change acts on the queue that is there. With
// several instances the limit is that of the queue, and when the one that writes stops another one does.
func TestQueueLimits(t *testing.T) {
	for _, instances := range []int{1, 3} {
		t.Run(fmt.Sprint(instances, " instances"), func(t *testing.T) {
			t.Parallel()
			w := newRateWorld(t, instances, managed)
			all := make([]int, instances)
			for i := range all {
				all[i] = i
			}
			byMessages, byBytes, unlimited := uuid.New(), uuid.New(), uuid.New()
			w.suspend(byMessages, 1, contract.Limits{QueueMaxMessages: 10}, w.names)
			w.suspend(byBytes, 1, contract.Limits{QueueMaxBytes: 10_000}, w.names)
			w.suspend(unlimited, 1, contract.Limits{}, w.names)
			w.awaitLimit(byMessages, `{"max-length":10,"overflow":"reject-publish"}`)
			w.awaitLimit(byBytes, `{"max-length-bytes":10000,"overflow":"reject-publish"}`)

			require.Equal(t, 5, w.accepted(instances-1, byMessages, 5), "below the limit nothing is refused")
			require.Equal(t, 5, w.accepted(0, byBytes, 5))
			require.InDelta(t, 5, w.fill(byMessages), slack)
			require.InDelta(t, 5, w.fill(byBytes), slack)
			w.requireFull(byMessages, all)
			w.requireFull(byBytes, all)
			require.Equal(t, 200, w.accepted(0, unlimited, 200), "what others have is nothing to it")

			w.suspend(byMessages, 2, contract.Limits{QueueMaxMessages: 20}, w.names)
			w.awaitLimit(byMessages, `{"max-length":20,"overflow":"reject-publish"}`)
			require.InDelta(t, 10, w.fill(byMessages), 2*slack)
			w.requireFull(byMessages, all)

			if instances > 1 { // the one that writes stops
				leader := slices.Index(w.names, rendezvous.Owner(uuid.Nil, w.names))
				w.stops[leader]()
				all = slices.Delete(all, leader, leader+1)
			}
			left := make([]string, len(all))
			for i, instance := range all {
				left[i] = w.names[instance]
			}
			w.suspend(byMessages, 3, contract.Limits{QueueMaxMessages: 3}, left)
			w.suspend(byBytes, 2, contract.Limits{}, left)
			w.awaitLimit(byMessages, `{"max-length":3,"overflow":"reject-publish"}`)
			w.awaitLimit(byBytes, ``)
			w.requireFull(byMessages, all)
			require.Equal(t, 100, w.accepted(all[0], byBytes, 100))
			require.GreaterOrEqual(t, w.depth(byMessages), 20, "nothing was dropped")
		})
	}
}

// awaitLimit waits until the broker holds a tenant's queue to what a policy says.
func (w *rateWorld) awaitLimit(tenant uuid.UUID, definition string) {
	w.t.Helper()
	var last []byte
	require.Eventually(w.t, func() bool {
		var q struct {
			Effective any `json:"effective_policy_definition"`
		}
		path := "/api/queues/" + w.management.VHost() + "/" + contract.QueueName(tenant.String())
		if w.management.Do(w.t.Context(), http.MethodGet, path, nil, &q) != nil {
			return false
		}
		last = nil
		if policy, ok := q.Effective.(map[string]any); ok && len(policy) > 0 {
			last, _ = json.Marshal(policy)
		}
		return string(last) == definition || definition == "" && !strings.Contains(string(last), "max-length")
	}, waitLimit, tick, "want %s", definition)
}

// depth is how many messages are in the queue of a tenant.
func (w *rateWorld) depth(tenant uuid.UUID) (n int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), waitLimit)
	defer cancel()
	session, err := w.link.Session(ctx)
	require.NoError(w.t, err)
	answer := make(chan int, 1)
	require.NoError(w.t, session.Do(ctx, func(ch *amqp.Channel) error {
		q, err := ch.QueueDeclarePassive(contract.QueueName(tenant.String()), true, false, false, false, nil)
		answer <- q.Messages
		return err
	}))
	return <-answer
}

// status is what the instances say of a tenant's queue.
func (w *rateWorld) awaitReason(tenant uuid.UUID, reason contract.QueueLimitsReason) (found contract.QueueLimits) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		found = contract.QueueLimits{}
		for _, name := range w.names {
			entry, err := w.statuses.Get(w.t.Context(), contract.StatusKey(tenant.String(), name))
			if err == nil && entry.Value.QueueLimits != nil {
				found = *entry.Value.QueueLimits
			}
		}
		return found.Reason == reason
	}, waitLimit, tick, "want %q", reason)
	return found
}

// The limit of a new tenant may be above that of the installation; that of one with a queue acts when the queue, empty, has been made
// again, which takes nothing but its deletion, and until then its status says so.
func TestRaisedQueueLimits(t *testing.T) {
	t.Parallel()
	w := newRateWorld(t, 1, managed, func(cfg *Config, _ backing.Broker) { cfg.Ingest.QueueMaxBytes = 5000 })
	tenant, raised := uuid.New(), uuid.New()
	w.suspend(tenant, 1, contract.Limits{}, w.names)
	w.suspend(raised, 1, contract.Limits{QueueMaxBytes: 20_000}, w.names)
	w.awaitReason(raised, "")
	require.InDelta(t, 20, w.fill(raised), slack)

	w.suspend(tenant, 2, contract.Limits{QueueMaxBytes: 20_000}, w.names)
	require.EqualValues(t, 5000, w.awaitReason(tenant, contract.QueueLimitsArgument).MaxBytes)
	require.InDelta(t, 5, w.fill(tenant), slack)
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	session, err := w.link.Session(ctx)
	require.NoError(t, err)
	require.NoError(t, session.Do(ctx, func(ch *amqp.Channel) error {
		_, err := ch.QueueDelete(contract.QueueName(tenant.String()), false, false, false)
		return err
	}))
	w.awaitReason(tenant, "")
	require.Eventually(t, func() bool { return w.sendOne(tenant, 1000) == nil }, waitLimit, tick)
	require.InDelta(t, 20, w.fill(tenant), slack+1)
}

// An installation without the management API stores the limits of queues, and says that they are not enforced.
func TestQueueLimitsWithoutManagement(t *testing.T) {
	t.Parallel()
	w := newRateWorld(t, 1)
	limited, unlimited := uuid.New(), uuid.New()
	w.suspend(limited, 1, contract.Limits{QueueMaxMessages: 1}, w.names)
	w.suspend(unlimited, 1, contract.Limits{}, w.names)
	require.Contains(t, w.awaitReason(limited, contract.QueueLimitsNotManaged).Detail, "rabbitmq.management_url")
	require.Equal(t, 20, w.accepted(0, limited, 20))
	w.suspend(limited, 2, contract.Limits{}, w.names)
	w.awaitReason(limited, "")
	w.awaitReason(unlimited, "")
}
