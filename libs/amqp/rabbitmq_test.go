package rabbitmq_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	tenantA = "11111111-1111-4111-8111-111111111111"
	tenantB = "22222222-2222-4222-8222-222222222222"
)

// waitLimit is the limit of every wait in these tests; none of them takes nearly as long.
const waitLimit = 20 * time.Second

func deadline(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// reports records what a link reports.
type reports struct {
	mu   sync.Mutex
	errs []error
}

func (r *reports) add(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, err)
}

func (r *reports) last() (heard bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.errs) == 0 {
		return false, nil
	}
	return true, r.errs[len(r.errs)-1]
}

// startLink runs a link until the end of the test.
func startLink(t *testing.T, amqpURL string, report func(error)) *rabbitmq.Link {
	t.Helper()
	link := rabbitmq.NewLink(rabbitmq.Config{URL: amqpURL, Heartbeat: 2 * time.Second}, t.Name(), zaptest.NewLogger(t), report)
	run(t, link.Run)
	return link
}

// run runs a component until the end of the test or until stop is called.
func run(t *testing.T, component func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- component(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			require.NoError(t, err)
		case <-time.After(waitLimit):
			t.Error("a component does not end")
		}
	})
	t.Cleanup(stop)
	return stop
}

func startPublisher(t *testing.T, link *rabbitmq.Link, channels int) *rabbitmq.Publisher {
	t.Helper()
	p := rabbitmq.NewPublisher(link, channels, zaptest.NewLogger(t))
	run(t, p.Run)
	return p
}

func session(t *testing.T, link *rabbitmq.Link) *rabbitmq.Session {
	t.Helper()
	s, err := link.Session(deadline(t, waitLimit))
	require.NoError(t, err)
	return s
}

func channel(t *testing.T, link *rabbitmq.Link) *amqp.Channel {
	t.Helper()
	ch, err := session(t, link).Channel(deadline(t, waitLimit))
	require.NoError(t, err)
	return ch
}

// declare makes the shared topology and the queues of tenants.
func declare(t *testing.T, link *rabbitmq.Link, opts rabbitmq.QueueOptions, tenants ...string) {
	t.Helper()
	err := session(t, link).Do(deadline(t, waitLimit), func(ch *amqp.Channel) error {
		if err := rabbitmq.DeclareShared(ch, []time.Duration{200 * time.Millisecond}, opts.Type); err != nil {
			return err
		}
		for _, tenant := range tenants {
			if err := rabbitmq.DeclareTenant(ch, tenant, opts); err != nil {
				return err
			}
		}
		return nil
	})
	require.NoError(t, err)
}

func message(tenant, id string) rabbitmq.Message {
	return rabbitmq.Message{
		Exchange: contract.MessagesExchange, Key: tenant,
		Publishing: amqp.Publishing{MessageId: id, Body: []byte(`{"a":1}`), DeliveryMode: amqp.Persistent, ContentType: "application/json"},
	}
}

// drain takes everything out of a queue and returns the message ids, sorted.
func drain(t *testing.T, link *rabbitmq.Link, queue string) []string {
	t.Helper()
	ids := []string{}
	ch := channel(t, link)
	defer func() { require.NoError(t, ch.Close()) }()
	for {
		d, ok, err := ch.Get(queue, true)
		require.NoError(t, err)
		if !ok {
			break
		}
		ids = append(ids, d.MessageId)
	}
	slices.Sort(ids)
	return ids
}

// closeConnections has the broker close all connections of the vhost whose client-given name is name.
func closeConnections(t *testing.T, b backing.Broker, name string) {
	t.Helper()
	require.Eventually(t, func() bool {
		closed := false
		for _, c := range connections(t, b) {
			if c.Client.Name == name {
				request(t, b, http.MethodDelete, "/api/connections/"+url.PathEscape(c.Name), nil)
				closed = true
			}
		}
		return closed
	}, waitLimit, 50*time.Millisecond, "the broker does not list the connection %s", name)
}

type connection struct {
	Name   string `json:"name"`
	VHost  string `json:"vhost"`
	Client struct {
		Name string `json:"connection_name"`
	} `json:"client_properties"`
}

func connections(t *testing.T, b backing.Broker) []connection {
	t.Helper()
	var all []connection
	request(t, b, http.MethodGet, "/api/vhosts/"+url.PathEscape(b.VHost)+"/connections", &all)
	return all
}

func request(t *testing.T, b backing.Broker, method, path string, into any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, b.ManagementURL+path, nil)
	require.NoError(t, err)
	if u, err := url.Parse(b.ManagementURL); err == nil && u.User == nil {
		amqpURL, err := url.Parse(b.URL)
		require.NoError(t, err)
		password, _ := amqpURL.User.Password()
		req.SetBasicAuth(amqpURL.User.Username(), password)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	require.NoError(t, err)
	defer func() { require.NoError(t, res.Body.Close()) }()
	if into != nil {
		require.NoError(t, json.NewDecoder(res.Body).Decode(into))
	}
}
