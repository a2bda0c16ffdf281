package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Run is all that is known of a run when it is over.
type Run struct {
	Began time.Time
	Took  time.Duration
	// Quick says that rounds and backlogs were too small for figures to be quoted.
	Quick  bool
	Rounds int
	// Command is what repeats the run.
	Command string
	Facts   []Fact
	Results []Result
	// Failed are the parts that could not be measured, with the reason.
	Failed []string
}

// Fact is something about the machine or the servers that figures depend on.
type Fact struct{ Name, Value string }

// head are the columns of the table.
func head() []string {
	return []string{"part", "what", "median", "min – max", "unit", "held against", "ratio", "goal", "met", "note"}
}

func row(r Result) []string {
	cells := []string{r.Part, r.Name, figure(r.Value), "", r.Unit, "", "", r.Goal, met(r), r.Note}
	if r.Min != 0 || r.Max != 0 {
		cells[3] = figure(r.Min) + " – " + figure(r.Max)
	}
	if r.Ceiling != 0 {
		cells[5], cells[6] = figure(r.Ceiling), ratio(r)
	}
	return cells
}

func ratio(r Result) string {
	if r.Ceiling == 0 {
		return ""
	}
	return strconv.FormatFloat(r.Ratio, 'f', 2, 64)
}

func met(r Result) string {
	switch {
	case r.Met == nil:
		return ""
	case *r.Met:
		return "yes"
	default:
		return "no"
	}
}

// figure is a number with three significant digits, or all of its whole ones.
func figure(v float64) string {
	if v == 0 {
		return "0"
	}
	digits := 2 - int(math.Floor(math.Log10(math.Abs(v))))
	return strconv.FormatFloat(v, 'f', min(max(digits, 0), 6), 64)
}

// Table writes the results for a terminal.
func (r Run) Table(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	lines := append([][]string{head()}, rows(r.Results)...)
	for _, cells := range lines {
		if _, err := fmt.Fprintln(table, strings.Join(cells, "\t")); err != nil {
			return fmt.Errorf("write the table: %w", err)
		}
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	for _, failed := range r.Failed {
		if _, err := fmt.Fprintln(out, "failed:", failed); err != nil {
			return fmt.Errorf("write the table: %w", err)
		}
	}
	return nil
}

func rows(results []Result) [][]string {
	all := make([][]string, len(results))
	for i, result := range results {
		all[i] = row(result)
	}
	return all
}

// Markdown is the run as a document.
func (r Run) Markdown() []byte {
	var b bytes.Buffer
	kind := "run"
	if r.Quick {
		kind = "quick run"
	}
	fmt.Fprintf(&b, "# Benchmark, %s of %s\n\n", kind, r.Began.UTC().Format("2006-01-02 15:04 MST"))
	fmt.Fprintf(&b, "`%s`, %d rounds, took %s. Medians over the rounds; a ratio is the median of the ratios of single rounds.\n\n",
		r.Command, r.Rounds, r.Took.Round(time.Second))
	if r.Quick {
		b.WriteString("A quick run has few rounds and small backlogs: it shows that everything works, and its figures are rough.\n\n")
	}
	for _, fact := range r.Facts {
		fmt.Fprintf(&b, "- %s: %s\n", fact.Name, fact.Value)
	}
	b.WriteByte('\n')
	line := func(cells []string) {
		for i, cell := range cells {
			cells[i] = strings.ReplaceAll(cell, "|", `\|`)
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
	}
	line(head())
	line(strings.Split(strings.Repeat("---,", len(head())-1)+"---", ","))
	for _, cells := range rows(r.Results) {
		line(cells)
	}
	for _, failed := range r.Failed {
		fmt.Fprintf(&b, "\nFailed: %s\n", failed)
	}
	return b.Bytes()
}

// jsonResult is a result in latest.json; what does not apply is null.
type jsonResult struct {
	Part    string   `json:"part"`
	Name    string   `json:"name"`
	Value   float64  `json:"value"`
	Unit    string   `json:"unit"`
	Ceiling *float64 `json:"ceiling"`
	Ratio   *float64 `json:"ratio"`
	Goal    *string  `json:"goal"`
	Met     *bool    `json:"met"`
}

// JSON is the results for programs.
func (r Run) JSON() ([]byte, error) {
	results := make([]jsonResult, len(r.Results))
	for i, result := range r.Results {
		results[i] = jsonResult{Part: result.Part, Name: result.Name, Value: result.Value, Unit: result.Unit, Met: result.Met}
		if result.Ceiling != 0 {
			results[i].Ceiling, results[i].Ratio = &result.Ceiling, &result.Ratio
		}
		if result.Goal != "" {
			results[i].Goal = &result.Goal
		}
	}
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false) // goals say >= and <=
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(map[string]any{"results": results}); err != nil {
		return nil, fmt.Errorf("encode the results: %w", err)
	}
	return body.Bytes(), nil
}

// Write writes the run into dir, as a document named after its time and as latest.json, and returns the path of the
// document.
func (r Run) Write(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the folder of the results: %w", err)
	}
	body, err := r.JSON()
	if err != nil {
		return "", err
	}
	name := r.Began.UTC().Format("20060102T150405Z")
	if r.Quick {
		name += "-quick"
	}
	document := filepath.Join(dir, name+".md")
	for path, content := range map[string][]byte{document: r.Markdown(), filepath.Join(dir, "latest.json"): body} {
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return "", fmt.Errorf("write the results: %w", err)
		}
	}
	return document, nil
}
