package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/e2e/internal/traffic"
)

// report is the outcome of a run.
type report struct {
	title    string
	tables   []table
	notes    []string
	failures []string
}

// table is printed as text and as Markdown. The first column is a name, the others are numbers.
type table struct {
	header []string
	rows   [][]string
}

// add adds a row. Durations are rounded for people.
func (t *table) add(cells ...any) {
	row := make([]string, len(cells))
	for i, cell := range cells {
		switch cell := cell.(type) {
		case time.Duration:
			row[i] = seconds(cell)
		default:
			row[i] = fmt.Sprint(cell)
		}
	}
	t.rows = append(t.rows, row)
}

// seconds is how long something took.
func seconds(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%dms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1fs", d.Seconds())
}

func (r *report) fail(format string, args ...any) {
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func (r *report) note(format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

// verdict adds what became of the messages, and fails every broken promise.
func (r *report) verdict(v traffic.Verdict, hostile, remarks []string) {
	r.note("hostile messages that were confirmed, and are stored or dead letters: %s", strings.Join(hostile, ", "))
	sums := table{header: []string{"messages", "confirmed", "stored", "removed", "stored again", "dead-lettered", "poison", "over a limit", "declined"}}
	sums.add("all tenants", v.Confirmed, v.Stored, v.Removed, v.StoredAgain, v.DeadLettered, v.Poison, v.OverLimit, v.Declined)
	if v.Removed > 0 {
		r.note("readers that follow a cursor were told %d times of a gap", v.Gaps)
	}
	broken := table{header: []string{
		"broken promises", "lost", "duplicated", "foreign", "violations", "corrupted", "misplaced", "left over", "refused", "unknown", "miscounted",
	}}
	broken.add("all tenants", v.Lost, v.Duplicated, v.Foreign, v.Violations, v.Corrupted, v.Misplaced, v.Leftover, v.Refused, v.Unknown, v.Miscounted)
	r.tables = append(r.tables, sums, usage(v), broken)
	for _, remark := range remarks {
		r.note("answered other than with success or 503: %s", remark)
	}
	if v.Clean() {
		return
	}
	r.fail("%d lost, %d duplicated, %d foreign, %d violations of the reading order, %d corrupted, %d misplaced, %d left over, %d refused, %d unknown, %d miscounted",
		v.Lost, v.Duplicated, v.Foreign, v.Violations, v.Corrupted, v.Misplaced, v.Leftover, v.Refused, v.Unknown, v.Miscounted)
	if v.Unequal > 0 {
		r.fail("usage is not equal to the ledger: %d tenants differ", v.Unequal)
	}
	for _, detail := range v.Details {
		r.note("%s", detail)
	}
}

// usage is what live tenants have used: as the API says, and as the ledger has it.
func usage(v traffic.Verdict) table {
	t := table{header: []string{"usage", "messages in", "bytes in", "removed", "bytes removed", "stored", "bytes stored", "dead letters"}}
	for _, row := range []struct {
		name string
		used traffic.Usage
	}{{"by the API", v.Said}, {"by the ledger", v.Used}} {
		u := row.used
		t.add(row.name, u.Messages, u.Bytes, u.Removed, u.RemovedBytes, u.Stored, u.StoredBytes, u.DeadLetters)
	}
	return t
}

// services adds what the services took in the beginning and in the end.
func (r *report) services(before, after map[string]sample) {
	t := table{header: []string{"service", "RSS before", "after", "goroutines before", "after", "files before", "after"}}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		b, a := before[name], after[name]
		t.add(name, mebibytes(b.rss), mebibytes(a.rss), b.goroutines, a.goroutines, b.files, a.files)
	}
	r.tables = append(r.tables, t)
}

func mebibytes(bytes float64) string { return fmt.Sprintf("%.0f MiB", bytes/(1<<20)) }

// publish prints the report, and writes it to file unless that is "".
func (r *report) publish(out io.Writer, file string) error {
	if _, err := io.WriteString(out, r.text()); err != nil {
		return fmt.Errorf("print the report: %w", err)
	}
	if file == "" {
		return nil
	}
	if err := os.WriteFile(file, []byte(r.markdown()), 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

func (r *report) text() string {
	var text strings.Builder
	text.WriteString("\n" + r.title + "\n")
	for _, t := range r.tables {
		text.WriteString("\n")
		w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
		// A name is aligned to the left by being padded itself: tabwriter aligns all columns the same way.
		width := 0
		rows := append([][]string{t.header}, t.rows...)
		for _, row := range rows {
			width = max(width, len([]rune(row[0])))
		}
		var err error
		for _, row := range rows {
			name := row[0] + strings.Repeat(" ", width-len([]rune(row[0])))
			_, failed := fmt.Fprintln(w, name+"\t"+strings.Join(row[1:], "\t")+"\t")
			err = errors.Join(err, failed)
		}
		if err := errors.Join(err, w.Flush()); err != nil {
			text.WriteString(err.Error()) // a strings.Builder does not fail
		}
	}
	for _, line := range r.notes {
		text.WriteString("\n" + line)
	}
	for _, line := range r.failures {
		text.WriteString("\nFAILED: " + line)
	}
	if len(r.failures) == 0 {
		text.WriteString("\neverything that was promised was kept")
	}
	return text.String() + "\n"
}

func (r *report) markdown() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s\n", r.title)
	for _, t := range r.tables {
		text.WriteString("\n")
		row := func(cells []string) { text.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
		row(t.header)
		text.WriteString("|---|" + strings.Repeat("---:|", len(t.header)-1) + "\n")
		for _, cells := range t.rows {
			row(cells)
		}
	}
	for _, lines := range [][]string{r.notes, r.failures} {
		if len(lines) > 0 {
			text.WriteString("\n")
		}
		for _, line := range lines {
			text.WriteString("- " + line + "\n")
		}
	}
	return text.String()
}
