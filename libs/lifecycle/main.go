package lifecycle

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Main is the body of a binary's main function. It calls run with the program's arguments and a context
// that ends at SIGINT or SIGTERM. A second signal exits with status 1 at once, for whoever does not want
// to wait for a graceful stop. An error of run is printed to standard error and makes the status 1.
func Main(run func(ctx context.Context, args []string) error) {
	signals := make(chan os.Signal, 2) // the first one, and the one that is in a hurry
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	p := process{args: os.Args, stderr: os.Stderr, exit: os.Exit, signals: signals}
	p.exit(p.main(run))
}

// process is what Main takes from the operating system.
type process struct {
	args    []string
	stderr  io.Writer
	exit    func(code int)
	signals <-chan os.Signal
}

// signalError is the cause of the context's end; the log line that reports the stop shows it.
type signalError struct{ signal os.Signal }

func (e signalError) Error() string { return "signal: " + e.signal.String() }

func (p process) main(run func(ctx context.Context, args []string) error) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)

	finished, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		p.watch(finished, cancel)
	}()
	err := run(ctx, p.args)
	close(finished)
	<-watched

	if err != nil {
		fmt.Fprintln(p.stderr, err) //nolint:errcheck // there is nowhere left to report it
		return 1
	}
	return 0
}

// watch turns the first signal into the end of the context and the second into the end of the process.
func (p process) watch(finished <-chan struct{}, cancel context.CancelCauseFunc) {
	select {
	case s := <-p.signals:
		cancel(signalError{s})
	case <-finished:
		return
	}
	select {
	case s := <-p.signals:
		fmt.Fprintln(p.stderr, "second signal, exiting at once:", s) //nolint:errcheck // about to exit anyway
		p.exit(1)
	case <-finished:
	}
}
