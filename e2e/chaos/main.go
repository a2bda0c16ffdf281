// Command chaos shows that the platform keeps its promises while everything that it stands on fails.
//
// It runs the built binaries on servers of its own, publishes to many tenants and reads them, and meanwhile kills, stops,
// freezes and cuts off services and servers, by a schedule that follows from a seed, while an operator changes limits and revokes
// tokens and credentials. In the end it holds the database and the usage of the tenants against a ledger of what was confirmed:
// nothing may be lost, stored twice, changed, miscounted or shown to the wrong tenant, what was revoked must have been refused, and
// everything must have recovered without intervention. It exits with 1 unless that is so.
//
// With -soak it disturbs nothing, runs long at half the rate that the machine can do, and shows that memory, goroutines
// and connections stay flat.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/e2e/internal/platform"
	"github.com/srireskianita/multi-tenant-messaging/e2e/internal/traffic"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/build"
	"github.com/srireskianita/multi-tenant-messaging/libs/lifecycle"
)

const (
	chaosDuration = 90 * time.Second
	soakDuration  = 30 * time.Minute
	// chaosRate leaves two slow cores room for what the faults cost.
	chaosRate = 400
	// poisonShare of the messages over AMQP cannot be stored.
	poisonShare = 0.02 // of half the messages: 1% of all
	// closeTimeout bounds the end of everything.
	closeTimeout = 3 * time.Minute
)

// errFailed says that the report lists failures.
var errFailed = errors.New("a promise was not kept")

// options are those of the command line.
type options struct {
	soak     bool
	duration time.Duration
	seed     int64
	rate     float64 // 0: the default, or to be measured
	tenants  int
	report   string
	reader   string
	version  bool // is all that is asked for
}

func main() { lifecycle.Main(run) }

func run(ctx context.Context, args []string) error {
	opts, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if opts.version {
		_, err := fmt.Println("chaos version " + build.Read().String())
		return err
	}
	s := newScreen(os.Stdout, os.Stderr)
	r, err := opts.run(ctx, s)
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w; everything is stopped, and there is no verdict", opts.name(), context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", opts.name(), err)
	}
	if err := r.publish(os.Stdout, opts.report); err != nil {
		return err
	}
	if len(r.failures) > 0 {
		return fmt.Errorf("%w: %d failures, listed above", errFailed, len(r.failures))
	}
	return nil
}

func parse(args []string) (options, error) {
	var opts options
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	flags.BoolVar(&opts.soak, "soak", false, "disturb nothing, and watch memory and connections")
	flags.DurationVar(&opts.duration, "duration", 0, "how long (default 90s, with -soak 30m)")
	flags.Int64Var(&opts.seed, "seed", 0, "repeats a schedule (default: a new one)")
	flags.Float64Var(&opts.rate, "rate", 0, "messages a second over all tenants (default 400; with -soak half of what the machine can do)")
	flags.IntVar(&opts.tenants, "tenants", 20, "how many tenants")
	flags.StringVar(&opts.report, "report", "", "file to write the report to, as Markdown")
	flags.StringVar(&opts.reader, "reader", conn.ReaderWire, "what reads deliveries in ingest-service: wire or library")
	flags.BoolVar(&opts.version, "version", false, "print the version")
	flags.SetOutput(io.Discard) // an error is printed once, by main
	if err := flags.Parse(args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			flags.SetOutput(os.Stdout)
			flags.PrintDefaults()
		}
		return options{}, err
	}
	switch {
	case flags.NArg() > 0:
		return options{}, fmt.Errorf("unknown argument %q", flags.Arg(0))
	case opts.duration < 0, opts.rate < 0, opts.tenants < 2:
		return options{}, errors.New("-duration and -rate are not negative, and there are two tenants at least")
	}
	if opts.reader != conn.ReaderWire && opts.reader != conn.ReaderLibrary {
		return options{}, fmt.Errorf("-reader is %s or %s", conn.ReaderWire, conn.ReaderLibrary)
	}
	if opts.duration == 0 {
		opts.duration = chaosDuration
		if opts.soak {
			opts.duration = soakDuration
		}
	}
	if opts.seed == 0 {
		opts.seed = 1 + rand.Int64N(1_000_000) //nolint:gosec // a number to choose faults by
	}
	if opts.rate == 0 && !opts.soak {
		opts.rate = chaosRate
	}
	return opts, nil
}

// name is what the run is called.
func (o options) name() string {
	if o.soak {
		return "soak"
	}
	return "chaos"
}

// run starts the platform and the traffic, does what was asked for, and takes everything away again, whatever happens.
func (o options) run(ctx context.Context, s *screen) (r *report, err error) {
	s.say("%s: seed %d, %s, %d tenants, reader %s", o.name(), o.seed, o.duration, o.tenants, o.reader)
	p, err := platform.Start(ctx, map[string]string{"RABBITMQ_READER": o.reader}, s.say)
	if err != nil {
		return nil, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		err = errors.Join(err, p.Close(ctx))
	}()
	t, err := traffic.New(p, traffic.Options{
		Tenants: o.tenants, Seed: o.seed, HTTPRate: o.rate / 2, AMQPRate: o.rate / 2, PoisonShare: poisonShare,
		Limits: !o.soak, Revocation: !o.soak, Retention: !o.soak,
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	if err := t.Start(ctx); err != nil {
		return nil, err
	}
	e := &experiment{options: o, platform: p, traffic: t, screen: s, report: &report{}}
	if err := e.begin(ctx); err != nil {
		return nil, err
	}
	if o.soak {
		err = e.soak(ctx)
	} else {
		err = e.chaos(ctx)
	}
	if err != nil {
		return nil, err
	}
	return e.report, e.end(ctx)
}
