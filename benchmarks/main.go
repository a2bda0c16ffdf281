// Command benchmarks measures the platform beside the limits of the machine and the obvious alternatives, in one run and
// on the same servers, which wait for the disk.
//
//	make bench                  everything, at least five interleaved rounds
//	make bench QUICK=1          few rounds and small backlogs: does everything still work?
//	make bench PARTS=drain,cost some parts
//
// It prints one table and writes it, with the facts of the machine, into benchmarks/results. A goal that is missed is a
// result; a part that cannot be measured is a failure.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/part/cost"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/part/drain"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/part/noisy"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/part/pages"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/part/publish"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/part/retention"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/part/settings"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/part/spread"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/part/steady"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/part/tenants"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/report"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
	"github.com/srireskianita/multi-tenant-messaging/libs/build"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

const (
	fullRounds  = 5
	quickRounds = 2
	fullChurn   = 5 * time.Minute
	quickChurn  = 15 * time.Second
	// partTimeout is longer than any part takes on two slow cores, beside the churn.
	partTimeout = time.Hour
	// startTimeout contains building the services and pulling images.
	startTimeout = 20 * time.Minute
)

// part is one that can be run alone.
type part struct {
	name, about string
	run         func(context.Context, *rig.Rig, report.Recorder) error
	// extra is one that runs only when it is named.
	extra bool
}

// parts are in the order in which they run: those that leave tenants behind come last.
func parts() []part {
	return []part{
		{"drain", "the backlog of one tenant: 256 B, 1 KB and 16 KB, 1, 3 and 8 workers", drain.Run, false},
		{"cost", "CPU time by process and allocations of a drain", cost.Run, false},
		{"settings", "what the settings of ingest-service do to a drain; only when it is named", settings.Run, true},
		{"steady", "1,000 msg/s over 50 tenants: from confirmed to readable", steady.Run, false},
		{"publish", "publishing over HTTP, one by one and in batches", publish.Run, false},
		{"spread", "a backlog spread over 1,000 tenants", spread.Run, false},
		{"pages", "pages of a tenant of 5 million messages among 1,000 tenants", pages.Run, false},
		{"noisy", "a victim's latencies, quiet and beside floods of another tenant; only when it is named", noisy.Run, true},
		{"retention", "a drain beside retention, and what churn does to a table; only when it is named", retention.Run, true},
		{"tenants", "10,000 tenants: created, idle, after a restart", tenants.Run, false},
	}
}

type options struct {
	quick  bool
	rounds int
	parts  []part
	out    string
	churn  time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchmarks:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	opts, err := parse(args)
	if err != nil || len(opts.parts) == 0 {
		return err
	}
	if err := ownServers(); err != nil {
		return err
	}
	log := report.NewLog(os.Stdout)
	result := report.Run{Began: time.Now(), Quick: opts.quick, Rounds: opts.rounds, Command: command(args)}
	if err := measure(ctx, opts, log, &result); err != nil {
		return err
	}
	result.Took, result.Results = time.Since(result.Began), log.Results()
	if err := result.Table(os.Stdout); err != nil {
		return err
	}
	document, err := result.Write(opts.out)
	if err != nil {
		return err
	}
	log.Progress("written to %s", document)
	if len(result.Failed) > 0 {
		return fmt.Errorf("%d of %d parts failed", len(result.Failed), len(opts.parts))
	}
	return nil
}

// command is what repeats the run, as one types it.
func command(args []string) string {
	return strings.TrimSpace("go run ./benchmarks " + strings.Join(args, " "))
}

