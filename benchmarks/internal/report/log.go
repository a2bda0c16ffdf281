package report

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Log is the Recorder of a run: it writes a line for everything as it happens, and keeps the results. Make it with [NewLog].
type Log struct {
	began time.Time

	mu      sync.Mutex
	out     io.Writer // guarded by mu
	results []Result  // guarded by mu
}

// NewLog returns a log that writes to out, each line with the time since now.
func NewLog(out io.Writer) *Log { return &Log{began: time.Now(), out: out} }

// Add implements Recorder.
func (l *Log) Add(r Result) {
	r = Judge(r)
	l.mu.Lock()
	l.results = append(l.results, r)
	l.mu.Unlock()
	line := fmt.Sprintf("= %s: %s %s %s", r.Part, r.Name, figure(r.Value), r.Unit)
	if r.Ceiling != 0 {
		line += ", ratio " + ratio(r)
	}
	if r.Met != nil {
		line += fmt.Sprintf(" (goal %s: %s)", r.Goal, met(r))
	}
	l.Progress("%s", line)
}

// Progress implements Recorder. A terminal that cannot be written to is no reason to stop measuring.
func (l *Log) Progress(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = fmt.Fprintf(l.out, "[%6.1fs] %s\n", time.Since(l.began).Seconds(), fmt.Sprintf(format, args...))
}

// Results are those that have been added so far, in their order.
func (l *Log) Results() []Result {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Result(nil), l.results...)
}
