package client_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
)

// handle makes a client of a function that answers every request.
func handle(t *testing.T, do step, opts ...client.Option) *client.Client {
	t.Helper()
	c, err := client.New(client.URLs{Tenant: "http://tenant", Ingest: "http://ingest", Query: "http://query"}, client.StaticToken("t"),
		append([]client.Option{client.WithTransport(roundTripper(do))}, opts...)...)
	require.NoError(t, err)
	return c
}

type roundTripper step

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	s := &script{steps: []step{step(f)}}
	return s.RoundTrip(r)
}

func publish(t *testing.T, p *client.Publisher, n int) *client.Pending {
	t.Helper()
	pending, err := p.Publish(t.Context(), client.Publishing{ID: fixed(n), Payload: n})
	require.NoError(t, err)
	require.Equal(t, fixed(n), pending.ID())
	return pending
}

// Messages that come one by one go out in few requests, and none waits longer than the linger time for company.
func TestPublisherGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := play(t, nil, slices.Repeat([]step{acceptLines(nil)}, 4)...)
		p := c.NewPublisher(client.PublisherConfig{Linger: 10 * time.Millisecond, BatchMessages: 3})
		begun := time.Now()
		first := publish(t, p, 1)
		publish(t, p, 2)
		require.NoError(t, first.Wait(t.Context()))
		require.Equal(t, 10*time.Millisecond, time.Since(begun), "lingered")
		for n := 3; n <= 5; n++ {
			first = publish(t, p, n)
		}
		require.NoError(t, first.Wait(t.Context()))
		require.Equal(t, 10*time.Millisecond, time.Since(begun), "full")
		time.Sleep(time.Second) //nolint:forbidigo // the time of a bubble, in which the linger time of nothing ends
		publish(t, p, 6)
		synctest.Wait()
		require.NoError(t, publish(t, p, 7).Wait(t.Context()))
		begun = time.Now()
		last := publish(t, p, 8)
		require.NoError(t, p.Close(t.Context()))
		require.Zero(t, time.Since(begun), "closed")
		require.NoError(t, last.Wait(t.Context()))
		require.Equal(t, []int{1, 2}, ids(s.sent[0]))
		require.Equal(t, []int{3, 4, 5}, ids(s.sent[1]))
		require.Equal(t, []int{6, 7}, ids(s.sent[2]))
		require.Equal(t, []int{8}, ids(s.sent[3]))
	})
}

// The bytes of a batch are bounded, whatever the number of its messages; a message that is longer goes alone.
func TestPublisherBoundsBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := play(t, nil, slices.Repeat([]step{acceptLines(nil)}, 4)...)
		p := c.NewPublisher(client.PublisherConfig{BatchBytes: 1000, Concurrency: 1, Linger: time.Hour})
		begun := time.Now()
		for i, length := range []int{300, 300, 300, 5000, 10} {
			m, err := p.Publish(t.Context(), client.Publishing{ID: fixed(i + 1), Payload: strings.Repeat("x", length)})
			require.NoError(t, err)
			if i == 2 {
				synctest.Wait()
			}
			if i == 3 { // itself over the bound, and with it what was before it
				require.NoError(t, m.Wait(t.Context()))
				require.Zero(t, time.Since(begun))
			}
		}
		require.NoError(t, p.Flush(t.Context()), "although the linger time is an hour")
		require.NoError(t, p.Close(t.Context()))
		require.Equal(t, []int{1, 2}, ids(s.sent[0]))
		require.Equal(t, []int{3}, ids(s.sent[1]))
		require.Equal(t, []int{4}, ids(s.sent[2]))
		require.Equal(t, []int{5}, ids(s.sent[3]))
	})
}

// A producer that is faster than the platform is slowed down, not buffered without a bound.
func TestPublisherHoldsProducersBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var under, most int
		var mu sync.Mutex
		c := handle(t, func(r *http.Request, body []byte) (*http.Response, error) {
			mu.Lock()
			under++
			most = max(most, under)
			mu.Unlock()
			defer func() { mu.Lock(); under--; mu.Unlock() }()
			time.Sleep(time.Second) //nolint:forbidigo // the time of a bubble
			return acceptLines(nil)(r, body)
		})
		p := c.NewPublisher(client.PublisherConfig{BatchMessages: 10, Concurrency: 2})
		begun := time.Now()
		for n := 1; n <= 30; n++ { // two batches under way, one full
			publish(t, p, n)
		}
		require.Zero(t, time.Since(begun))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := p.Publish(ctx, client.Publishing{Payload: 1})
		require.ErrorIs(t, err, context.DeadlineExceeded, "not enqueued")
		publish(t, p, 31)
		require.Equal(t, time.Second, time.Since(begun), "as soon as there is room")
		require.NoError(t, p.Close(t.Context()))
		require.Equal(t, 2, most)
	})
}

