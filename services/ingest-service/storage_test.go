package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/step"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
)

// stock is a tenant with a limit of what is stored, and its producer.
type stock struct {
	*rateWorld
	tenant     uuid.UUID
	generation int64
	accepted   map[uuid.UUID]bool // over HTTP
	amqp       int                // messages over AMQP
}

// messageBytes is the size of a message over HTTP as it is stored.
const messageBytes = 1000

func newStock(w *rateWorld, limits contract.Limits) *stock {
	s := &stock{rateWorld: w, tenant: uuid.New(), accepted: make(map[uuid.UUID]bool)}
	s.limit(limits, contract.StateRunning)
	return s
}

// limit changes the limits, and waits for the state that all instances report then.
func (s *stock) limit(limits contract.Limits, want contract.ConsumerState) {
	s.t.Helper()
	s.generation++
	s.put(s.tenant, contract.DesiredActive, s.generation, limits)
	s.report(s.tenant, want, s.generation)
}

func (s *stock) postOne(instance int) raw.Response {
	s.t.Helper()
	body := `{"payload":"` + strings.Repeat("x", messageBytes-2) + `"}`
	answer, err := s.request(s.t.Context(), instance, "/messages", "application/json", s.tenant, body)
	require.NoError(s.t, err)
	if answer.Status == http.StatusAccepted {
		var message struct{ ID uuid.UUID }
		require.NoError(s.t, json.Unmarshal(answer.Body, &message))
		s.accepted[message.ID] = true
	}
	return answer
}

// fill publishes over HTTP, by all instances in turn, until one refuses.
func (s *stock) fill() {
	s.t.Helper()
	for instance := 0; ; instance++ {
		answer := s.postOne(instance % len(s.urls))
		if answer.Status == http.StatusAccepted {
			continue
		}
		require.Equal(s.t, http.StatusInsufficientStorage, answer.Status, "%s", answer.Body)
		return
	}
}

// refused demands that every instance refuses, one message and each line of a batch, and that nothing is enqueued.
func (s *stock) refused(retryAfter string) {
	s.t.Helper()
	for instance := range s.urls {
		answer := s.postOne(instance)
		require.Equal(s.t, http.StatusInsufficientStorage, answer.Status, "%s", answer.Body)
		require.Equal(s.t, retryAfter, answer.Header.Get("Retry-After"))
		var problem struct{ Code string }
		require.NoError(s.t, json.Unmarshal(answer.Body, &problem))
		require.Equal(s.t, "storage_full", problem.Code)

		answer, err := s.request(s.t.Context(), instance, "/messages/batch", "application/x-ndjson", s.tenant, "{\"payload\":1}\n{\"payload\":2}\n")
		require.NoError(s.t, err)
		var batch struct {
			Accepted int
			Results  []struct {
				Status int
				Code   string
			}
		}
		require.NoError(s.t, json.Unmarshal(answer.Body, &batch))
		require.Zero(s.t, batch.Accepted)
		require.Len(s.t, batch.Results, 2)
		for _, line := range batch.Results {
			require.Equal(s.t, http.StatusInsufficientStorage, line.Status)
			require.Equal(s.t, "storage_full", line.Code)
		}
	}
}

// send publishes over AMQP, which takes whatever the queue holds.
func (s *stock) send(n int) {
	s.t.Helper()
	s.rateWorld.send(s.tenant, n)
	s.amqp += n
}

func (s *stock) ids() map[uuid.UUID]bool {
	s.t.Helper()
	rows, err := s.operator.Query(s.t.Context(), `SELECT id FROM messages WHERE tenant_id = $1 AND payload <> '"over AMQP"'`, s.tenant)
	require.NoError(s.t, err)
	list, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	require.NoError(s.t, err)
	ids := make(map[uuid.UUID]bool, len(list))
	for _, id := range list {
		ids[id] = true
	}
	return ids
}

func (s *stock) number(sql string) (n int64) {
	s.t.Helper()
	require.NoError(s.t, s.operator.QueryRow(s.t.Context(), sql, s.tenant).Scan(&n))
	return n
}

func (s *stock) bytes() int64 {
	return s.number(`SELECT coalesce(sum(bytes), 0)::bigint FROM messages WHERE tenant_id = $1`)
}

// kept waits until everything that is not stored waits in the queue, and returns how many bytes are stored.
func (s *stock) kept() (bytes int64) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		ctx, cancel := deadline(s.t)
		defer cancel()
		session, err := s.link.Session(ctx)
		require.NoError(s.t, err)
		waiting := make(chan int, 1)
		require.NoError(s.t, session.Do(ctx, func(ch *amqp.Channel) error {
			q, err := ch.QueueDeclarePassive(contract.QueueName(s.tenant.String()), true, false, false, false, nil)
			waiting <- q.Messages
			return err
		}))
		bytes = s.bytes()
		return int64(<-waiting)+s.number(`SELECT count(*) FROM messages WHERE tenant_id = $1`) == int64(len(s.accepted)+s.amqp)
	}, waitLimit, tick)
	return bytes
}

