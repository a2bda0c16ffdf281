package lifecycle

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Main is the body of a binary's main function. It calls run with the program's arguments and a context
// that ends at SIGINT, SIGTERM or SIGHUP. A second signal exits with status 1 at once, for an operator who does not want
// to wait for a graceful stop. An error of run is printed to standard error and makes the status 1.
//
// SIGHUP, which a terminal sends when it is closed, is left alone where it is ignored already: that is what nohup does. SIGQUIT
// stays what it is to Go: a dump of all goroutines on standard error, and status 2.
func Main(run func(ctx context.Context, args []string) error) {
	signals := make(chan os.Signal, 2) // the first one, and the one that ends at once
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(signals, syscall.SIGHUP)
	}
	p := process{args: os.Args, stderr: os.Stderr, exit: os.Exit, signals: signals}
	p.exit(p.main(run))
}

// OutliveReaders lets the process continue when the reader of its standard output or standard error ends: Go kills a process that
// writes to such a pipe (package os/signal, SIGPIPE) unless the signal is taken. Writes fail with EPIPE from now on. It is taken
// and not ignored, since programs that are started inherit what is ignored.
func OutliveReaders() {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // nobody reads it: a full channel drops signals
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
		p.say(err)
		return 1
	}
	return 0
}

// sayTimeout is how long the end of a process waits for standard error, which may be a pipe that nobody reads.
const sayTimeout = time.Second

// say prints to standard error, if that takes it.
func (p process) say(words ...any) {
	said := make(chan struct{})
	go func() {
		defer close(said)
		fmt.Fprintln(p.stderr, words...) //nolint:errcheck // there is nowhere left to report it
	}()
	select {
	case <-said:
	case <-time.After(sayTimeout):
	}
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
		p.say("second signal, exiting at once:", s)
		p.exit(1)
	case <-finished:
	}
}
