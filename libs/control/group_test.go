package control

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/component"
)

// What one instance knows of the others decides what it lets through: it must not lose them because it is cut off itself, and not keep
// those that have died.
func TestGroupMembers(t *testing.T) {
	t.Parallel()
	g := NewGroup(nil, "group", "b")
	now := time.Now()
	tick := func(n int, names ...string) {
		for range n {
			now = now.Add(announceInterval)
			for _, name := range names {
				g.receive(name, now)
			}
		}
	}
	g.receive("a", now)
	require.Empty(t, g.Members(), "nobody knows whether this one is heard")
	tick(1, "a", "b", "c", "")
	require.Equal(t, []string{"a", "b", "c"}, g.Members())
	tick(3, "b", "c")
	require.Equal(t, []string{"a", "b", "c"}, g.Members(), "three may be lost")
	tick(3, "b", "c")
	require.Equal(t, []string{"b", "c"}, g.Members(), "a has died")
	tick(60)
	require.Equal(t, []string{"b", "c"}, g.Members(), "cut off")
	tick(4, "b")
	require.Equal(t, []string{"b", "c"}, g.Members(), "c may not be back yet")
	tick(1, "c")
	tick(3, "b")
	require.Equal(t, []string{"b", "c"}, g.Members())
	tick(3, "b")
	require.Equal(t, []string{"b"}, g.Members())
	for i := range 2 * maxMembers {
		g.receive(fmt.Sprint("member ", i), now)
	}
	require.Len(t, g.Members(), maxMembers+1)
}

// Instances find each other at once, keep each other while NATS restarts, and notice who has gone.
func TestGroupOverNATS(t *testing.T) {
	server := backing.StartNATS(t)
	groups := map[string]*Group{}
	stops := map[string]func(){}
	start := func(name string) {
		conn, err := Connect(Config{URL: server.URL}, name, zap.NewNop(), nil)
		require.NoError(t, err)
		t.Cleanup(conn.Close)
		g := NewGroup(conn, "group", name)
		groups[name] = g
		stops[name] = component.Run(t, func(ctx context.Context) error { return g.Run(ctx) })
	}
	await := func(names ...string) {
		t.Helper()
		for _, name := range names {
			require.Eventually(t, func() bool { return slices.Equal(names, groups[name].Members()) }, 30*time.Second, 5*time.Millisecond, name)
		}
	}
	start("a")
	start("b")
	await("a", "b")
	start("c")
	await("a", "b", "c")
	server.Stop()
	stops["c"]()
	require.Equal(t, []string{"a", "b", "c"}, groups["a"].Members(), "nobody can tell")
	server.Start()
	await("a", "b")
}
