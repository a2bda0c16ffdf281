package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/srireskianita/multi-tenant-messaging/e2e/internal/fault"
	"github.com/srireskianita/multi-tenant-messaging/e2e/internal/traffic"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParse(t *testing.T) {
	opts, err := parse([]string{"chaos"})
	require.NoError(t, err)
	require.Equal(t, chaosDuration, opts.duration)
	require.InDelta(t, chaosRate, opts.rate, 0)
	require.Positive(t, opts.seed, "one is chosen, and printed")

	opts, err = parse([]string{"chaos", "-soak", "-seed", "42", "-rate", "10", "-report", "x.md"})
	require.NoError(t, err)
	require.Equal(t, options{soak: true, duration: soakDuration, seed: 42, rate: 10, tenants: 20, report: "x.md", reader: conn.ReaderWire}, opts)

	opts, err = parse([]string{"chaos", "-soak"})
	require.NoError(t, err)
	require.Zero(t, opts.rate, "it is measured")

	for _, args := range [][]string{{"x"}, {"-tenants", "1"}, {"-rate", "-1"}, {"-duration", "-1s"}, {"-reader", "x"}} {
		_, err := parse(append([]string{"chaos"}, args...))
		require.Error(t, err, "%v", args)
	}
}

// all is a good result of every kind, as often as they are wanted.
func all() (results []fault.Result) {
	for range wanted {
		for _, kind := range fault.Kinds() {
			results = append(results, fault.Result{Kind: kind, Recovery: time.Second})
		}
	}
	return results
}

// A run that is called green although a fault was left out, or not recovered from, shows nothing.
func TestFaultsThatFail(t *testing.T) {
	for name, test := range map[string]struct {
		results  []fault.Result
		complete bool
		failures int
	}{
		"all recovered":     {all(), true, 0},
		"recovered late":    {append(all(), fault.Result{Kind: fault.Cut, Recovery: recoveryLimit + 1}), true, 1},
		"not recovered":     {append(all(), fault.Result{Kind: fault.Cut, Err: errors.New("no")}), true, 1},
		"one kind too few":  {all()[1:], true, 1},
		"nothing injected":  {nil, true, len(fault.Kinds())},
		"a short run":       {all()[:1], false, 0},
		"a short run fails": {[]fault.Result{{Kind: fault.Cut, Err: errors.New("no")}}, false, 1},
	} {
		r := &report{}
		r.faults(test.results, test.complete)
		require.Len(t, r.failures, test.failures, "%s: %v", name, r.failures)
	}
}

func TestFaultTable(t *testing.T) {
	r := &report{}
	r.faults([]fault.Result{
		{Kind: fault.KillNATS, Recovery: time.Second, Applied: 300 * time.Millisecond},
		{Kind: fault.KillNATS, Recovery: 3 * time.Second, Applied: 100 * time.Millisecond},
		{Kind: fault.KillNATS, Recovery: 2 * time.Second},
		{Kind: fault.TenantChurn, Recovery: time.Millisecond, Created: 50 * time.Millisecond},
	}, false)
	require.Contains(t, r.tables[0].rows, []string{"kill-nats", "3", "2.0s", "3.0s"})
	require.Equal(t, [][]string{
		{"POST /tenants → consuming", "1", "50ms", "50ms"},
		{"NATS restart → applied change", "2", "100ms", "300ms"},
	}, r.tables[1].rows)
}

// Every broken promise fails the run.
func TestVerdictThatFails(t *testing.T) {
	for name, v := range map[string]traffic.Verdict{
		"lost": {Lost: 1}, "duplicated": {Duplicated: 1}, "foreign": {Foreign: 1}, "violations": {Violations: 1},
		"corrupted": {Corrupted: 1}, "misplaced": {Misplaced: 1}, "left over": {Leftover: 1}, "refused": {Refused: 1}, "unknown": {Unknown: 1},
		"miscounted": {Miscounted: 1},
	} {
		r := &report{}
		v.Details = []string{"what it was"}
		r.verdict(v, nil, nil)
		require.Len(t, r.failures, 1, name)
		require.Contains(t, r.failures[0], "1 "+name, name)
		require.Contains(t, r.text(), "what it was", name)
	}
	r := &report{}
	r.verdict(traffic.Verdict{Confirmed: 10, Stored: 9, DeadLettered: 1, Poison: 1}, nil, nil)
	require.Empty(t, r.failures)

	r.verdict(traffic.Verdict{Miscounted: 2, Unequal: 2, Said: traffic.Usage{Messages: 9}, Used: traffic.Usage{Messages: 10}}, nil, nil)
	require.Contains(t, r.text(), "FAILED: usage is not equal to the ledger: 2 tenants differ")
	require.Contains(t, r.tables[len(r.tables)-2].rows, []string{"by the ledger", "10", "0", "0", "0", "0", "0", "0"})
}

// A service that crashes is started again by nobody, unless the next fault happens to.
func TestUnexplainedDeaths(t *testing.T) {
	results := []fault.Result{
		{Kind: fault.KillIngestService, At: 10 * time.Second, Lasted: time.Second},
		{Kind: fault.TermQueryService, At: 20 * time.Second, Lasted: time.Second},
		{Kind: fault.KillRabbitMQ, At: 40 * time.Second, Lasted: time.Second},
	}
	const begin = 3 * time.Second
	explained := []death{{stack.IngestService, begin + 10*time.Second}, {stack.QueryService, begin + 21*time.Second}}
	unasked := []death{
		{stack.TenantService, begin + 10*time.Second}, // another one was killed
		{stack.IngestService, begin + 40*time.Second}, // a server was
		{stack.IngestService, begin + 15*time.Second}, // later than its fault
		{stack.IngestService, 0},
	}
	require.Equal(t, unasked, unexplained(append(explained, unasked...), begin, results))
}

