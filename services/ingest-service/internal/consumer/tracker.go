package consumer

import "time"

// span is a run of consecutive delivery tags that are finished together.
type span struct {
	first, last uint64
	finished    bool
	finishedAt  time.Time
	acked       bool // by single acks, past a hole
}

// tracker is an ack tracker: it finds what may be acknowledged. Spans are opened in the order of their tags, without gaps, and
// finish in any order. The longest finished prefix goes out as one multiple ack; a span that stays unfinished longer than holeLimit
// does not hold the rest back for ever: what is finished behind it is acknowledged one by one.
//
// It is not safe for concurrent use; the goroutine that owns the channel owns it.
type tracker struct {
	spans []*span // in the order of their tags; the first one is not finished, unless acknowledging is still to come
}

// open begins a span. first must follow the last tag of the span before.
func (t *tracker) open(first, last uint64) *span {
	s := &span{first: first, last: last}
	t.spans = append(t.spans, s)
	return s
}

// finish marks a span as done with: stored, or handed on.
func (t *tracker) finish(s *span, now time.Time) {
	s.finished, s.finishedAt = true, now
}

// prefix takes the longest finished prefix away and returns its last tag; false if nothing can be acknowledged now.
func (t *tracker) prefix() (tag uint64, ok bool) {
	done := 0
	for done < len(t.spans) && t.spans[done].finished {
		if !t.spans[done].acked {
			tag, ok = t.spans[done].last, true
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

// beyond returns the spans that have been finished for holeLimit or longer and wait behind a hole, and counts them as
// acknowledged: each of their tags is to be acknowledged singly.
func (t *tracker) beyond(now time.Time, holeLimit time.Duration) []*span {
	var spans []*span
	for _, s := range t.spans {
		if s.finished && !s.acked && now.Sub(s.finishedAt) >= holeLimit {
			s.acked = true
			spans = append(spans, s)
		}
	}
	return spans
}

// run is a run of consecutive spans that are either all finished or all unfinished.
type run struct {
	// last is the last tag of the run that was not acknowledged singly.
	last     uint64
	finished bool
}

// rest are all runs that are still to be acknowledged or given back, in the order of their tags, at the end of a channel:
// what comes before the last tag of one has been dealt with when the one before was. So each run takes one "multiple" frame.
func (t *tracker) rest() (runs []run) {
	for _, s := range t.spans {
		switch last := len(runs) - 1; {
		case s.acked:
		case last >= 0 && runs[last].finished == s.finished:
			runs[last].last = s.last
		default:
			runs = append(runs, run{last: s.last, finished: s.finished})
		}
	}
	return runs
}

// waiting reports whether finished spans wait behind a hole, and since when the first of them does.
func (t *tracker) waiting() (since time.Time, waiting bool) {
	for _, s := range t.spans {
		if s.finished && !s.acked && (!waiting || s.finishedAt.Before(since)) {
			since, waiting = s.finishedAt, true
		}
	}
	return since, waiting
}
