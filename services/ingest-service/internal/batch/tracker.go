package batch

import "time"

// Span is a run of consecutive delivery tags that are finished together.
type Span struct {
	First, Last uint64
	finished    bool
	finishedAt  time.Time
	acked       bool // by single acks, past a hole
}

// Tracker finds what may be acknowledged. Spans are opened in the order of their tags, without gaps, and finish in any
// order. The longest finished prefix goes out as one multiple ack; a span that stays unfinished longer than holeLimit
// does not hold the rest back for ever: what is finished behind it is acknowledged one by one.
//
// It is not safe for concurrent use; the goroutine that owns the channel owns it.
type Tracker struct {
	spans []*Span // in the order of their tags; the first one is not finished, unless acknowledging is still to come
}

// Open begins a span. first must follow the last tag of the span before.
func (t *Tracker) Open(first, last uint64) *Span {
	span := &Span{First: first, Last: last}
	t.spans = append(t.spans, span)
	return span
}

// Finish marks a span as done with: stored, or handed on.
func (t *Tracker) Finish(span *Span, now time.Time) {
	span.finished, span.finishedAt = true, now
}

// Prefix takes the longest finished prefix away and returns its last tag; false if nothing can be acknowledged now.
func (t *Tracker) Prefix() (tag uint64, ok bool) {
	done := 0
	for done < len(t.spans) && t.spans[done].finished {
		if !t.spans[done].acked {
			tag, ok = t.spans[done].Last, true
		}
		done++
	}
	if done > 0 {
		rest := copy(t.spans, t.spans[done:])
		clear(t.spans[rest:])
		t.spans = t.spans[:rest]
	}
	return tag, ok
}

// Beyond returns the spans that have been finished for holeLimit or longer and wait behind a hole, and counts them as
// acknowledged: each of their tags is to be acknowledged by itself.
func (t *Tracker) Beyond(now time.Time, holeLimit time.Duration) []*Span {
	var spans []*Span
	for _, span := range t.spans {
		if span.finished && !span.acked && now.Sub(span.finishedAt) >= holeLimit {
			span.acked = true
			spans = append(spans, span)
		}
	}
	return spans
}

// Run is a run of consecutive spans that are either all finished or all unfinished.
type Run struct {
	// Last is the last tag of the run that was not acknowledged by itself.
	Last     uint64
	Finished bool
}

// Rest are all runs that are still to be acknowledged or given back, in the order of their tags, at the end of a channel:
// what comes before the last tag of one has been dealt with when the one before was. So each run takes one "multiple" frame.
func (t *Tracker) Rest() (runs []Run) {
	for _, span := range t.spans {
		switch last := len(runs) - 1; {
		case span.acked:
		case last >= 0 && runs[last].Finished == span.finished:
			runs[last].Last = span.Last
		default:
			runs = append(runs, Run{Last: span.Last, Finished: span.finished})
		}
	}
	return runs
}

// Waiting reports whether finished spans wait behind a hole, and since when the first of them does.
func (t *Tracker) Waiting() (since time.Time, waiting bool) {
	for _, span := range t.spans {
		if span.finished && !span.acked && (!waiting || span.finishedAt.Before(since)) {
			since, waiting = span.finishedAt, true
		}
	}
	return since, waiting
}

// Unfinished is how many tags have not been finished.
func (t *Tracker) Unfinished() (tags uint64) {
	for _, span := range t.spans {
		if !span.finished {
			tags += span.Last - span.First + 1
		}
	}
	return tags
}