// A token that outlives its revocation is excused by nothing but a service that could not learn of it.
func TestOverdue(t *testing.T) {
	begin := time.Now()
	at := func(seconds float64) time.Time { return begin.Add(time.Duration(seconds * float64(time.Second))) }
	result := func(kind fault.Kind, from, lasted float64) fault.Result {
		e := fault.Event{Kind: kind, Param: int64(slices.Index(backing.Names(), backing.ServicePostgres))}
		return fault.Result{Event: e, Kind: kind, At: at(from).Sub(begin), Lasted: at(lasted).Sub(begin)}
	}
	for name, test := range map[string]struct {
		service        string
		revoked, began float64
		results        []fault.Result
		late           bool
	}{
		"at once":                    {stack.QueryService, 10, 10.1, nil, false},
		"within two seconds":         {stack.QueryService, 10, 11.9, nil, false},
		"later":                      {stack.QueryService, 10, 12.1, nil, true},
		"while it is cut off":        {stack.QueryService, 10, 20, []fault.Result{result(fault.FreezePostgres, 5, 18)}, false},
		"cut off soon after":         {stack.QueryService, 10, 20, []fault.Result{result(fault.Cut, 11, 10)}, false},
		"cut off twice":              {stack.QueryService, 10, 30, []fault.Result{result(fault.Cut, 20, 10), result(fault.Cut, 11, 10)}, false},
		"until it has asked again":   {stack.QueryService, 10, 27.5, []fault.Result{result(fault.HalfOpen, 9, 14)}, false},
		"and no longer":              {stack.QueryService, 10, 28.5, []fault.Result{result(fault.HalfOpen, 9, 14)}, true},
		"cut off when it must know":  {stack.QueryService, 10, 13, []fault.Result{result(fault.Cut, 12.5, 10)}, true},
		"cut off before":             {stack.QueryService, 10, 12.5, []fault.Result{result(fault.Cut, 2, 4)}, true},
		"by a transaction elsewhere": {stack.QueryService, 10, 13, []fault.Result{result(fault.ForeignTransaction, 9, 5)}, true},
		"by its own restart":         {stack.QueryService, 10, 13, []fault.Result{result(fault.KillQueryService, 9, 5)}, true},
		"the broker has no excuse":   {string(backing.ServiceRabbitMQ), 10, 13, []fault.Result{result(fault.FreezePostgres, 9, 18)}, true},
	} {
		late := []traffic.Late{{Service: test.service, Revoked: at(test.revoked), Began: at(test.began)}}
		left := overdue(late, begin, test.results)
		require.Equal(t, test.late, len(left) == 1, name)
	}
}

// A run that revokes nothing, limits nobody or removes nothing shows nothing about it.
func TestOperationsThatFail(t *testing.T) {
	good := traffic.Revocations{Tokens: 1, Credentials: 1, Accepted: map[string]int64{}, Refused: map[string]int64{}}
	for _, name := range traffic.Verifiers() {
		good.Accepted[name], good.Refused[name] = 10, 5
	}
	r := &report{}
	r.revocations(good, nil, true)
	r.limits(traffic.Limits{Changes: 3, RateLimited: 2, TooLarge: 1}, true)
	r.retention(traffic.Verdict{Removed: 1}, true)
	require.Empty(t, r.failures)

	now := time.Now()
	good.Late = []traffic.Late{{Service: stack.IngestService, Revoked: now, Began: now.Add(9 * time.Second)}}
	r.revocations(good, good.Late, true)
	require.Equal(t, []string{"ingest-service accepted 1 times what was revoked, at most 9.0s after that"}, r.failures)
	require.Contains(t, r.tables[len(r.tables)-1].rows, []string{stack.IngestService, "10", "5", "9.0s", "1"})

	for _, complete := range []bool{true, false} {
		r = &report{}
		r.revocations(traffic.Revocations{}, nil, complete)
		r.limits(traffic.Limits{Changes: 3, RateLimited: 2}, complete)
		r.retention(traffic.Verdict{StoredAgain: 1}, complete)
		require.Equal(t, complete, len(r.failures) == 6, "%v", r.failures)
	}
}

func TestReport(t *testing.T) {
	r := &report{title: "a run"}
	table := table{header: []string{"fault", "times", "max"}}
	table.add("a → b", 2, 1500*time.Millisecond)
	table.add("longer", 10, 90*time.Millisecond)
	r.tables = append(r.tables, table)
	require.Equal(t, `
a run

  fault   times   max
  a → b       2  1.5s
  longer     10  90ms

everything that was promised was kept
`, trimLines(r.text()))
	r.note("something")
	r.fail("%d things", 2)
	require.Contains(t, r.text(), "\nsomething\nFAILED: 2 things\n")

	file := filepath.Join(t.TempDir(), "report.md")
	require.NoError(t, r.publish(discard{}, file))
	written, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, `a run

| fault | times | max |
|---|---:|---:|
| a → b | 2 | 1.5s |
| longer | 10 | 90ms |

- something

- 2 things
`, string(written))
}
