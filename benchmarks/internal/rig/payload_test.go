package rig_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
)

// A payload that is no JSON, or of another size than it says, would be measured as a dead letter, or as something else.
func TestPayload(t *testing.T) {
	for _, size := range []int{64, 256, 1 << 10, 16 << 10} {
		payload := rig.Payload(size)
		require.Len(t, payload, size)
		require.True(t, json.Valid(payload), "%d bytes: %s", size, payload)
		require.Equal(t, payload, rig.Payload(size), "every run measures the same")
	}
}

func TestSamplesSum(t *testing.T) {
	samples := rig.Samples{`a_total{tenant="1"}`: 2, `a_total{tenant="2"}`: 3, "a_total_seconds": 100, "b": 4}
	require.InDelta(t, 5, samples.Sum("a_total"), 1e-9)
	require.InDelta(t, 4, samples.Sum("b"), 1e-9)
	require.InDelta(t, 0, samples.Sum("c"), 1e-9)
}