// counted waits until everything that is stored is counted: other tests of the same server may hold the horizon back.
func (s *stock) counted() {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		return s.number(`SELECT coalesce(sum(bytes), 0)::bigint FROM usage_positions WHERE tenant_id = $1`) == s.bytes()
	}, waitLimit, tick)
}

// drained waits until everything that was accepted is stored, and demands that it is stored once, and that nothing has become a dead letter.
func (s *stock) drained() {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		return s.number(`SELECT count(*) FROM messages WHERE tenant_id = $1`) >= int64(len(s.accepted)+s.amqp)
	}, waitLimit, tick)
	require.True(s.t, maps.Equal(s.accepted, s.ids()))
	require.EqualValues(s.t, s.amqp, s.stored(s.tenant, `"over AMQP"`))
	require.Zero(s.t, s.number(`SELECT count(*) FROM dead_letters WHERE tenant_id = $1`))
}

// The limit that an operator sets of what a tenant stores is that of all instances together. A tenant at its limit is told so over HTTP by
// all of them, and its status says it; what was accepted, and what comes over AMQP, waits in the queue, and is stored, once, when there is
// room: by another limit, by none, or since messages were removed. Others notice nothing.
func TestStorageOverInstances(t *testing.T) {
	for _, instances := range []int{1, 3} {
		t.Run(fmt.Sprint(instances, " instances"), func(t *testing.T) {
			t.Parallel()
			w := newRateWorld(t, instances)
			const limit = 20 * messageBytes
			neighbour := newStock(w, contract.Limits{StoredMaxBytes: 1 << 30})
			s := newStock(w, contract.Limits{StoredMaxBytes: limit})
			s.fill()
			s.send(50)
			s.report(s.tenant, contract.StateStorageFull, s.generation)
			s.refused("")
			kept := s.kept()
			require.GreaterOrEqual(t, kept, int64(limit))
			if instances == 1 { // others learn of it a second later: by then more may have been stored
				require.Less(t, kept, int64(limit+messageBytes))
			}
			neighbour.send(20)
			for instance := range instances {
				require.Equal(t, http.StatusAccepted, neighbour.postOne(instance).Status)
			}
			neighbour.drained()
			neighbour.report(neighbour.tenant, contract.StateRunning, 1)

			// A change is in force once it is reported: what waits fits now, or no longer.
			s.limit(contract.Limits{StoredMaxBytes: kept, RetentionSeconds: 1 << 30}, contract.StateStorageFull)
			s.refused("10")
			if instances == 1 { // likewise
				require.Equal(t, kept, s.bytes())
			}
			s.limit(contract.Limits{StoredMaxBytes: 1 << 30}, contract.StateRunning)
			s.drained()
			require.Equal(t, http.StatusAccepted, s.postOne(0).Status)
			s.drained()
			s.limit(contract.Limits{StoredMaxBytes: limit}, contract.StateStorageFull)
			s.refused("")

			// As retention and erasing do it.
			s.send(5)
			s.counted()
			_, err := w.operator.Exec(t.Context(), `SELECT usage_removed($1, 2, $2::bigint)`, s.tenant, s.bytes()-limit+messageBytes)
			require.NoError(t, err)
			s.report(s.tenant, contract.StateRunning, s.generation)
			s.drained()
			require.Equal(t, http.StatusAccepted, s.postOne(instances-1).Status)
			s.fill()
			s.report(s.tenant, contract.StateStorageFull, s.generation)
			s.limit(contract.Limits{}, contract.StateRunning)
			require.Equal(t, http.StatusAccepted, s.postOne(0).Status)
			s.drained()
		})
	}
}

// A suspended tenant's messages wait as ever. It is refused when what it has stored is too much, and when it is resumed so much of what
// waits is stored as there is room for.
func TestStorageOfASuspendedTenant(t *testing.T) {
	t.Parallel()
	w := newRateWorld(t, 1)
	const limit = 5 * messageBytes
	s := newStock(w, contract.Limits{StoredMaxBytes: limit})
	suspend := func(bytes int64) {
		s.generation++
		s.put(s.tenant, contract.DesiredSuspended, s.generation, contract.Limits{StoredMaxBytes: bytes})
		s.report(s.tenant, contract.StateSuspended, s.generation)
	}
	suspend(limit)
	for range 10 {
		require.Equal(t, http.StatusAccepted, s.postOne(0).Status, "nothing of it is stored")
	}
	s.generation++
	s.put(s.tenant, contract.DesiredActive, s.generation, contract.Limits{StoredMaxBytes: limit})
	s.report(s.tenant, contract.StateStorageFull, s.generation)
	require.EqualValues(t, limit, s.bytes())
	suspend(limit)
	s.refused("")
	suspend(2 * limit)
	require.Equal(t, http.StatusAccepted, s.postOne(0).Status)
	require.EqualValues(t, limit, s.bytes(), "nothing is stored meanwhile")
	s.limit(contract.Limits{}, contract.StateRunning)
	s.drained()
}

