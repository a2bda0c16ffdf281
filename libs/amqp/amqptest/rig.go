package amqptest

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
	"go.uber.org/zap/zaptest"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
)

// WaitLimit is the limit of every wait in tests; none of them takes nearly as long.
const WaitLimit = 20 * time.Second

// Exchange is the topic exchange of [Declare].
const Exchange = "amqptest"

// Deadline is a context that ends after d, or with the test.
func Deadline(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// Run runs a component until the end of the test or until stop is called.
func Run(t *testing.T, component func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- component(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("a component ends with %v", err)
			}
		case <-time.After(WaitLimit):
			t.Error("a component does not end")
		}
	})
	t.Cleanup(stop)
	return stop
}

// Reports records what a link reports.
type Reports struct {
	mu   sync.Mutex
	errs []error // guarded by mu
}

// Add is for [conn.NewLink].
func (r *Reports) Add(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, err)
}

// Last is the last of n reports; nil if there are none.
func (r *Reports) Last() (n int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.errs) == 0 {
		return 0, nil
	}
	return len(r.errs), r.errs[len(r.errs)-1]
}

// StartLink runs a link until the end of the test.
func StartLink(t *testing.T, amqpURL string, report func(error)) *conn.Link {
	t.Helper()
	link := conn.NewLink(conn.Config{URL: amqpURL, Heartbeat: 2 * time.Second}, t.Name(), zaptest.NewLogger(t), report)
	Run(t, link.Run)
	return link
}

// StartPublisher runs a publisher until the end of the test.
func StartPublisher(t *testing.T, link *conn.Link, channels int) *publish.Publisher {
	t.Helper()
	p := publish.New(link, channels, zaptest.NewLogger(t))
	Run(t, p.Run)
	return p
}

// Session waits for the session of a link.
func Session(t *testing.T, link *conn.Link) *conn.Session {
	t.Helper()
	s, err := link.Session(Deadline(t, WaitLimit))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Channel opens a channel of a link.
func Channel(t *testing.T, link *conn.Link) *amqp.Channel {
	t.Helper()
	ch, err := Session(t, link).Channel(Deadline(t, WaitLimit))
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// Queue is the name of the queue that [Declare] makes for a key.
func Queue(key string) string { return "queue." + key }

// Declare makes [Exchange], and a quorum queue for each of keys. RabbitMQ 4 would drop what was delivered twenty times.
func Declare(t *testing.T, link *conn.Link, keys ...string) {
	t.Helper()
	DeclareWith(t, link, amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum, "x-delivery-limit": int32(1000)}, keys...)
}

// DeclareWith is [Declare] with other arguments of the queues.
func DeclareWith(t *testing.T, link *conn.Link, args amqp.Table, keys ...string) {
	t.Helper()
	Do(t, link, func(ch *amqp.Channel) error { return DeclareOn(ch, args, keys...) })
}

// Do calls fn with a channel of its own, and fails the test with its error.
func Do(t *testing.T, link *conn.Link, fn func(*amqp.Channel) error) {
	t.Helper()
	if err := Try(t, link, fn); err != nil {
		t.Fatal(err)
	}
}

// Try is [Do] with an error that the test may expect. A queue may take long on a broker that has many to make.
func Try(t *testing.T, link *conn.Link, fn func(*amqp.Channel) error) error {
	t.Helper()
	return Session(t, link).Do(Deadline(t, 3*WaitLimit), fn)
}

// DeclareOn is [DeclareWith] on a channel.
func DeclareOn(ch *amqp.Channel, args amqp.Table, keys ...string) error {
	if err := ch.ExchangeDeclare(Exchange, amqp.ExchangeTopic, true, false, false, false, nil); err != nil {
		return err
	}
	for _, key := range keys {
		if _, err := ch.QueueDeclare(Queue(key), true, false, false, false, args); err != nil {
			return err
		}
		if err := ch.QueueBind(Queue(key), key, Exchange, false, nil); err != nil {
			return err
		}
	}
	return nil
}

// NewMessage is a message for the queue of a key.
func NewMessage(key, id string) publish.Message {
	return publish.Message{
		Exchange: Exchange, Key: key,
		Publishing: amqp.Publishing{MessageId: id, Body: []byte(`{"a":1}`), DeliveryMode: amqp.Persistent, ContentType: "application/json"},
	}
}

// Drain takes everything out of a queue and returns the message ids, sorted.
func Drain(t *testing.T, link *conn.Link, queue string) []string {
	t.Helper()
	ids := []string{}
	ch := Channel(t, link)
	defer func() {
		if err := ch.Close(); err != nil {
			t.Error(err)
		}
	}()
	for {
		d, ok, err := ch.Get(queue, true)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		ids = append(ids, d.MessageId)
	}
	slices.Sort(ids)
	return ids
}

// Request asks the management API of a broker, and decodes its answer into into unless that is nil. The login is that of amqpURL if
// managementURL has none.
func Request(t *testing.T, managementURL, amqpURL, method, path string, into any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, managementURL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if req.URL.User == nil {
		login, err := url.Parse(amqpURL)
		if err != nil {
			t.Fatal(err)
		}
		password, _ := login.User.Password()
		req.SetBasicAuth(login.User.Username(), password)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if into == nil {
		return
	}
	if err := json.NewDecoder(res.Body).Decode(into); err != nil {
		t.Fatal(err)
	}
}
