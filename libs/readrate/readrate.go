// Package readrate holds the limits of tenants in bytes a second that are read, over all instances of the services that read.
//
// The limits come from the desired states of tenants in the control channel, and a change is in force as soon as it arrives there. The
// instances announce themselves to each other ([control.Group]) and share the buckets of package rate: one instance has that of a
// tenant, and the others borrow. While NATS is away the limits that were known last stay in force, and each instance takes its part of
// them, by the number of instances that it knew of last. An instance that starts meanwhile knows no limits: its reads pass until NATS is
// back.
//
// A tenant without a limit costs a look into a map.
package readrate

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/libs/rate"
	"github.com/srireskianita/multi-tenant-messaging/libs/rendezvous"
)

// largest is more than what one instance can owe for a tenant, in bytes: a hundred pages of 8 MiB.
const largest = 1 << 30

// Config is the section "nats" of a service that reads, which works without it.
type Config struct {
	URL         string        `koanf:"url" usage:"address of NATS, from which the limits of reading come, and over which instances share them; several, separated by commas, for a cluster; empty: nobody has such a limit" secret:"url"`
	TLSCAFile   string        `koanf:"tls_ca_file" usage:"authorities of NATS, in PEM, instead of the system's; requires TLS"`
	TLSCertFile string        `koanf:"tls_cert_file" validate:"required_with=TLSKeyFile" usage:"certificate of this client for NATS, in PEM; requires TLS"`
	TLSKeyFile  string        `koanf:"tls_key_file" validate:"required_with=TLSCertFile" usage:"key of nats.tls_cert_file, in PEM"`
	Resync      time.Duration `koanf:"resync" usage:"how often the watch of the limits takes a new snapshot, whatever it has seen" validate:"min=1s,max=10m"`
}

// DefaultConfig is that without NATS.
func DefaultConfig() Config { return Config{Resync: control.DefaultConfig().Resync} }

// Limiter holds the limits of reading. It is safe for concurrent use.
type Limiter struct {
	conn   *control.Conn
	specs  *control.Bucket[contract.TenantSpec]
	group  *control.Group
	rates  *rate.Limiter
	reads  *rate.Reads
	forget func(tenant uuid.UUID)
	log    *zap.Logger

	mu      sync.RWMutex
	tenants map[uuid.UUID]wanted // guarded by mu
}

// wanted is what is desired of a tenant, as far as it is read.
type wanted struct {
	generation int64
	readBytes  int64 // a second; 0: no limit
	deleting   bool
}

// New connects an instance of the service of that name, and returns without waiting for NATS; what is wrong with the way there is told to
// report (nil: nothing). forget is told of tenants that are deleted. The only errors are those of the configuration. The caller closes
// the limiter once Run has returned.
func New(cfg Config, service, instance string, report func(error), forget func(tenant uuid.UUID), log *zap.Logger) (*Limiter, error) {
	conn, err := control.Connect(control.Config{
		URL: cfg.URL, TLSCAFile: cfg.TLSCAFile, TLSCertFile: cfg.TLSCertFile, TLSKeyFile: cfg.TLSKeyFile, Resync: cfg.Resync,
	}, service, log, report)
	if err != nil {
		return nil, err
	}
	l := &Limiter{
		conn: conn, specs: control.ReadTenants(conn), group: control.NewGroup(conn, contract.ReadersSubject, instance),
		forget: forget, log: log, tenants: make(map[uuid.UUID]wanted),
	}
	l.rates = rate.New(rate.Config{
		Self: instance, Instances: l.group.Members, Owner: rendezvous.Owner,
		Limits:    func(tenant uuid.UUID) rate.Amounts { return rate.Amounts{rate.Bytes: l.limit(tenant)} },
		Largest:   rate.Amounts{rate.Bytes: largest},
		Transport: rate.OverNATS(conn, contract.ReadRateSubject),
	})
	l.reads = rate.NewReads(l.rates)
	return l, nil
}

// Close ends the connection.
func (l *Limiter) Close() { l.conn.Close() }

// Run learns of limits, and lends to other instances and borrows from them, until ctx ends.
func (l *Limiter) Run(ctx context.Context) error {
	running, ctx := errgroup.WithContext(ctx)
	running.Go(func() error { return l.group.Run(ctx) })
	running.Go(func() error { return l.rates.Run(ctx) })
	running.Go(func() error { return l.specs.Watch(ctx, l.apply, nil) })
	if err := running.Wait(); err != nil {
		return fmt.Errorf("limits of reading: %w", err)
	}
	return nil
}

// Begin lets a read of a tenant pass, or returns a wait after which to try again. end is called once, with the bytes that were sent, 0
// for a read that has failed. Without a limit every read passes.
func (l *Limiter) Begin(ctx context.Context, tenant uuid.UUID) (end func(bytes int), wait time.Duration) {
	limit := l.limit(tenant)
	if limit == 0 {
		return func(int) {}, 0
	}
	return l.reads.Begin(ctx, tenant, limit)
}

func (l *Limiter) limit(tenant uuid.UUID) int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.tenants[tenant].readBytes
}

// apply takes in one change of the control channel. A key that is missing never means that a tenant is deleted: its limit stays, unless it
// was being deleted before.
func (l *Limiter) apply(entry control.Entry[contract.TenantSpec]) {
	tenant, err := uuid.Parse(entry.Key)
	if err != nil {
		l.log.Warn("the control channel has a key that is no tenant id", zap.String("key", entry.Key))
		return
	}
	spec := entry.Value
	l.mu.Lock()
	before := l.tenants[tenant]
	after, gone := before, false
	switch {
	case entry.Deleted:
		if gone = before.deleting; gone {
			delete(l.tenants, tenant)
		}
	case spec.TenantID != tenant.String() || spec.Limits.Negative():
		l.log.Warn("the control channel has a value that is ignored", zap.Stringer("tenant_id", tenant))
	case spec.Generation >= before.generation:
		after = wanted{spec.Generation, spec.Limits.ReadBytes, spec.State == contract.DesiredDeleting}
		l.tenants[tenant] = after
	}
	l.mu.Unlock()
	if gone || before.readBytes > 0 && after.readBytes == 0 {
		l.reads.Forget(tenant)
	}
	if gone {
		l.forget(tenant)
	}
}
