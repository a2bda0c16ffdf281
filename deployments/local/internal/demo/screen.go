package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// screen prints lines, and below them one line that changes. Where the output is not a terminal, the changing line is
// printed now and then as a line of its own.
type screen struct {
	out      io.Writer
	terminal bool

	mu   sync.Mutex
	live string
}

func newScreen(out io.Writer) *screen {
	s := &screen{out: out}
	if file, ok := out.(*os.File); ok {
		info, err := file.Stat()
		s.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return s
}

const clearLine = "\r\x1b[K"

func (s *screen) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	line := fmt.Sprintf(format, args...) + "\n"
	if s.live != "" {
		line = clearLine + line + s.live
	}
	s.write(line)
}

// show keeps the changing line up to date until ctx ends.
func (s *screen) show(ctx context.Context, line func() string) {
	interval := 2 * time.Second
	if s.terminal {
		interval = 100 * time.Millisecond
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			s.change("")
			s.say("%s", line())
			return
		case <-tick.C:
		}
		if s.terminal {
			s.change(line())
		} else {
			s.say("%s", line())
		}
	}
}

func (s *screen) change(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live == line {
		return
	}
	s.live = line
	s.write(clearLine + line)
}

func (s *screen) write(text string) {
	_, _ = io.WriteString(s.out, text) // a closed terminal is no reason to stop
}
