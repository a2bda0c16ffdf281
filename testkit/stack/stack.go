package stack

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// The services of the platform.
const (
	TenantService = "tenant-service"
	IngestService = "ingest-service"
	QueryService  = "query-service"
)

// Names are the services.
func Names() []string { return []string{TenantService, IngestService, QueryService} }

// What tokens of a stack say about where they come from and for whom they are.
const (
	Issuer   = "mtm-test"
	Audience = "mtm-test"
)

// tokenLifetime is longer than any test takes.
const tokenLifetime = 24 * time.Hour

// closeTimeout bounds the end of a stack.
const closeTimeout = 2 * time.Minute

// Options say what to run.
type Options struct {
	// DatabaseURL is the login of an operator; the services migrate and drop to their roles on their own.
	DatabaseURL string
	RabbitMQURL string
	NATSURL     string
	// Env are further settings of all services, by the names of their environment variables.
	Env map[string]string
	// ServiceEnv are further settings of single services; they go before Env.
	ServiceEnv map[string]map[string]string
}

// On are the options for backing services that were started by package backing.
func On(services *backing.Services) Options {
	return Options{
		DatabaseURL: services.DatabaseURL, RabbitMQURL: services.RabbitMQURL, NATSURL: services.NATSURL,
	}
}

// Shared are the options for a stack on the servers that tests share, with a database, a virtual host and a NATS of its
// own.
func Shared(tb testing.TB) Options {
	tb.Helper()
	return Options{DatabaseURL: backing.Postgres(tb), RabbitMQURL: backing.RabbitMQ(tb).URL, NATSURL: backing.NATS(tb)}
}

// Stack is a platform that runs.
type Stack struct {
	Tenant, Ingest, Query *Service
	// Secret is the HS256 key of tokens.
	Secret string
	// Options are those with which it was started.
	Options Options

	bin     string
	scratch *backing.Scratch
	all     []*Service
}

// Start runs the services for a test and returns when all of them are ready. They end with the test.
func Start(tb testing.TB, opts Options) *Stack {
	tb.Helper()
	s, err := New(tb.Context(), opts)
	if err != nil {
		tb.Fatalf("stack: %v", err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), closeTimeout)
		defer cancel()
		s.report(tb)
		if err := s.Close(ctx); err != nil {
			tb.Errorf("stack: %v", err)
		}
	})
	return s
}

// New runs the services and returns when all of them are ready. [Stack.Close] ends them.
func New(ctx context.Context, opts Options) (*Stack, error) {
	bin, err := Binaries(ctx)
	if err != nil {
		return nil, err
	}
	scratch, err := backing.NewScratch(ctx)
	if err != nil {
		return nil, err
	}
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails, see crypto/rand
	s := &Stack{Options: opts, bin: bin, scratch: scratch, Secret: hex.EncodeToString(secret[:])}
	for _, name := range Names() {
		if _, err := s.add(ctx, name, name); err != nil {
			return nil, errors.Join(err, s.Close(context.WithoutCancel(ctx)))
		}
	}
	s.Tenant, s.Ingest, s.Query = s.all[0], s.all[1], s.all[2]
	var group errgroup.Group
	for _, service := range s.all {
		group.Go(func() error { return service.Start(ctx) })
	}
	if err := group.Wait(); err != nil {
		return nil, errors.Join(err, s.Close(context.WithoutCancel(ctx)))
	}
	return s, nil
}

// Add runs one more instance of a service, on ports of its own, and returns when it is ready.
func (s *Stack) Add(ctx context.Context, name string) (*Service, error) {
	if !slices.Contains(Names(), name) {
		return nil, fmt.Errorf("%s is none of %s", name, strings.Join(Names(), ", "))
	}
	service, err := s.add(ctx, name, fmt.Sprintf("%s-%d", name, len(s.all)))
	if err != nil {
		return nil, err
	}
	return service, service.Start(ctx)
}

func (s *Stack) add(ctx context.Context, name, instance string) (*Service, error) {
	service, err := newService(ctx, s, name, instance)
	if err != nil {
		return nil, err
	}
	s.all = append(s.all, service)
	return service, nil
}

// env are the settings of a service, in the order in which later ones win.
func (s *Stack) env(name string) map[string]string {
	env := map[string]string{
		"PATH":          os.Getenv("PATH"),
		"DATABASE_URL":  s.Options.DatabaseURL,
		"RABBITMQ_URL":  s.Options.RabbitMQURL,
		"NATS_URL":      s.Options.NATSURL,
		"AUTH_SECRET":   s.Secret,
		"AUTH_ISSUER":   Issuer,
		"AUTH_AUDIENCE": Audience,
		"LOG_LEVEL":     "info",
	}
	if dir := os.Getenv("GOCOVERDIR"); dir != "" { // binaries built with -cover
		env["GOCOVERDIR"] = dir
	}
	maps.Copy(env, s.Options.Env)
	maps.Copy(env, s.Options.ServiceEnv[name])
	return env
}

// Close ends the services at once. A test that wants them to end in an orderly way asks them before.
func (s *Stack) Close(ctx context.Context) error { return s.scratch.Remove(ctx) }

// Token is a token of subject with these scopes, bound to tenant unless that is uuid.Nil.
func (s *Stack) Token(tenant uuid.UUID, scopes ...auth.Scope) (string, error) {
	return auth.Sign(s.Secret, auth.Claims{
		Issuer: Issuer, Audience: Audience, Subject: "test", Scopes: scopes, TenantID: tenant,
		ExpiresAt: time.Now().Add(tokenLifetime),
	})
}

// AdminToken may do everything to every tenant.
func (s *Stack) AdminToken() (string, error) { return s.Token(uuid.Nil, auth.ScopeTenantsAdmin) }

// TenantToken may do everything that the applications of one tenant do.
func (s *Stack) TenantToken(tenant uuid.UUID) (string, error) {
	return s.Token(tenant, auth.ScopeMessagesRead, auth.ScopeMessagesWrite, auth.ScopeDeadLettersManage)
}

// report fails the test if a service has reported a data race, and shows the logs of a failed test.
func (s *Stack) report(tb testing.TB) {
	tb.Helper()
	for _, service := range s.all {
		if service.raced() {
			tb.Errorf("stack: %s reports a data race; its log tells where", service.Instance)
		}
	}
	if !tb.Failed() {
		return
	}
	for _, service := range s.all {
		tb.Logf("stack: the log of %s ends with:\n%s", service.Instance, service.tail())
	}
}
