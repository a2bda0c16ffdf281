// Package component runs what a service runs, one at a time, for a test.
package component

import (
	"context"
	"sync"
	"testing"
	"time"
)

// limit is how long a component may take to stop. None takes nearly as long.
const limit = time.Minute

// Run runs a component until stop is called or the test ends, and waits for it then. An error that it returns fails the test, and so does
// a component that has not returned after a minute.
func Run(t *testing.T, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("component: %v", err)
			}
		case <-time.After(limit):
			t.Errorf("a component does not stop")
		}
	})
	t.Cleanup(stop)
	return stop
}
