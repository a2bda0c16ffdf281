// Package component runs what a service runs, one at a time, for a test.
package component

import (
	"context"
	"sync"
	"testing"
)

// Run runs a component until stop is called or the test ends, and waits for it then. An error that it returns fails the test.
func Run(t *testing.T, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("component: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}
