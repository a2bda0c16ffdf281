package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Series is what the rounds of one measurement gave.
type Series struct {
	values, ceilings, ratios []float64
}

// Add keeps the value of a round and, if it is not 0, the ceiling that was measured in the same round.
func (s *Series) Add(value, ceiling float64) {
	s.values = append(s.values, value)
	if ceiling != 0 {
		s.ceilings = append(s.ceilings, ceiling)
		s.ratios = append(s.ratios, value/ceiling)
	}
}

// Len is the number of rounds.
func (s *Series) Len() int { return len(s.values) }

// Result is the series as a line of the table: medians, the spread of the values, and the median of the ratios. Goal may
// be empty.
func (s *Series) Result(part, name, unit, goal string) Result {
	r := Result{Part: part, Name: name, Unit: unit, Goal: goal}
	if len(s.values) == 0 {
		return r
	}
	r.Value, r.Min, r.Max = Median(s.values), slices.Min(s.values), slices.Max(s.values)
	if len(s.ratios) > 0 {
		r.Ceiling, r.Ratio = Median(s.ceilings), Median(s.ratios)
	}
	return r
}

// Median is the middle of values, the mean of the two in the middle where their number is even, and 0 of nothing.
func Median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// Percentile is the smallest of values that at least p percent of them do not exceed (nearest rank), and 0 of nothing.
func Percentile[T cmp.Ordered](values []T, p float64) T {
	var none T
	if len(values) == 0 {
		return none
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// Judge decides whether a result meets its goal: by its ratio, or by its value where there is no ceiling. Results without a
// goal, or judged already, stay as they are. A goal that is no bound panics: it is a mistake in the benchmark.
func Judge(r Result) Result {
	if r.Goal == "" || r.Met != nil {
		return r
	}
	figure := r.Value
	if r.Ceiling != 0 {
		figure = r.Ratio
	}
	operator, text, _ := strings.Cut(r.Goal, " ")
	text, _, _ = strings.Cut(text, " ") // a unit may follow
	bound, err := strconv.ParseFloat(text, 64)
	if err != nil {
		panic(fmt.Sprintf("goal %q of %s, %s: %v", r.Goal, r.Part, r.Name, err))
	}
	var met bool
	switch operator {
	case ">=":
		met = figure >= bound
	case "<=":
		met = figure <= bound
	default:
		panic(fmt.Sprintf("goal %q of %s, %s: neither >= nor <=", r.Goal, r.Part, r.Name))
	}
	r.Met = &met
	return r
}
