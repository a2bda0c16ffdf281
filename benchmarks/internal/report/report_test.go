package report_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/report"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMedian(t *testing.T) {
	for name, test := range map[string]struct {
		values []float64
		want   float64
	}{
		"none": {nil, 0},
		"one":  {[]float64{3}, 3},
		"odd":  {[]float64{9, 1, 5}, 5},
		"even": {[]float64{4, 1, 2, 9}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			before := append([]float64(nil), test.values...)
			require.InDelta(t, test.want, report.Median(test.values), 1e-9)
			require.Equal(t, before, test.values, "the values keep their order: ratios belong to rounds")
		})
	}
}

func TestPercentile(t *testing.T) {
	hundred := make([]int, 100)
	for i := range hundred {
		hundred[i] = 100 - i
	}
	require.Equal(t, 50, report.Percentile(hundred, 50))
	require.Equal(t, 99, report.Percentile(hundred, 99))
	require.Equal(t, 100, report.Percentile(hundred, 100))
	require.Equal(t, 1, report.Percentile(hundred, 0))
	require.Equal(t, 7, report.Percentile([]int{7}, 99))
	require.Equal(t, 0, report.Percentile([]int(nil), 50))
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.IntRange(-50, 50), 1, 60).Draw(t, "values")
		p := rapid.Float64Range(0, 100).Draw(t, "p")
		got := report.Percentile(values, p)
		require.Contains(t, values, got)
		notAbove, below := 0, 0
		for _, v := range values {
			if v <= got {
				notAbove++
			}
			if v < got {
				below++
			}
		}
		const rounding = 1e-6
		require.GreaterOrEqual(t, float64(notAbove)+rounding, p/100*float64(len(values)), "enough values do not exceed it")
		require.LessOrEqual(t, float64(below), p/100*float64(len(values))+rounding, "no smaller value would do")
	})
}

// The machine is slow in the second round: rates halve, the ratio does not. Dividing medians would report a ratio that no
// round had.
func TestSeriesTakesTheMedianOfRatios(t *testing.T) {
	var s report.Series
	s.Add(90, 100)
	s.Add(45, 50)
	s.Add(120, 150)
	r := s.Result("drain", "1 KB", "msg/s", ">= 0.85")
	require.InDelta(t, 90, r.Value, 1e-9)
	require.InDelta(t, 45, r.Min, 1e-9)
	require.InDelta(t, 120, r.Max, 1e-9)
	require.InDelta(t, 100, r.Ceiling, 1e-9)
	require.InDelta(t, 0.9, r.Ratio, 1e-9)
	require.Equal(t, 3, s.Len())
	require.Equal(t, report.Result{Part: "p", Name: "n", Unit: "u"}, new(report.Series).Result("p", "n", "u", ""))
}

func TestJudge(t *testing.T) {
	yes, no := true, false
	for name, test := range map[string]struct {
		result report.Result
		want   *bool
	}{
		"no goal":                {report.Result{Value: 1}, nil},
		"judged already":         {report.Result{Value: 1, Goal: "as fast as light", Met: &no}, &no},
		"at least, met":          {report.Result{Value: 85, Ceiling: 100, Ratio: 0.85, Goal: ">= 0.85"}, &yes},
		"at least, missed":       {report.Result{Value: 84, Ceiling: 100, Ratio: 0.84, Goal: ">= 0.85"}, &no},
		"at most, met":           {report.Result{Value: 3, Ceiling: 2, Ratio: 1.5, Goal: "<= 1.5"}, &yes},
		"at most, missed":        {report.Result{Value: 4, Ceiling: 2, Ratio: 2, Goal: "<= 1.5"}, &no},
		"value, without ceiling": {report.Result{Value: 30, Goal: "<= 32 KiB"}, &yes},
		"value, missed":          {report.Result{Value: 40, Goal: "<= 32"}, &no},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, test.want, report.Judge(test.result).Met)
		})
	}
	for _, goal := range []string{"0.85", "> 3", ">= many"} {
		require.Panics(t, func() { report.Judge(report.Result{Goal: goal}) }, goal)
	}
}

