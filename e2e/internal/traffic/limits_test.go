package traffic

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
)

// A limit that was noticed where there is none is a refusal, and what a limit declines is not one.
func TestOutcomes(t *testing.T) {
	rate := &client.Problem{Status: 429, Code: client.ErrRateLimited, RetryAfter: time.Minute}
	size := &client.Problem{Status: 413, Code: client.ErrPayloadTooLarge}
	for name, test := range map[string]struct {
		err             error
		limited, beyond outcome // of a tenant with limits, and without
	}{
		"accepted":         {nil, outcomeConfirmed, outcomeConfirmed},
		"over the rate":    {rate, outcomeDeclined, outcomeRefused},
		"wrapped":          {fmt.Errorf("publish: %w", rate), outcomeDeclined, outcomeRefused},
		"over the size":    {size, outcomeDeclined, outcomeRefused},
		"a batch too long": {&client.Problem{Status: 413, Code: client.ErrBodyTooLarge}, outcomeRefused, outcomeRefused},
		"refused":          {&client.Problem{Status: 400}, outcomeRefused, outcomeRefused},
		"not now":          {&client.Problem{Status: 503}, outcomeUnknown, outcomeUnknown},
		"no answer":        {errors.New("reset"), outcomeUnknown, outcomeUnknown},
	} {
		a := newAccount(1, uuid.New(), 256)
		for _, limited := range []bool{true, false} {
			traffic := &Traffic{}
			outcomes := []outcome{outcomeOf(test.err)}
			traffic.noteLimits(a, limited, outcomes, []error{test.err})
			want := test.beyond
			if limited {
				want = test.limited
			}
			require.Equal(t, want, outcomes[0], name)
			require.Equal(t, want == outcomeDeclined, traffic.Limits() != Limits{}, name)
		}
	}
	require.Equal(t, longestWait, retryAfter(fmt.Errorf("publish: %w", rate)), "no longer than the limit may last")
	require.Zero(t, retryAfter(nil))
}

// What a tenant is given has to be taken: limits that contradict each other are refused.
func TestLimitsDoNotContradictEachOther(t *testing.T) {
	dice := rand.New(rand.NewPCG(1, 2))
	seen := make(map[client.Limit]int)
	for range 200 {
		patch, workers := limits(dice)
		require.Len(t, patch, len(unlimited()), "what is not limited is the default again")
		require.EqualValues(t, workers, *patch[client.LimitWorkers])
		for name, value := range patch {
			if value != nil {
				require.Positive(t, *value)
				seen[name]++
			}
		}
		if size, volume := patch[client.LimitMaxPayload], patch[client.LimitPublishBytes]; size != nil && volume != nil {
			require.LessOrEqual(t, *size, *volume)
		}
	}
	require.Len(t, seen, len(unlimited()), "every limit is used")
}

func TestLargeMessages(t *testing.T) {
	mine := newIdentity(1, uuid.New(), 256)
	mine.large = true
	large := 0
	for seq := range uint32(2000) {
		length := len(compacted(mine.payload(seq, 0)))
		require.Equal(t, mine.isLarge(seq), length > payloadLimit)
		if length > payloadLimit {
			large++
		}
	}
	require.InDelta(t, 2000/largeEvery, large, 40)
}
