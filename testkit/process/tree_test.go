//go:build linux

package process_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/testkit/process"
)

func TestAFrozenTreeDoesNothingUntilItIsThawed(t *testing.T) {
	// A server that still runs in one child is not frozen: its clients would be answered.
	dir := t.TempDir()
	count := filepath.Join(dir, "count")
	// The parent forks all the time, and a child of it counts.
	p := start(t, dir, "server", "(while :; do echo x >> "+count+"; sleep 0.01; done) & echo up; while :; do sleep 0.01; done")
	counted := func() int {
		body, err := os.ReadFile(count)
		if err != nil {
			return 0
		}
		return strings.Count(string(body), "x")
	}
	require.Eventually(t, func() bool { return counted() > 3 }, 10*time.Second, time.Millisecond)

	require.NoError(t, process.Freeze(t.Context(), p.PID()))
	members := children(t, p.PID())
	require.NotEmpty(t, members)
	for _, pid := range append(members, p.PID()) {
		require.Contains(t, "TZD", processState(t, pid))
	}
	before := counted()
	require.Never(t, func() bool { return counted() > before }, 200*time.Millisecond, 10*time.Millisecond)
	require.NoError(t, process.Freeze(t.Context(), p.PID()), "freezing it twice")
	require.True(t, p.Alive())

	require.NoError(t, process.Thaw(p.PID()))
	require.Eventually(t, func() bool { return counted() > before }, 10*time.Second, time.Millisecond)
}

func processState(t *testing.T, pid int) string {
	t.Helper()
	body, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	require.NoError(t, err)
	return string(body[strings.LastIndexByte(string(body), ')')+2])
}

// children are those of the process that have not ended.
func children(t *testing.T, pid int) []int {
	t.Helper()
	body, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "task", strconv.Itoa(pid), "children"))
	require.NoError(t, err)
	var pids []int
	for field := range strings.FieldsSeq(string(body)) {
		child, err := strconv.Atoi(field)
		require.NoError(t, err)
		pids = append(pids, child)
	}
	return pids
}
