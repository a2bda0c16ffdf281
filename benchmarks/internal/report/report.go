// Package report keeps what the parts of the benchmark measure, judges it by the goals, and shows it: a line at a time while
// the benchmark runs, a table at its end, and both a Markdown file and latest.json to keep.
//
// Absolute figures belong to a machine, ratios travel. So a [Result] carries the ceiling that was measured in the same run
// and the ratio to it, which is the median of the ratios of single rounds: rounds are interleaved, and a machine that is
// slow for a minute is slow for both.
package report

// Result is one line of the table.
type Result struct {
	// Part is the part of the benchmark, Name what was measured in it.
	Part, Name string
	// Value is the median over the rounds, in Unit; Min and Max are its spread.
	Value    float64
	Unit     string
	Min, Max float64
	// Ceiling is what the value is held against, measured in the same run and in the same unit; 0 if there is nothing. Note
	// says what it is where that is not the machine's limit.
	Ceiling float64
	// Ratio is the value as a share of the ceiling: the median of the ratios of the rounds. 0 without a ceiling.
	Ratio float64
	// Goal is a bound for the ratio (">= 0.85", "<= 1.5"), or for the value where there is no ceiling. Empty for what has no
	// goal: ceilings and alternatives. Met is nil then.
	Goal string
	Met  *bool
	Note string
}

// Recorder takes what the parts measure. It is safe for concurrent use.
type Recorder interface {
	// Add keeps a result and shows it. A goal that has not been judged yet is judged by [Judge].
	Add(r Result)
	// Progress shows one line while the benchmark runs.
	Progress(format string, args ...any)
}
