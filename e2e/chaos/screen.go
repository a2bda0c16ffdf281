package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// screen prints lines and, where there is a terminal, one line below them that changes. It is safe for concurrent use.
type screen struct {
	lines, live io.Writer
	terminal    bool // of live

	mu     sync.Mutex
	status string // guarded by mu: what the changing line shows
}

func newScreen(lines, live *os.File) *screen {
	info, err := live.Stat()
	return &screen{lines: lines, live: live, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

const (
	clearLine = "\r\x1b[K"
	refresh   = time.Second
	// quietRefresh is how often the changing line is printed as one of its own where there is no terminal.
	quietRefresh = time.Minute
)

// say prints a line.
func (s *screen) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status != "" {
		s.write(s.live, clearLine)
	}
	s.write(s.lines, fmt.Sprintf(format, args...)+"\n")
	s.write(s.live, s.status)
}

// show keeps the changing line up to date until ctx ends.
func (s *screen) show(ctx context.Context, line func() string) {
	interval := quietRefresh
	if s.terminal {
		interval = refresh
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			s.change("")
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

func (s *screen) change(status string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.terminal && s.status != status {
		s.write(s.live, clearLine+status)
	}
	s.status = status
}

func (s *screen) write(w io.Writer, text string) {
	_, _ = io.WriteString(w, text) // a closed terminal is no reason to stop
}
