// Package rig is what the parts of the benchmark stand on: backing servers that wait for the disk, the three services as
// they are shipped, and connections to the servers below them. All of it is started once for a run.
//
// It prepares work (tenants, backlogs), watches it being done without costing the platform much, and tells what CPU time
// it took, by process. Every wait is bounded.
package rig

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/valyala/fasthttp"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

// WaitLimit bounds what a part waits for: a backlog, a tenant.
const WaitLimit = 5 * time.Minute

// closeTimeout bounds the end of everything.
const closeTimeout = 2 * time.Minute

// Options say what to run.
type Options struct {
	// Rounds is how often each measurement is repeated.
	Rounds int
	// Quick asks the parts for small backlogs.
	Quick bool
	// Churn is how long the retention part keeps a table at its limit.
	Churn time.Duration
	// Log is told of the progress of starting, one line at a time.
	Log func(line string)
}

// Rig is the platform and the servers below it.
type Rig struct {
	Backing *backing.Services
	Stack   *stack.Stack
	// Database logs in as an operator, who is a superuser.
	Database *pgxpool.Pool
	// Link is a connection to the broker for whatever the benchmark consumes itself, Publisher has another one.
	Link      *conn.Link
	Publisher *publish.Publisher
	Rounds    int
	Quick     bool
	Churn     time.Duration

	operator *client.Client
	ingest   map[string]string // settings of ingest-service, by environment variable; see Configure
	lean     *fasthttp.Client

	cancel context.CancelFunc
	owned  sync.WaitGroup // goroutines of Link and Publisher

	mu         sync.Mutex
	ends       []error     // guarded by mu until owned is done: how these goroutines ended
	neighbours []uuid.UUID // guarded by mu until Close
}

// Start starts everything. [Rig.Close] stops it.
func Start(ctx context.Context, opts Options) (*Rig, error) {
	r := &Rig{Rounds: opts.Rounds, Quick: opts.Quick, Churn: opts.Churn}
	if err := r.start(ctx, opts); err != nil {
		return nil, errors.Join(err, r.Close(context.WithoutCancel(ctx)))
	}
	return r, nil
}

func (r *Rig) start(ctx context.Context, opts Options) (err error) {
	if r.Backing, err = backing.Start(ctx, backing.Options{Durable: true, Direct: true, Log: opts.Log}); err != nil {
		return fmt.Errorf("start the backing services: %w", err)
	}
	if err := released(); err != nil {
		return err
	}
	opts.Log("building and starting the services")
	options := stack.On(r.Backing)
	r.ingest = map[string]string{}
	options.ServiceEnv = map[string]map[string]string{stack.IngestService: r.ingest}
	if r.Stack, err = stack.New(ctx, options); err != nil {
		return fmt.Errorf("start the services: %w", err)
	}
	if r.operator, err = Operator(r.Stack, atOnce); err != nil {
		return err
	}
	r.lean = lean()
	config, err := pgxpool.ParseConfig(r.Backing.DatabaseURL)
	if err != nil {
		return fmt.Errorf("parse the address of the database: %w", err)
	}
	config.MaxConns = 16 // as many as a service may open, so that alternatives are not short of them
	if r.Database, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	broker := conn.Config{URL: r.Backing.RabbitMQURL}
	r.Link = conn.NewLink(broker, "benchmark-consume", zap.NewNop(), nil)
	publishing := conn.NewLink(broker, "benchmark-publish", zap.NewNop(), nil)
	r.Publisher = publish.New(publishing, 2, zap.NewNop())
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r.cancel = cancel
	for _, run := range []func(context.Context) error{r.Link.Run, publishing.Run, r.Publisher.Run} {
		r.owned.Go(func() {
			err := run(running)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.ends = append(r.ends, err)
		})
	}
	return nil
}

// released refuses binaries that were built for tests: the race detector makes them several times slower.
func released() error {
	dir := os.Getenv(stack.BinEnv)
	if dir == "" {
		return nil // they are built as we were
	}
	for _, name := range stack.Names() {
		info, err := buildinfo.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("look at the binaries in %s=%s: %w", stack.BinEnv, dir, err)
		}
		if slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
			return fmt.Errorf("%s=%s: %s was built with the race detector; unset it", stack.BinEnv, dir, name)
		}
	}
	return nil
}

// Configure starts ingest-service again with these settings, by environment variable, and defaults for all others.
func (r *Rig) Configure(ctx context.Context, settings map[string]string) error {
	if _, err := r.Stack.Ingest.Term(ctx); err != nil {
		return fmt.Errorf("stop ingest-service: %w", err)
	}
	clear(r.ingest) // read at every start
	maps.Copy(r.ingest, settings)
	if err := r.Stack.Ingest.Start(ctx); err != nil {
		return fmt.Errorf("start ingest-service with %v: %w", settings, err)
	}
	return nil
}

// Close stops the services and the servers. It may be called on a rig that has only half started.
func (r *Rig) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	var err error
	if r.Stack != nil && r.Backing.External() {
		// These servers are somebody's, and stay.
		err = r.DeleteAll(ctx, r.neighbours)
	}
	if r.cancel != nil {
		r.cancel()
		r.owned.Wait()
	}
	if r.Database != nil {
		r.Database.Close()
	}
	err = errors.Join(append(r.ends, err)...)
	if r.Stack != nil {
		err = errors.Join(err, r.Stack.Close(ctx))
	}
	if r.Backing != nil {
		err = errors.Join(err, r.Backing.Stop(ctx))
	}
	return err
}
