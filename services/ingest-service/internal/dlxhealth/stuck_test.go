package dlxhealth

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// A queue that is busy dead-lettering is no reason to call somebody; one in which the number only ever rises or stays is.
func TestQueuesAreSuspectedOfWhatDoesNotFall(t *testing.T) {
	for name, test := range map[string]struct {
		looks []int64 // 0: nothing waits
		want  []bool
	}{
		"stays":                 {[]int64{1, 1, 1, 1}, []bool{false, false, true, true}},
		"rises":                 {[]int64{1, 5, 9}, []bool{false, false, true}},
		"falls":                 {[]int64{9, 8, 7, 6, 5}, []bool{false, false, false, false, false}},
		"falls once in a while": {[]int64{5, 6, 5, 6, 5, 6}, []bool{false, false, false, false, false, false}},
		"is empty in between":   {[]int64{1, 1, 0, 1, 1, 1}, []bool{false, false, false, false, false, true}},
		"gets rid of it":        {[]int64{1, 1, 1, 0}, []bool{false, false, true, false}},
		"gets rid of some":      {[]int64{3, 3, 3, 2, 2, 2}, []bool{false, false, true, false, false, true}},
	} {
		seen := make(trend)
		for i, now := range test.looks {
			suspected := seen.observe(map[string]int64{"q": now, "idle": 0})
			require.Equal(t, test.want[i], len(suspected) == 1, "%s: look %d", name, i)
		}
		require.NotContains(t, seen, "idle", name)
	}
}

// Looks that are a minute apart may find the same number in a queue that is busy. Only one in which it does not fall either when
// it is looked at closely makes the instance degraded, and calls somebody.
func TestQueuesThatFallBetweenTwoLooksAreNotStuck(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		looks []int64 // -1: the broker does not answer
		want  bool
	}{
		"stays":             {[]int64{5}, true},
		"rises":             {[]int64{5, 6, 7, 8, 9}, true},
		"falls at last":     {[]int64{5, 5, 5, 5, 4}, false},
		"falls and rises":   {[]int64{4, 5}, false},
		"is empty at once":  {[]int64{5, 5, 0, 5}, false},
		"cannot be told of": {[]int64{5, -1, 5}, false},
	} {
		answers := make(chan int64, closerLooks)
		for i := range closerLooks {
			answers <- test.looks[min(i, len(test.looks)-1)]
		}
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			now := <-answers
			if now < 0 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"name": "q", "messages_dlx": now})
		}))
		api, err := newStatistics(conn.Config{URL: "amqp://127.0.0.1:1", ManagementURL: server.URL})
		require.NoError(t, err)
		require.Equal(t, test.want, api.isStuck(t.Context(), "q", 5, 1), name)
		server.Close()
	}
}

// However many queues there are, each of the own virtual host is looked at, with its login, and no other. No error shows a password.
func TestAllPagesOfTheOwnVirtualHostAreLookedAt(t *testing.T) {
	t.Parallel()
	const count = 10_000
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if r.URL.EscapedPath() != "/prefix/api/queues/own%2Fhost" || user != "u" || password != "p@" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		page, _ := strconv.Atoi(r.URL.Query().Get("page"))
		size, _ := strconv.Atoi(r.URL.Query().Get("page_size"))
		items := []map[string]any{}
		for i := (page - 1) * size; i < min(page*size, count); i++ {
			item := map[string]any{"name": fmt.Sprintf("tenant.%d", i)}
			if i%1000 == 999 {
				item["messages_dlx"] = i
			}
			items = append(items, item)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"page_count": (count + size - 1) / size, "items": items})
	}))
	defer server.Close()
	api, err := newStatistics(conn.Config{URL: "amqp://u:p%40@127.0.0.1:1/own%2Fhost", ManagementURL: server.URL + "/prefix/"})
	require.NoError(t, err)
	waiting, err := api.waiting(t.Context())
	require.NoError(t, err)
	require.Len(t, waiting, count/1000)
	require.Equal(t, int64(9999), waiting["tenant.9999"])

	api, err = newStatistics(conn.Config{URL: "amqp://u:hunter2@127.0.0.1:1/other", ManagementURL: server.URL})
	require.NoError(t, err)
	_, err = api.waiting(t.Context())
	require.EqualError(t, err, "ask the management API: status 401")
	server.Close()
	_, err = api.waiting(t.Context())
	require.Error(t, err)
	require.NotContains(t, err.Error(), "hunter2")
}

// A message that its queue cannot get rid of waits for ever, and nothing else tells of it.
func TestQueueThatCannotDeadLetterIsTold(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	r := newRig(t, conn.Config{URL: broker.URL, ManagementURL: broker.ManagementURL})
	const queue, target = "stuck", "nowhere"
	require.NoError(t, r.do(func(ch *amqp.Channel) error {
		if err := ch.ExchangeDeclare(target, amqp.ExchangeFanout, true, false, false, false, nil); err != nil {
			return err
		}
		_, err := ch.QueueDeclare(queue, true, false, false, false, amqp.Table{
			amqp.QueueTypeArg: amqp.QueueTypeQuorum, "x-dead-letter-exchange": target, "x-dead-letter-strategy": "at-least-once",
			amqp.QueueOverflowArg: amqp.QueueOverflowRejectPublish,
		})
		return err
	}))
	r.publish(queue, nil, "200")
	r.start()
	r.degraded(stuckQueues)
	require.ErrorContains(t, r.reported(), queue)
	require.InDelta(t, 1, testutil.ToFloat64(r.watch.stuck), 0)
	require.NoError(t, r.do(func(ch *amqp.Channel) error {
		_, err := ch.QueueDelete(queue, false, false, false)
		return err
	}))
	require.Eventually(t, func() bool { return r.reported() == nil }, waitLimit, poll)
	require.Zero(t, testutil.ToFloat64(r.watch.stuck))
}
