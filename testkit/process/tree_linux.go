package process

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"
)

// Freeze stops pid and all its descendants with SIGSTOP and returns when every one of them has stopped. A process that is
// forked meanwhile is stopped, too. On an error some of them may have stopped: see [Thaw].
//
// The pid may be any that we may signal, also that of somebody else's child; which process it is must be known to the caller.
func Freeze(ctx context.Context, pid int) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	// Twice, since a process may have forked between being listed and being stopped.
	for still := 0; still < 2; {
		moving, err := stopMoving(pid)
		if err != nil {
			return err
		}
		if still++; moving == 0 {
			continue
		}
		still = 0
		select {
		case <-ctx.Done():
			return fmt.Errorf("stop %d and its descendants: %d of them still run: %w", pid, moving, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// Thaw lets pid and all its descendants continue.
func Thaw(pid int) error {
	for _, member := range Tree(pid) {
		if err := syscall.Kill(member, syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("let %d continue: %w", member, err)
		}
	}
	return nil
}

// stopMoving sends SIGSTOP to those that have not stopped, and counts them.
func stopMoving(pid int) (moving int, err error) {
	for _, member := range Tree(pid) {
		stat, err := statOf(member)
		if err != nil || strings.Contains(resting, stat.State) {
			continue
		}
		err = syscall.Kill(member, syscall.SIGSTOP)
		if errors.Is(err, syscall.ESRCH) {
			continue
		}
		if err != nil {
			return moving, fmt.Errorf("stop %d: %w", member, err)
		}
		if stat.State != waiting {
			moving++
		}
	}
	return moving, nil
}

const (
	// resting are the states of a process that does nothing any more: stopped, or ended. See proc(5).
	resting = "TtZX"
	// waiting is the state of a process that waits in the kernel and takes no signal. With SIGSTOP pending it stops before it
	// does anything of its own. It may stay so: a process that has called vfork waits for a child, which may be stopped itself.
	waiting = "D"
)
