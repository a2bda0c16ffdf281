//go:build !linux

package process

import (
	"context"
	"errors"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// state is what the system knows of a pid.
type state struct {
	start string // tells apart processes that had the same pid
	dead  bool   // ended, but not waited for
}

func look(pid int) (state, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ps", "-o", "stat=", "-o", "lstart=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return state{}, err
	}
	stat, start, found := strings.Cut(strings.TrimSpace(string(out)), " ")
	if !found {
		return state{}, errors.New("unexpected answer of ps")
	}
	return state{start: strings.TrimSpace(start), dead: strings.HasPrefix(stat, "Z")}, nil
}

// Ended reports whether no process has that pid, or only one that has ended and has not been waited for.
func Ended(pid int) bool {
	s, err := look(pid)
	return err != nil || s.dead
}

// In cannot be told here; it says yes, which makes its caller leave things as they are.
func In(string) bool { return true }
