package tenants

import "context"

// maxStarts is how many consumers start at a time. Each asks the broker three times in a row; what goes together wakes each
// side once, so 5,000 start in 2.1 to 3.0 s, and with 128 at a time in 3.6 s. Thousands that ask a slow broker at once would
// wait for longer than one request may take.
const maxStarts = 512

// starts limits how many consumers start at a time: it is held meanwhile.
type starts chan struct{}

// acquire waits until a consumer may start; it reports false when ctx ends before. Inlined, it would add a hundred bytes to the stack
// below which every idle consumer waits; see consumer.Run.
//
//go:noinline
func (s starts) acquire(ctx context.Context) bool {
	select {
	case s <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s starts) release() { <-s }

// running is a consumer with its goroutine. The zero value is none.
type running struct {
	consumer Consumer // nil for none
	cancel   context.CancelFunc
	done     chan error // capacity 1: the goroutine never waits
}

// runConsumer has a consumer run, beyond the end of ctx, until it is stopped. started, which may be called again, gives back the start.
func runConsumer(ctx context.Context, consumer Consumer, starts starts, started func()) running {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() {
		if !starts.acquire(ctx) {
			done <- nil
			return
		}
		err := consumer.Run(ctx)
		started()
		done <- err
	}()
	return running{consumer: consumer, cancel: cancel, done: done}
}

// ended has the result of a consumer that has ended unasked.
func (r running) ended() <-chan error { return r.done }

// stop lets the consumer finish and waits for it. A timeout is not needed: everything that it waits for has one.
func (r running) stop() error {
	r.cancel()
	return <-r.done
}
