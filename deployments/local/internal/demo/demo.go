// Package demo uses a running platform the way its clients do, and checks it while it does so.
//
// It makes three tenants, publishes the same documents to each, half of them over HTTP in batches and half of them over
// AMQP with confirms, changes the number of workers of one tenant while it consumes, and reads everything back: once
// while the writers commit, by following the cursor, and once backwards at the end. What comes out has to be what went
// in: every message once, none changed in meaning, none of another tenant. It finishes by deleting one tenant and waiting
// until nothing is left of it; the other two stay, to look at.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
)

// Config says what to use and what to publish.
type Config struct {
	TenantURL, IngestURL, QueryURL string
	RabbitMQURL                    string
	AdminToken                     string
	// TenantToken makes a token that may read and write the messages of a tenant.
	TenantToken func(tenant uuid.UUID) (string, error)
	// File holds JSON documents, one a line.
	File string
	// Messages is how many each tenant gets; the documents are repeated as often as needed. 0: each of them once.
	Messages int
	Out      io.Writer
}

const (
	// provisionTimeout bounds what takes a second or less: making a tenant, applying a change, deleting it.
	provisionTimeout = time.Minute
	// stallTimeout is how long no message may arrive before the demo gives up.
	stallTimeout = time.Minute
)

// errDiffers says that what came out is not what went in.
var errDiffers = errors.New("what came out is not what went in")

// demo is one run.
type demo struct {
	Config

	admin     *client.Client // with the operator's token
	publisher *publish.Publisher
	corpus    *corpus
	screen    *screen
	subjects  []*subject
}

// Run does all of it. It returns an error if anything failed or differed.
func Run(ctx context.Context, cfg Config) error {
	corpus, err := load(cfg.File, cfg.Messages)
	if err != nil {
		return err
	}
	urls := client.URLs{Tenant: cfg.TenantURL, Ingest: cfg.IngestURL, Query: cfg.QueryURL}
	admin, err := client.New(urls, client.StaticToken(cfg.AdminToken), client.WithUserAgent("demo"))
	if err != nil {
		return fmt.Errorf("make the client: %w", err)
	}
	defer admin.Close()
	d := &demo{Config: cfg, corpus: corpus, screen: newScreen(cfg.Out), admin: admin}

	brokerConfig := conn.Default()
	brokerConfig.URL = cfg.RabbitMQURL
	link := conn.NewLink(brokerConfig, "demo", zap.NewNop(), func(error) {})
	d.publisher = publish.New(link, 2, zap.NewNop())
	brokerContext, disconnect := context.WithCancel(context.WithoutCancel(ctx))
	var broker errgroup.Group
	broker.Go(func() error { return link.Run(brokerContext) })
	broker.Go(func() error { return d.publisher.Run(brokerContext) })

	err = d.run(ctx)
	disconnect()
	return errors.Join(err, broker.Wait())
}

func (d *demo) run(ctx context.Context) error {
	d.screen.say("%d documents of %s, %d messages for each of three tenants", len(d.corpus.documents), d.File, d.corpus.total)
	for _, name := range []string{"acme", "globex", "initech"} {
		s, err := d.newSubject(ctx, name)
		if err != nil {
			return err
		}
		d.subjects = append(d.subjects, s)
		d.screen.say("  tenant %-8s %s: its consumer runs", name, s.id)
	}
	if err := d.flow(ctx); err != nil {
		return err
	}
	if err := d.verify(ctx); err != nil {
		return err
	}
	gone := d.subjects[len(d.subjects)-1]
	took, err := d.remove(ctx, gone)
	if err != nil {
		return err
	}
	d.screen.say("tenant %s is deleted: 404 after %s", gone.name, took.Round(time.Millisecond))
	return d.report()
}

// flow publishes, reads along and changes the workers of a tenant, all at the same time.
func (d *demo) flow(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range d.subjects {
		s.started = time.Now()
		half := d.corpus.total / 2
		var publishing errgroup.Group
		publishing.Go(func() error { return s.publishHTTP(ctx, 0, half) })
		publishing.Go(func() error { return s.publishAMQP(ctx, d.publisher, half, d.corpus.total) })
		group.Go(func() error {
			err := publishing.Wait()
			s.publishTook = time.Since(s.started)
			return err
		})
		group.Go(func() error { return s.follow(ctx) })
	}
	group.Go(func() error { return d.resize(ctx, d.subjects[1]) })
	watching, stop := context.WithCancel(ctx)
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		d.screen.show(watching, d.progress)
	}()
	err := group.Wait()
	stop()
	<-shown
	return err
}

// resize changes the number of workers twice, while messages are consumed, and waits each time until it has been applied.
func (d *demo) resize(ctx context.Context, s *subject) error {
	for _, step := range []struct {
		after   float64 // share of the messages that has been read
		workers int
	}{{0.1, 8}, {0.5, 2}} {
		if err := until(ctx, 10*time.Millisecond, func() (bool, error) {
			return float64(s.read.Load()) >= step.after*float64(d.corpus.total), nil
		}); err != nil {
			return err
		}
		at := s.read.Load()
		began := time.Now()
		if err := d.applied(ctx, s, step.workers); err != nil {
			return fmt.Errorf("change the workers of %s: %w", s.name, err)
		}
		d.screen.say("  tenant %s: %d workers from message %d on, applied after %s, the consumer kept running",
			s.name, step.workers, at, time.Since(began).Round(time.Millisecond))
	}
	return nil
}

// applied sets the number of workers and returns when that many exist.
func (d *demo) applied(ctx context.Context, s *subject, workers int) error {
	ctx, cancel := context.WithTimeout(ctx, provisionTimeout)
	defer cancel()
	tenant, err := d.admin.ResizeTenant(ctx, client.ID(s.id), workers, client.Wait())
	if err != nil {
		return err
	}
	return until(ctx, 20*time.Millisecond, func() (done bool, err error) {
		if tenant.Status.Workers == workers {
			return true, nil
		}
		tenant, err = d.admin.Tenant(ctx, tenant.ID)
		return false, err
	})
}

func (d *demo) progress() string {
	var published, read int64
	for _, s := range d.subjects {
		published += s.viaHTTP.Load() + s.viaAMQP.Load()
		read += s.read.Load()
	}
	all := int64(d.corpus.total * len(d.subjects))
	seconds := time.Since(d.subjects[0].started).Seconds()
	return fmt.Sprintf("  published %d of %d   stored and read %d   %.0f messages/s", published, all, read, float64(read)/seconds)
}

// until calls done, every interval, until it reports true or fails, or ctx ends.
func until(ctx context.Context, interval time.Duration, done func() (bool, error)) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
