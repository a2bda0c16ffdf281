package client_test

import (
	"bytes"
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
)

// limited answers batches as a service does whose tenant may publish so many messages, and then none for the time of after: the first
// lines are accepted, the others told to come back. early counts requests that did not wait for that.
func limited(burst int, after string, pause time.Duration, early *int) step {
	var due time.Time
	return func(r *http.Request, body []byte) (*http.Response, error) {
		if time.Now().Before(due) {
			*early++
		}
		codes := map[int]string{}
		for i := burst; i < bytes.Count(body, []byte("\n")); i++ {
			codes[i] = "429 rate_limited"
		}
		response, err := acceptLines(codes)(r, body)
		if len(codes) > 0 && err == nil {
			response.Header.Set("Retry-After", after)
			due = time.Now().Add(pause)
		}
		return response, err
	}
}

// A publisher whose tenant is over its rate gives up nothing and hurries nobody: it waits as it is told, and everything is accepted.
func TestPublisherWaitsForTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		early := 0
		c := handle(t, limited(10, "3", 3*time.Second, &early))
		p := c.NewPublisher(client.PublisherConfig{Concurrency: 1})
		begun := time.Now()
		for i := range 100 {
			publish(t, p, i)
		}
		require.NoError(t, p.Close(t.Context()))
		require.Zero(t, early, "requests before their time")
		require.GreaterOrEqual(t, time.Since(begun), 9*3*time.Second)
		require.Less(t, time.Since(begun), 10*3*time.Second)
	})
}

// The same for one message, and for a batch whose context ends first: its messages have the reason, and are safe to publish again.
func TestRateWithinTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := play(t, nil, refuse(429, "rate_limited", "Retry-After", "5"), accept)
		begun := time.Now()
		_, err := c.Publish(t.Context(), client.Publishing{Payload: 1})
		require.NoError(t, err)
		require.GreaterOrEqual(t, time.Since(begun), 5*time.Second)

		early := 0
		c = handle(t, limited(2, "5", 5*time.Second, &early))
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		defer cancel()
		results, err := c.PublishBatch(ctx, publishings(6))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		for i, r := range results {
			if i < 4 {
				require.NoError(t, r.Err)
				continue
			}
			require.ErrorIs(t, r.Err, client.ErrRateLimited)
		}
		require.Zero(t, early)
	})
}

// A tenant without room: a publisher gives up at once, with the reason, where waiting does not help, and waits as it is told where it does.
func TestPublisherOfAFullTenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := map[int]string{0: "507 storage_full"}
		c, s := play(t, nil, acceptLines(full))
		p := c.NewPublisher(client.PublisherConfig{})
		refused := publish(t, p, 1)
		require.ErrorIs(t, p.Close(t.Context()), client.ErrStorageFull)
		require.ErrorIs(t, refused.Wait(t.Context()), client.ErrStorageFull)
		require.Len(t, s.sent, 1)

		c, s = play(t, nil, func(r *http.Request, body []byte) (*http.Response, error) {
			response, err := acceptLines(full)(r, body)
			response.Header.Set("Retry-After", "10")
			return response, err
		}, acceptLines(nil))
		begun := time.Now()
		_, err := c.PublishBatch(t.Context(), publishings(1))
		require.NoError(t, err)
		require.GreaterOrEqual(t, time.Since(begun), 10*time.Second)
		require.Len(t, s.sent, 2)
	})
}

// A reader whose tenant is over its limit of bytes a second, or has too many reads under way, waits as it is told, and has every message
// once; and so does a replay.
func TestReaderWaitsForTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := play(t, nil,
			pageOf("c1", true, 1, 2), refuse(429, "rate_limited", "Retry-After", "7"), pageOf("c2", true, 3),
			refuse(429, "too_many_reads", "Retry-After", "1"), refuse(429, "rate_limited", "Retry-After", "20"), pageOf("c3", false, 4))
		begun := time.Now()
		numbers, err := read(t, c.Messages(client.MessageQuery{}).All(t.Context()), 0)
		require.NoError(t, err)
		require.Equal(t, []int{1, 2, 3, 4}, numbers)
		require.Equal(t, []string{"", "c1", "c1", "c2", "c2", "c2"}, cursors(s))
		require.GreaterOrEqual(t, time.Since(begun), 28*time.Second)
		require.Less(t, time.Since(begun), 29*time.Second)

		c, _ = play(t, nil, refuse(429, "rate_limited", "Retry-After", "3"), answer(202, `{"message_id":"`+fixed(1).String()+`","result":"replayed"}`))
		begun = time.Now()
		got, err := c.ReplayDeadLetter(t.Context(), fixed(2))
		require.NoError(t, err)
		require.Equal(t, client.Replayed, got.Result)
		require.GreaterOrEqual(t, time.Since(begun), 3*time.Second)

		c, _ = play(t, []client.Option{client.WithRetry(client.Retry{MaxAttempts: 1})}, refuse(429, "too_many_reads"))
		_, err = c.Message(t.Context(), fixed(1))
		require.ErrorIs(t, err, client.ErrTooManyReads)
	})
}