// Flush is over when what was enqueued before it has its results, whatever comes after it.
func TestPublisherFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := handle(t, func(r *http.Request, body []byte) (*http.Response, error) {
			if strings.Contains(string(body), `"slow"`) {
				time.Sleep(time.Minute) //nolint:forbidigo // the time of a bubble
			}
			return acceptLines(map[int]string{0: "400 payload_too_deep"})(r, body)
		}, client.WithAttemptTimeout(time.Hour))
		p := c.NewPublisher(client.PublisherConfig{Linger: time.Hour})
		require.NoError(t, p.Flush(t.Context()), "of nothing")
		publish(t, p, 1)
		publish(t, p, 2)
		err := p.Flush(t.Context())
		require.ErrorContains(t, err, "1 of 2 messages were not accepted")
		require.ErrorIs(t, err, client.ErrPayloadTooDeep)
		require.NoError(t, p.Flush(t.Context()), "it has been told already")

		begun := time.Now()
		slow, err := p.Publish(t.Context(), client.Publishing{Payload: "slow"})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, p.Flush(ctx), context.DeadlineExceeded)
		publish(t, p, 3)
		require.ErrorContains(t, p.Flush(t.Context()), "1 of 1", "waits for the slow one before it")
		require.Equal(t, time.Minute, time.Since(begun))
		require.Error(t, slow.Wait(t.Context()))
		require.ErrorContains(t, p.Close(t.Context()), "3 of 4 messages", "of all")
		require.ErrorContains(t, p.Flush(t.Context()), "3 of 4 messages", "of all, once closed")
	})
}

// A message that waits for a place in a batch is flushed as well, however long the linger time is.
func TestPublisherFlushesWhatDidNotFit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := handle(t, func(r *http.Request, body []byte) (*http.Response, error) {
			time.Sleep(time.Second) //nolint:forbidigo // the time of a bubble
			return acceptLines(nil)(r, body)
		})
		p := c.NewPublisher(client.PublisherConfig{Linger: time.Hour, BatchBytes: 100, Concurrency: 1})
		for n := 1; n <= 3; n++ { // one under way, one in the batch, one for which there is no place
			_, err := p.Publish(t.Context(), client.Publishing{Payload: "xxxxxxxxxx"})
			require.NoError(t, err)
		}
		synctest.Wait()
		begun := time.Now()
		require.NoError(t, p.Flush(t.Context()))
		require.Equal(t, 3*time.Second, time.Since(begun))
		require.NoError(t, p.Close(t.Context()))
	})
}

// Close that runs out of time gives up, and says of each message that it did.
func TestPublisherCloseInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		results := map[client.ID]error{}
		c := handle(t, silent)
		p := c.NewPublisher(client.PublisherConfig{BatchMessages: 2, Concurrency: 1, Linger: time.Hour, OnResult: func(r client.Result) {
			mu.Lock()
			defer mu.Unlock()
			results[r.ID] = r.Err
		}})
		waiting := make([]*client.Pending, 0, 4)
		for n := 1; n <= 4; n++ {
			waiting = append(waiting, publish(t, p, n))
		}
		blocked := make(chan error)
		go func() {
			_, err := p.Publish(context.WithoutCancel(t.Context()), client.Publishing{Payload: 1})
			blocked <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		begun := time.Now()
		err := p.Close(ctx)
		require.ErrorContains(t, err, "4 of 4 messages")
		require.ErrorIs(t, err, client.ErrClosed)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 3*time.Second, time.Since(begun))
		require.ErrorIs(t, <-blocked, client.ErrClosed, "it was not enqueued, and is told so")
		for _, w := range waiting {
			require.ErrorIs(t, w.Wait(t.Context()), client.ErrClosed)
			require.ErrorIs(t, results[w.ID()], client.ErrClosed)
		}
		require.Len(t, results, 4)
		_, err = p.Publish(t.Context(), client.Publishing{Payload: 1})
		require.ErrorIs(t, err, client.ErrClosed)
		require.ErrorContains(t, p.Close(t.Context()), "4 of 4 messages", "again")
	})
}

