package platform

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"

	toxiproxy "github.com/Shopify/toxiproxy/v2"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

// Platform is the three services on backing servers of their own, with a proxy on every way between them.
type Platform struct {
	// Backing are the servers, reached without a proxy: for producers, readers and operators of a test.
	Backing *backing.Services
	// Stack are the services; they reach the servers through Proxies.
	Stack *stack.Stack
	// Proxies are one for each server. They are disturbed through [Platform.Delay] and what follows it.
	Proxies map[backing.Name]*toxiproxy.Proxy

	admin *Admin
	keys  string // folder of the key that issued tokens are signed with
}

// Start starts servers, proxies and services, and returns when all three services are ready. log is told of the progress.
// On an error nothing is left running. env are further settings of ingest-service.
func Start(ctx context.Context, env map[string]string, log func(format string, args ...any)) (_ *Platform, err error) {
	p := &Platform{}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close(context.WithoutCancel(ctx)))
		}
	}()
	p.Backing, err = backing.StartOwn(ctx, backing.Options{Durable: true, Log: func(line string) { log("%s", line) }})
	if err != nil {
		return nil, fmt.Errorf("start the servers: %w", err)
	}
	var opts stack.Options
	if p.Proxies, opts, err = startProxies(ctx, p.Backing); err != nil {
		return nil, err
	}
	issuing, err := p.issuing()
	if err != nil {
		return nil, err
	}
	// A channel that has gone wrong is noticed in seconds rather than in a minute: a run has no minutes to wait.
	issuing[stack.IngestService]["INGEST_RESYNC"] = "3s"
	maps.Copy(issuing[stack.IngestService], env)
	opts.ServiceEnv = issuing
	if p.Stack, err = stack.New(ctx, opts); err != nil {
		return nil, fmt.Errorf("start the services: %w", err)
	}
	if p.admin, err = NewAdmin(p.Stack); err != nil {
		return nil, err
	}
	return p, nil
}

// Close stops everything at once, whatever state it is in, and leaves nothing behind. A second call does nothing.
func (p *Platform) Close(ctx context.Context) error {
	var failed error
	if p.Stack != nil {
		failed = p.Stack.Close(ctx)
		p.Stack = nil
	}
	for _, proxy := range p.Proxies {
		proxy.Stop()
	}
	if p.Backing != nil {
		failed = errors.Join(failed, p.Backing.Stop(ctx))
		p.Backing = nil
	}
	if p.keys != "" {
		failed = errors.Join(failed, os.RemoveAll(p.keys))
	}
	return failed
}

// Admin is the operator.
func (p *Platform) Admin() *Admin { return p.admin }

// Services are the three services.
func (p *Platform) Services() []*stack.Service {
	return []*stack.Service{p.Stack.Tenant, p.Stack.Ingest, p.Stack.Query}
}

// Ready is nil if all three services say that they are ready, and else what the first of them lacks.
func (p *Platform) Ready(ctx context.Context) error {
	for _, service := range p.Services() {
		if err := service.Ready(ctx); err != nil {
			return fmt.Errorf("%s is not ready: %w", service.Instance, err)
		}
	}
	return nil
}
