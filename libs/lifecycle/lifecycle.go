package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
)

// Component is one part of a process that runs until its context ends.
type Component struct {
	// Name appears in logs and errors.
	Name string
	// Run does the work. It returns nil once its context has ended and it has finished what it had begun.
	// Returning an error before that is a failure of the process. Returning nil before that means that the
	// component has nothing left to do; the others continue.
	Run func(ctx context.Context) error
}

// ErrStopTimeout is in the error of Run when a component did not stop in time.
var ErrStopTimeout = errors.New("did not stop in time")

// Run starts the components in the order given and returns when all have ended. When ctx ends, or when
// the first of them fails, they are stopped in reverse order: each one's context is cancelled and the
// component is waited for before the next one's is. So what is listed later may rely on what is listed
// earlier until it has stopped itself.
//
// All of the stopping together has timeout. When it is over, the contexts of all that still run are
// cancelled at once and Run returns an error with ErrStopTimeout that names the component it waited for,
// leaving the goroutines behind: the process is expected to exit.
//
// The first failure is returned, whether it came before or during the stop; later ones are logged.
// context.Canceled is no failure once a component has been told to stop.
func Run(ctx context.Context, timeout time.Duration, log *zap.Logger, components ...Component) error {
	r := &run{log: log, ended: make(chan *task, len(components))}
	for _, c := range components {
		r.start(ctx, c)
	}
	r.untilStop(ctx)
	return r.stop(timeout)
}

// run is the state of one Run; the goroutine that called Run owns it.
type run struct {
	log   *zap.Logger
	tasks []*task
	ended chan *task // capacity: one for each task, so that a task never blocks on it
	first error
}

// task is a started component.
type task struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{} // closed when Run has returned; err may be read then
	err    error
	told   bool // its context was cancelled; owned by the goroutine that called Run
	seen   bool // its result was taken; owned by the goroutine that called Run
}

// start detaches the component's context from ctx's end, since ctx ends for all of them at once.
func (r *run) start(ctx context.Context, c Component) {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	t := &task{name: c.Name, cancel: cancel, done: make(chan struct{})}
	r.tasks = append(r.tasks, t)
	go func() {
		t.err = c.Run(own)
		close(t.done)
		r.ended <- t
	}()
}

// untilStop returns when ctx ends, a task fails, or all have ended.
func (r *run) untilStop(ctx context.Context) {
	for range r.tasks {
		select {
		case <-ctx.Done():
			r.log.Info("stopping", zap.NamedError("reason", context.Cause(ctx)))
			return
		case t := <-r.ended:
			r.recordResult(t)
			if r.first != nil {
				r.log.Error("stopping, as a component has failed", zap.String("component", t.name), zap.Error(t.err))
				return
			}
			r.log.Info("component has ended", zap.String("component", t.name))
		}
	}
}

// stop cancels and awaits the tasks in reverse order.
func (r *run) stop(timeout time.Duration) error {
	limit := time.NewTimer(timeout)
	defer limit.Stop()
	for i, t := range slices.Backward(r.tasks) {
		t.told = true
		t.cancel()
		select {
		case <-t.done:
			r.recordResult(t)
			continue
		default:
		}
		select {
		case <-t.done:
			r.recordResult(t)
			r.log.Debug("component has stopped", zap.String("component", t.name))
		case <-limit.C:
			for _, left := range r.tasks[:i] {
				left.cancel()
			}
			return errors.Join(r.first, fmt.Errorf("%s: %w (%s)", t.name, ErrStopTimeout, timeout))
		}
	}
	return r.first
}

// recordResult notes a task's result, once.
func (r *run) recordResult(t *task) {
	if t.seen {
		return
	}
	t.seen = true
	switch {
	case t.err == nil, t.told && errors.Is(t.err, context.Canceled):
	case r.first == nil:
		r.first = fmt.Errorf("%s: %w", t.name, t.err)
	default:
		r.log.Error("component has failed, too", zap.String("component", t.name), zap.Error(t.err))
	}
}
