package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// Package is a platform that the tests of a package share, one after the other or at once: each has tenants of its own. It is a
// variable of the package; see [Ended].
type Package struct {
	// Settings changes the options; it may be nil.
	Settings func(set *backing.Set, opts *Options)

	once  sync.Once
	set   *backing.Set
	stack *Stack
	err   error
}

// Stack returns the platform, which the first test starts. A test that stops a service has to start it again.
func (p *Package) Stack(tb testing.TB) *Stack {
	tb.Helper()
	// Not the context of the test, with which the platform would end.
	p.once.Do(func() { p.err = p.start(context.WithoutCancel(tb.Context())) })
	if p.err != nil {
		tb.Fatalf("stack: %v", p.err)
	}
	tb.Cleanup(func() { p.stack.report(tb) })
	return p.stack
}

func (p *Package) start(ctx context.Context) (err error) {
	if p.set, err = backing.NewSet(ctx); err != nil {
		return err
	}
	opts := Options{DatabaseURL: p.set.DatabaseURL, RabbitMQURL: p.set.Broker.URL, NATSURL: p.set.NATSURL}
	if p.Settings != nil {
		p.Settings(p.set, &opts)
	}
	p.stack, err = New(ctx, opts)
	return err
}

// TestingM is what runs the tests of a package; *testing.M is one.
type TestingM interface{ Run() int }

// Ended is m, which ends the platforms after the tests. It is for TestMain.
func Ended(m TestingM, platforms ...*Package) TestingM { return ended{m, platforms} }

type ended struct {
	m         TestingM
	platforms []*Package
}

// Run runs the tests.
func (e ended) Run() int {
	code := e.m.Run()
	for _, p := range e.platforms {
		if err := p.close(); err != nil {
			fmt.Fprintln(os.Stderr, "stack:", err)
			code = max(code, 1)
		}
	}
	return code
}

func (p *Package) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	var failed error
	if p.stack != nil {
		failed = p.stack.Close(ctx)
	}
	if p.set != nil {
		failed = errors.Join(failed, p.set.Release(ctx))
	}
	return failed
}