// A database that is away neither lets a full tenant in nor keeps others out, and afterwards everything is as it was.
func TestDatabaseAwayWhileStorageIsFull(t *testing.T) {
	t.Parallel()
	w := newRateWorld(t, 1)
	neighbour := newStock(w, contract.Limits{StoredMaxBytes: 1 << 30})
	s := newStock(w, contract.Limits{StoredMaxBytes: 3 * messageBytes})
	s.fill()
	s.send(10)
	s.report(s.tenant, contract.StateStorageFull, 1)
	kept := s.kept()

	target := w.operator.Config().ConnConfig.Copy()
	database := target.Database
	target.Database = "postgres"
	connection, err := pgx.ConnectConfig(t.Context(), target)
	require.NoError(t, err)
	defer func() { assert.NoError(t, connection.Close(t.Context())) }()
	allow := func(allowed bool) {
		_, err := connection.Exec(t.Context(), fmt.Sprintf(`ALTER DATABASE %s ALLOW_CONNECTIONS %t`, pgx.Identifier{database}.Sanitize(), allowed))
		require.NoError(t, err)
		_, err = connection.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1`, database)
		require.NoError(t, err)
	}
	allow(false)
	restored := false
	defer func() {
		if !restored {
			allow(true)
		}
	}()
	neighbour.send(10)
	require.Equal(t, http.StatusAccepted, neighbour.postOne(0).Status)
	neighbour.report(neighbour.tenant, contract.StatePaused, 1)
	s.report(s.tenant, contract.StatePaused, 1)
	s.refused("")
	s.generation++
	s.put(s.tenant, contract.DesiredActive, s.generation, contract.Limits{StoredMaxBytes: 4 * messageBytes})
	require.Eventually(t, func() bool { return s.postOne(0).Status == http.StatusAccepted }, waitLimit, 50*time.Millisecond, "more room than is known to be taken")

	allow(true)
	restored = true
	w.operator.Reset() // its connections are gone
	neighbour.drained()
	s.report(s.tenant, contract.StateStorageFull, s.generation)
	require.Greater(t, s.bytes(), kept)
	s.refused("")
	s.limit(contract.Limits{}, contract.StateRunning)
	s.drained()
}

// Killed while its tenant is full, and started again, an instance knows that it is, before it stores anything; what had waited still does.
func TestKilledWhileStorageIsFull(t *testing.T) {
	t.Parallel()
	w := newCrashWorld(t)
	w.start()
	v := &victim{t: t, w: w, id: uuid.New(), accepted: make(map[uuid.UUID]bool)}
	want := func(generation int64, workers int, limits contract.Limits) {
		v.want(contract.TenantSpec{State: contract.DesiredActive, Workers: workers, Generation: generation, Limits: limits})
	}
	full := func() {
		t.Helper()
		require.Eventually(t, func() bool {
			entry, err := w.statuses.Get(t.Context(), contract.StatusKey(v.id.String(), w.instance))
			return err == nil && entry.Value.ObservedAt.After(w.started) && entry.Value.State == contract.StateStorageFull &&
				entry.Value.ObservedGeneration == v.spec.Generation
		}, waitLimit, tick)
	}
	limits := contract.Limits{StoredMaxBytes: 300}
	want(1, workersBefore, limits)
	v.observed()
	v.publish(400) // 1,090 bytes
	full()
	require.Eventually(t, func() bool { // what is not counted yet would make room
		return w.count(t, `SELECT count(*) FROM usage_positions p WHERE tenant_id = $1 AND bytes = (SELECT sum(bytes) FROM messages WHERE tenant_id = $1)`, v.id) == 1
	}, waitLimit, tick)
	kept := v.stored()
	require.GreaterOrEqual(t, w.count(t, `SELECT sum(bytes) FROM messages WHERE tenant_id = $1`, v.id), 300)
	require.LessOrEqual(t, w.count(t, `SELECT sum(bytes) FROM messages WHERE tenant_id = $1`, v.id), 302)

	w.service.DieAt(t, stepLine(v.id, 2, step.ConsumerConfigured))
	want(2, workersAfter, limits)
	v.dies()
	w.start()
	full()
	require.Equal(t, kept, v.stored(), "nothing more")
	want(3, workersAfter, contract.Limits{})
	v.runs()
	require.Zero(t, w.count(t, `SELECT count(*) FROM dead_letters`))
}
