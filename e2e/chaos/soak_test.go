package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// trimLines takes the white space at the ends of lines away.
func trimLines(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

// over adds the values of fn over 30 minutes.
func over(s *series, name string, u unit, fn func(minute int) float64) {
	for minute := range 30 {
		s.add(name, u, time.Duration(minute)*time.Minute, fn(minute))
	}
}

// A leak has to be found, and what only goes up and down must not be taken for one.
func TestFlatness(t *testing.T) {
	const mib = 1 << 20
	for name, test := range map[string]struct {
		u     unit
		fn    func(minute int) float64
		rises bool
	}{
		"flat":                    {unitMiB, func(int) float64 { return 100 * mib }, false},
		"a saw":                   {unitMiB, func(m int) float64 { return float64(80+40*(m%5)) * mib }, false},
		"one peak in the end":     {unitMiB, func(m int) float64 { return float64(100+500*(m/29)) * mib }, false},
		"falling":                 {unitMiB, func(m int) float64 { return float64(200-m) * mib }, false},
		"a leak of memory":        {unitMiB, func(m int) float64 { return float64(100+3*m) * mib }, true},
		"a leak of goroutines":    {unitGoroutines, func(m int) float64 { return float64(150 + 5*m) }, true},
		"a leak of connections":   {unitConnections, func(m int) float64 { return float64(5 + m/4) }, true},
		"a connection more":       {unitConnections, func(m int) float64 { return float64(5 + m/20) }, false},
		"a queue that is growing": {unitMessages, func(m int) float64 { return float64(1000 * m) }, true},
	} {
		all := newSeries()
		over(all, name, test.u, test.fn)
		r := &report{}
		r.flatness(all)
		require.Equal(t, test.rises, len(r.failures) == 1, "%s: %v", name, r.tables)
	}
	r := &report{}
	r.flatness(newSeries())
	require.Len(t, r.failures, 1, "nothing was looked at")
}

func TestSlope(t *testing.T) {
	s := newSeries()
	over(s, "x", unitGoroutines, func(minute int) float64 { return 7 + 2*float64(minute) })
	require.InDelta(t, 120, slope(s.points["x"]), 1e-9)
	require.Zero(t, slope(s.points["x"][:1]))
	first, middle, last := thirds(s.points["x"])
	require.InDelta(t, 7+2*4, first, 0)
	require.InDelta(t, 7+2*14, middle, 0)
	require.InDelta(t, 7+2*24, last, 0)
	first, middle, last = thirds(s.points["x"][:1])
	require.InDelta(t, 7, first, 0)
	require.InDelta(t, 7, middle, 0)
	require.InDelta(t, 7, last, 0)
}

func TestFormat(t *testing.T) {
	require.Equal(t, "1.5", unitMiB.format(1.5*(1<<20)))
	require.Equal(t, "-0.5", unitMiB.format(-0.5*(1<<20)))
	require.Equal(t, "0.0", unitMiB.format(-1))
	require.Equal(t, "0", unitGoroutines.format(-0.2))
	require.Equal(t, "-10", unitGoroutines.format(-10))
}

func TestScrape(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "# HELP go_goroutines x\ngo_goroutines 12\ngo_goroutines_other 3\nprocess_open_fds 1.5e+01\n") //nolint:errcheck // a test server
	}))
	defer server.Close()
	values, err := scrape(t.Context(), server.URL, metricGoroutines, metricFiles)
	require.NoError(t, err)
	require.Equal(t, map[string]float64{metricGoroutines: 12, metricFiles: 15}, values)
	_, err = scrape(t.Context(), server.URL, metricGoroutines, metricRSS)
	require.Error(t, err, "a metric that has another name would be sampled as nothing")
}

func TestCountConnections(t *testing.T) {
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, listener.Close()) })
	_, text, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	port, err := strconv.Atoi(text)
	require.NoError(t, err)
	const connections = 3
	for range connections {
		var dialer net.Dialer
		outgoing, err := dialer.DialContext(t.Context(), "tcp4", listener.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, outgoing.Close()) })
		incoming, err := listener.Accept()
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, incoming.Close()) })
	}
	counts := make(map[backing.Name]float64)
	require.NoError(t, countConnections(os.Getpid(), map[int]backing.Name{port: backing.ServiceNATS}, counts))
	require.Equal(t, map[backing.Name]float64{backing.ServiceNATS: connections}, counts)
}