func parse(args []string) (options, error) {
	var opts options
	flags := flag.NewFlagSet("benchmarks", flag.ContinueOnError)
	flags.BoolVar(&opts.quick, "quick", false, "few rounds and small backlogs")
	flags.IntVar(&opts.rounds, "rounds", 0, fmt.Sprintf("rounds of each measurement (%d; quick: %d)", fullRounds, quickRounds))
	flags.StringVar(&opts.out, "out", "benchmarks/results", "folder of the results")
	names := flags.String("parts", "", "parts to run, separated by commas (all)")
	flags.DurationVar(&opts.churn, "churn", 0, fmt.Sprintf("how long the part retention keeps a table at its limit (%v; quick: %v)", fullChurn, quickChurn))
	list := flags.Bool("list", false, "list the parts")
	version := flags.Bool("version", false, "print the version")
	if err := flags.Parse(args); err != nil {
		return opts, err
	}
	if flags.NArg() > 0 {
		return opts, fmt.Errorf("%q: arguments are not expected", flags.Arg(0))
	}
	if *version {
		if _, err := fmt.Println("benchmarks version " + build.Read().String()); err != nil {
			return opts, fmt.Errorf("print the version: %w", err)
		}
		return opts, nil
	}
	if *list {
		for _, p := range parts() {
			if _, err := fmt.Printf("%-9s %s\n", p.name, p.about); err != nil {
				return opts, fmt.Errorf("list the parts: %w", err)
			}
		}
		return opts, nil
	}
	if opts.rounds <= 0 {
		opts.rounds = fullRounds
		if opts.quick {
			opts.rounds = quickRounds
		}
	}
	if opts.churn <= 0 {
		opts.churn = fullChurn
		if opts.quick {
			opts.churn = quickChurn
		}
	}
	var err error
	opts.parts, err = chosen(*names)
	return opts, err
}

// chosen are the parts of that names, all but the extra ones if it is empty, in the order of parts.
func chosen(names string) ([]part, error) {
	all := parts()
	if names == "" {
		return slices.DeleteFunc(all, func(p part) bool { return p.extra }), nil
	}
	wanted := strings.Split(names, ",")
	for _, name := range wanted {
		if !slices.ContainsFunc(all, func(p part) bool { return p.name == name }) {
			return nil, fmt.Errorf("there is no part %q; -list lists them", name)
		}
	}
	return slices.DeleteFunc(all, func(p part) bool { return !slices.Contains(wanted, p.name) }), nil
}

// ownServers keeps the benchmark away from servers that somebody works with: addresses in the environment count only with
// BACKING=external.
func ownServers() error {
	mode, err := backing.ModeFromEnv()
	if err != nil || mode == backing.ModeExternal {
		return err
	}
	for _, name := range []string{"DATABASE_URL", "RABBITMQ_URL", "RABBITMQ_MANAGEMENT_URL", "NATS_URL"} {
		if err := os.Unsetenv(name); err != nil {
			return fmt.Errorf("ignore %s: %w", name, err)
		}
	}
	return nil
}

// measure starts everything, runs the parts, and stops everything. An error means that nothing could be measured.
func measure(ctx context.Context, opts options, log *report.Log, result *report.Run) (err error) {
	starting, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	r, err := rig.Start(starting, rig.Options{
		Rounds: opts.rounds, Quick: opts.quick, Churn: opts.churn, Log: func(line string) { log.Progress("%s", line) },
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close(context.WithoutCancel(ctx))) }()
	servers, err := r.Facts(ctx)
	if err != nil {
		return err
	}
	result.Facts = append(report.Machine(), servers...)
	for _, fact := range result.Facts {
		log.Progress("%s: %s", fact.Name, fact.Value)
	}
	if opts.quick {
		log.Progress("quick: %d rounds and small backlogs, the figures are rough", opts.rounds)
	}
	for _, p := range opts.parts {
		log.Progress("%s: %s", p.name, p.about)
		if err := runPart(ctx, p, r, log); err != nil {
			log.Progress("%s failed: %v", p.name, err)
			result.Failed = append(result.Failed, fmt.Sprintf("%s: %v", p.name, err))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

func runPart(ctx context.Context, p part, r *rig.Rig, log *report.Log) error {
	ctx, cancel := context.WithTimeout(ctx, partTimeout+r.Churn)
	defer cancel()
	return p.run(ctx, r, log)
}
