package traffic

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

// Late is what was begun after the revocation, and nothing that may have been handled before.
func TestUsesOfAGrant(t *testing.T) {
	traffic, g := &Traffic{revoked: newRevocations()}, &grant{}
	began := time.Now()
	traffic.accepted(g, stack.QueryService, began)
	traffic.declined(g, stack.QueryService) // such as by a broker that is starting
	g.asked.Store(true)
	traffic.accepted(g, stack.QueryService, began)
	revoked := time.Now()
	g.revoked.Store(&revoked)
	traffic.accepted(g, stack.QueryService, began)
	after := revoked.Add(time.Second)
	traffic.accepted(g, stack.QueryService, after)
	traffic.declined(g, stack.QueryService)
	got := traffic.Revocations()
	require.Equal(t, map[string]int64{stack.QueryService: 1}, got.Accepted)
	require.Equal(t, map[string]int64{stack.QueryService: 1}, got.Refused)
	require.Equal(t, []Late{{Service: stack.QueryService, Revoked: revoked, Began: after}}, got.Late)
}

// What was revoked is tried to the end of a run, and less and less often.
func TestPauses(t *testing.T) {
	g := &grant{}
	require.Equal(t, usePause, g.pause())
	long := time.Now().Add(-time.Minute)
	g.revoked.Store(&long)
	require.GreaterOrEqual(t, g.pause(), time.Minute/pauseGrowth)
}