func exampleRun() report.Run {
	var s, limit report.Series
	for round := range 5 {
		s.Add(9000+float64(100*round), 10_000)
		limit.Add(10_000, 0)
	}
	missed := report.Judge(report.Result{Part: "tenants", Name: "memory | idle", Value: 33.25, Min: 33, Max: 34, Unit: "KiB/tenant", Goal: "<= 32"})
	ceiling := limit.Result("drain", "1 KB, ceiling", "msg/s", "")
	ceiling.Note = "1/(1/take + 1/COPY)"
	return report.Run{
		Began: time.Date(2026, 3, 1, 9, 30, 0, 0, time.UTC), Took: 83 * time.Second, Quick: true, Rounds: 5,
		Command: "go run ./benchmarks -quick",
		Facts:   []report.Fact{{Name: "CPU", Value: "Example, 2 usable"}, {Name: "PostgreSQL", Value: "17.0 (docker), fsync on"}},
		Results: []report.Result{report.Judge(s.Result("drain", "1 KB, 3 workers", "msg/s", ">= 0.85")), ceiling, missed},
		Failed:  []string{"pages: connection refused"},
	}
}

func TestGolden(t *testing.T) {
	run := exampleRun()
	var table bytes.Buffer
	require.NoError(t, run.Table(&table))
	body, err := run.JSON()
	require.NoError(t, err)
	for name, got := range map[string][]byte{"table.txt": table.Bytes(), "run.md": run.Markdown(), "latest.json": body} {
		path := filepath.Join("testdata", name)
		if *update {
			require.NoError(t, os.MkdirAll("testdata", 0o755))
			require.NoError(t, os.WriteFile(path, got, 0o644))
		}
		want, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, string(want), string(got), "%s; -update writes it anew", name)
	}
}

// Programs read latest.json: a field that is renamed, or a run without results that becomes null, breaks them.
func TestJSONShape(t *testing.T) {
	body, err := exampleRun().JSON()
	require.NoError(t, err)
	var decoded struct {
		Results []map[string]any `json:"results"`
	}
	require.NoError(t, json.Unmarshal(body, &decoded))
	require.Len(t, decoded.Results, 3)
	for _, result := range decoded.Results {
		for _, key := range []string{"part", "name", "value", "unit", "ceiling", "ratio", "goal", "met"} {
			require.Contains(t, result, key)
		}
		require.Len(t, result, 8)
	}
	require.Equal(t, true, decoded.Results[0]["met"])
	require.Nil(t, decoded.Results[1]["goal"])
	empty, err := report.Run{}.JSON()
	require.NoError(t, err)
	require.JSONEq(t, `{"results":[]}`, string(empty))
}

func TestWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "results")
	run := exampleRun()
	document, err := run.Write(dir)
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, "20260301T093000Z-quick.md"), document)
	content, err := os.ReadFile(document)
	require.NoError(t, err)
	require.Equal(t, string(run.Markdown()), string(content))
	want, err := run.JSON()
	require.NoError(t, err)
	got, err := os.ReadFile(filepath.Join(dir, "latest.json"))
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
}

func TestLogShowsAndKeeps(t *testing.T) {
	var out bytes.Buffer
	log := report.NewLog(&out)
	log.Progress("round %d", 1)
	log.Add(report.Result{Part: "drain", Name: "1 KB", Value: 12, Unit: "msg/s", Ceiling: 10, Ratio: 1.2, Goal: ">= 1.0"})
	require.Contains(t, out.String(), "round 1\n")
	require.Contains(t, out.String(), "drain: 1 KB 12.0 msg/s, ratio 1.20 (goal >= 1.0: yes)")
	require.Len(t, log.Results(), 1)
	require.True(t, *log.Results()[0].Met, "it is judged when it is added")
}

func TestMachine(t *testing.T) {
	facts := report.Machine()
	require.NotEmpty(t, facts)
	for _, fact := range facts {
		require.NotEmpty(t, fact.Value, fact.Name)
	}
}