// A batch that cannot be delivered ends after its time, so that a flush ends, too.
func TestPublisherTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := handle(t, refuse(503, "broker_blocked", "Retry-After", "10"))
		p := c.NewPublisher(client.PublisherConfig{Timeout: time.Minute})
		pending := publish(t, p, 1)
		begun := time.Now()
		require.ErrorIs(t, pending.Wait(t.Context()), client.ErrBrokerBlocked)
		require.LessOrEqual(t, time.Since(begun), time.Minute+5*time.Millisecond)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, publish(t, p, 2).Wait(ctx), context.Canceled, "waiting can be given up; the message stays")
		require.ErrorContains(t, p.Close(t.Context()), "2 of 2")
	})
}

// Whatever breaks, and whenever it is closed: every enqueued message has one result, and it is true.
func TestPublisherLosesNothing(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { loseNothing(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func loseNothing(t *testing.T, random *rand.Rand) {
	t.Helper()
	var mu sync.Mutex
	stored := map[string]bool{}
	chance := func(n int) int { mu.Lock(); defer mu.Unlock(); return random.IntN(n) }
	c := handle(t, func(r *http.Request, body []byte) (*http.Response, error) {
		time.Sleep(time.Duration(chance(50)) * time.Millisecond) //nolint:forbidigo // the time of a bubble
		refused, accepted := map[int]string{}, body
		switch fault := chance(10); fault {
		case 0:
			return cut(r, body)
		case 1:
			return refuse(503, "broker_blocked")(r, body)
		case 2: // some lines
			var lines []string
			for i, line := range slices.Collect(strings.Lines(string(body))) {
				if code := []string{"503 queue_full", "400 payload_too_deep", ""}[chance(3)]; code != "" {
					refused[i] = code
				} else {
					lines = append(lines, line)
				}
			}
			accepted = []byte(strings.Join(lines, ""))
		}
		mu.Lock()
		for line := range strings.Lines(string(accepted)) {
			stored[line[7:43]] = true
		}
		mu.Unlock()
		if chance(10) == 0 {
			return half(acceptLines(refused))(r, body)
		}
		return acceptLines(refused)(r, body)
	}, client.WithRetry(client.Retry{MinDelay: 10 * time.Millisecond, MaxDelay: 100 * time.Millisecond}))

	results := map[client.ID][]error{}
	p := c.NewPublisher(client.PublisherConfig{
		BatchMessages: 1 + random.IntN(20), BatchBytes: 60 + random.IntN(2000), Concurrency: 1 + random.IntN(4), Timeout: time.Second,
		OnResult: func(r client.Result) {
			mu.Lock()
			defer mu.Unlock()
			results[r.ID] = append(results[r.ID], r.Err)
		},
	})
	var producing sync.WaitGroup
	var pending []*client.Pending
	for range 5 {
		producing.Go(func() {
			for range 200 {
				m, err := p.Publish(t.Context(), client.Publishing{Payload: "x"})
				if errors.Is(err, client.ErrClosed) {
					return
				}
				mu.Lock()
				pending = append(pending, m)
				mu.Unlock()
			}
		})
	}
	producing.Go(func() { _ = p.Flush(t.Context()) }) // its error is looked at below, message by message
	if chance(2) == 0 {
		producing.Wait() // else it is closed in their midst
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(chance(5000))*time.Millisecond)
	defer cancel()
	err := p.Close(ctx)
	mu.Lock() // all senders have ended; producers may still learn that it is closed
	failed := 0
	for _, m := range pending {
		select {
		case <-m.Done():
		default:
			t.Fatalf("message %s has no result", m.ID())
		}
		result := m.Wait(ctx)
		require.Equal(t, []error{result}, results[m.ID()], "one result")
		if result == nil {
			require.True(t, stored[m.ID().String()], "message %s was not accepted", m.ID())
		} else {
			failed++
		}
	}
	mu.Unlock()
	if failed == 0 {
		require.NoError(t, err)
	} else {
		require.ErrorContains(t, err, fmt.Sprintf("%d of %d messages", failed, len(pending)))
	}
	producing.Wait()
}
