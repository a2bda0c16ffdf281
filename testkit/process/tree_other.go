//go:build !linux

package process

import (
	"context"
	"fmt"
	"syscall"
)

// Tree is pid alone: its descendants cannot be told here.
func Tree(pid int) []int { return []int{pid} }

// Freeze stops pid alone: its descendants cannot be told here.
func Freeze(_ context.Context, pid int) error {
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return fmt.Errorf("stop %d: %w", pid, err)
	}
	return nil
}

// Thaw lets pid continue.
func Thaw(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		return fmt.Errorf("let %d continue: %w", pid, err)
	}
	return nil
}
