package logging

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// sinkTimeout is how long a line waits for a writer that does not take it. A terminal or a collector that pauses for less
// costs no line.
const sinkTimeout = time.Second

// Sink is a writer between a logger and another writer, such as a pipe, that may not take what is written: nobody reads it, or
// whoever did is gone. A line that is not taken within a second is given up, and those that follow it are dropped at once, so
// that no request waits for a log; when the writer takes lines again, the first of them says how many there were. As long as
// it does take them a line has been written when Write returns, and none is lost when the process dies after that.
//
// Errors of the writer are ignored: a log has nowhere to report them.
type Sink struct {
	// lines is to the goroutine that writes, taken from its answers in done: both have room for one line, of which there is
	// never more than one under way.
	lines chan []byte
	done  chan struct{}
	ended chan struct{} // closed when that goroutine has ended

	mu      sync.Mutex // held by a Write, one at a time, and by Close
	buffer  []byte     // the line that is under way
	busy    bool       // a line was given up and is still being written
	dropped int        // lines since the last one that was taken
	closed  bool
	timeout time.Duration
	timer   *time.Timer
}

// NewSink starts a sink for w. Close ends it.
func NewSink(w io.Writer) *Sink {
	s := &Sink{
		lines: make(chan []byte, 1), done: make(chan struct{}, 1), ended: make(chan struct{}), timeout: sinkTimeout,
		timer: time.NewTimer(time.Hour),
	}
	go func() {
		defer close(s.ended)
		for line := range s.lines {
			_, _ = w.Write(line)
			s.done <- struct{}{}
		}
	}()
	return s
}

// Write writes a line, or drops it. It returns no error.
func (s *Sink) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy {
		select {
		case <-s.done:
			s.busy = false
		default:
		}
	}
	if s.busy || s.closed {
		s.dropped++
		return len(line), nil
	}
	s.buffer = s.buffer[:0]
	if s.dropped > 0 {
		s.buffer = fmt.Appendf(s.buffer, `{"level":"warn","time":%q,"msg":"log lines were dropped, since nobody took them","lines":%d}`+"\n",
			time.Now().UTC().Format(time.RFC3339Nano), s.dropped)
		s.dropped = 0
	}
	s.buffer = append(s.buffer, line...) // the caller uses its line again when this has returned
	s.lines <- s.buffer
	s.timer.Reset(s.timeout)
	select {
	case <-s.done:
	case <-s.timer.C:
		s.busy = true // the line may be taken yet
	}
	return len(line), nil
}

// Close ends the sink; what is written after it is dropped. A line that nobody takes is left behind, with the goroutine that
// writes it: the process is expected to exit.
func (s *Sink) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	close(s.lines)
	s.timer.Stop()
	if !s.busy {
		<-s.ended
	}
}
