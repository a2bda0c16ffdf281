package api

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/rate"
)

// replaysOfLimited is the limit of replays of the limited tenant, a second.
const replaysOfLimited = 400

// replayTokens are the tokens of that limit, which do not change with time.
type replayTokens struct {
	mu   sync.Mutex
	left int           // guarded by mu
	wait time.Duration // guarded by mu
}

func (k *replayTokens) Take(_ context.Context, _ uuid.UUID, _ rate.Amounts, costs []rate.Amounts) (passed int, q rate.Quota) {
	k.mu.Lock()
	defer k.mu.Unlock()
	passed = min(k.left, len(costs))
	k.left -= passed
	return passed, rate.Quota{Wait: k.wait}
}

func (k *replayTokens) GiveBack(_ uuid.UUID, tokens rate.Amounts) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.left += int(tokens[rate.Messages])
}

func (k *replayTokens) set(left int, wait time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.left, k.wait = left, wait
}

// Whoever replays one by one is told when to come back, and whoever replays many has those that there was time for, and the way to the
// others; what cannot be replayed is no replay. A tenant without the limit is told of none.
func TestReplaysOverTheLimit(t *testing.T) {
	t.Parallel()
	s, o := serveDeadLetters(t)
	one, two := s.deadLetter(t, limited, 1, `1`, contract.ReasonRejected), s.deadLetter(t, limited, 2, `2`, contract.ReasonRejected)
	s.deadLetter(t, limited, 3, `3`, contract.ReasonRejected)
	foreign := s.deadLetter(t, active, 4, `4`, contract.ReasonRejected)
	replay := func(tenant, id uuid.UUID, body string) answer {
		return s.manage(t, tenant, http.MethodPost, "/dead-letters/"+id.String()+"/replay", body)
	}
	s.replays.set(1, 2300*time.Millisecond)
	replay(limited, uuid.New(), "").problem(t, http.StatusNotFound, "dead_letter_not_found")
	replay(limited, one.ID, `{"payload":"\u0000"}`).problem(t, http.StatusBadRequest, "payload_unstorable")
	require.Equal(t, http.StatusAccepted, replay(limited, one.ID, "").status)
	refused := replay(limited, two.ID, "")
	refused.problem(t, http.StatusTooManyRequests, "rate_limited")
	require.Equal(t, "3", refused.header.Get("Retry-After"))
	require.Len(t, o.published, 1)
	require.Equal(t, http.StatusAccepted, replay(active, foreign.ID, "").status)

	s.replays.set(1, time.Hour)
	var many DeadLettersReplayed
	s.manage(t, limited, http.MethodPost, "/dead-letters/replay?all=true", "").into(t, http.StatusOK, &many)
	require.Equal(t, 1, many.Replayed)
	require.True(t, many.HasMore)
	require.Empty(t, many.Stopped, "nothing is wrong")
	s.replays.set(5, 0)
	s.manage(t, limited, http.MethodPost, "/dead-letters/replay?all=true&cursor="+many.NextCursor, "").into(t, http.StatusOK, &many)
	require.Equal(t, 1, many.Replayed)
	require.False(t, many.HasMore)
	require.Len(t, o.published, 4)
}
