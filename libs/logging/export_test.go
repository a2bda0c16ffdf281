package logging

import (
	"io"
	"time"
)

// NewShortSink is a sink that gives a line up after a moment.
func NewShortSink(w io.Writer) *Sink {
	s := NewSink(w)
	s.timeout = time.Millisecond
	return s
}

// Free tells whether the line that was given up has been taken.
func (s *Sink) Free() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.busy || len(s.done) > 0
}

// Ended returns when the goroutine has ended.
func (s *Sink) Ended() { <-s.ended }
