package publish

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
)

func newTestBreakers(keys ...string) *breakers {
	s := newBreakers(stallAfter, longestRefusal, zap.NewNop())
	for _, key := range keys {
		s.trip([]destination{{"x", key}, {"x", key}})
	}
	return s
}

func try(t *testing.T, s *breakers, key string, outcome error) {
	t.Helper()
	tripped, err := s.admit(t.Context(), destination{"x", key})
	require.NoError(t, err)
	require.NotNil(t, tripped)
	s.record(tripped, outcome)
}

// A queue that has come back is noticed within half a minute; one that was merely slow is not punished for so long.
func TestRefusalsGrow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newTestBreakers("a")
		for _, refusal := range []time.Duration{5, 10, 20, 30, 30} {
			try(t, s, "a", errStalled)
			<-time.After(refusal*time.Second - 1) // of the bubble's clock
			_, err := s.admit(t.Context(), destination{"x", "a"})
			require.ErrorIs(t, err, conn.ErrUnavailable)
			require.ErrorIs(t, err, conn.ErrUnanswered)
			<-time.After(1)
		}
		try(t, s, "a", nil)
		require.False(t, s.tripped(destination{"x", "a"}))
		s.trip([]destination{{"x", "a"}})
		try(t, s, "a", errStalled)
		<-time.After(5 * time.Second)
		try(t, s, "a", nil) // nothing is left of the refusals before
	})
}

// Every answer clears, since the queue need not accept a message to show that it is there; the loss of the connection says nothing.
func TestWhatClosesABreaker(t *testing.T) {
	t.Parallel()
	for outcome, cleared := range map[error]bool{
		nil: true, ErrRejected: true, ErrUnroutable: true,
		conn.ErrUnavailable: false, conn.ErrBlocked: false, context.Canceled: false, errStalled: false,
	} {
		s := newTestBreakers("a", "b")
		try(t, s, "a", outcome)
		require.Equal(t, !cleared, s.tripped(destination{"x", "a"}), outcome)
		require.True(t, s.tripped(destination{"x", "b"}))
		require.False(t, s.tripped(destination{"y", "b"}), "the exchange counts, too")
	}
}

// However many requests there are for a tripped destination, one of them is risked.
func TestOneTrialAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newTestBreakers("a")
		tripped, err := s.admit(t.Context(), destination{"x", "a"})
		require.NoError(t, err)
		waiting := func(ctx context.Context) <-chan error {
			result := make(chan error, 1)
			go func() {
				other, err := s.admit(ctx, destination{"x", "a"})
				if other != nil {
					err = errors.New("a second trial")
				}
				result <- err
			}()
			return result
		}
		withDeadline, leave := context.WithCancel(t.Context())
		first, second := waiting(t.Context()), waiting(withDeadline)
		synctest.Wait()
		leave()
		require.ErrorIs(t, <-second, context.Canceled)
		s.record(tripped, errStalled)
		require.ErrorIs(t, <-first, conn.ErrUnanswered)

		<-time.After(stallAfter)
		tripped, err = s.admit(t.Context(), destination{"x", "a"})
		require.NoError(t, err)
		require.ErrorIs(t, <-waiting(t.Context()), conn.ErrUnanswered, "it has failed before: nobody else waits for the trial")
		s.record(tripped, nil)
		require.NoError(t, <-waiting(t.Context()))
	})
}

// Tenants come and go for years.
func TestSuspicionsExpire(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newTestBreakers("a", "b", "c")
		tried, err := s.admit(t.Context(), destination{"x", "c"})
		require.NoError(t, err)
		<-time.After(breakerLifetime)
		try(t, s, "b", errStalled)
		<-time.After(1)
		s.trip([]destination{{"x", "d"}})
		require.False(t, s.tripped(destination{"x", "a"}))
		require.True(t, s.tripped(destination{"x", "b"}), "somebody still asks for it")
		require.True(t, s.tripped(destination{"x", "c"}), "its trial is under way")
		s.record(tried, nil)
		require.EqualValues(t, 2, s.count.Load())
	})
}
