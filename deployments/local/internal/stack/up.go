package stack

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/process"
	"github.com/srireskianita/multi-tenant-messaging/testkit/servers"
	platform "github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

// readyTimeout is how long the services may take until all of them are ready. They need a second or two, migrations
// included, unless the machine is very busy.
const readyTimeout = 2 * time.Minute

// Up starts what does not run, waits until every service is ready, writes stack.env and tells how to use it all.
func (s *Stack) Up(ctx context.Context) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.portsFree(ctx); err != nil { // before anything is started for nothing
		return err
	}
	if err := s.forgetOwnAddresses(ctx); err != nil {
		return err
	}
	servers, err := servers.Start(ctx, servers.Options{
		Dir: s.dir, Durable: true, Log: func(line string) { s.say("%s", line) },
	})
	if err != nil {
		return fmt.Errorf("start the backing services: %w", err)
	}
	secret, err := s.secret(true)
	if err != nil {
		return err
	}
	settings := map[string]string{
		"AUTH_SECRET": secret, "DATABASE_URL": servers.DatabaseURL, "RABBITMQ_URL": servers.RabbitMQURL,
		"RABBITMQ_MANAGEMENT_URL": servers.RabbitMQManagementURL, "NATS_URL": servers.NATSURL,
		// The same after every restart, so that a process that was killed is not shown beside the one that follows it.
		"INGEST_INSTANCE": "local",
	}
	keys, err := s.signingKeys()
	if err != nil {
		return err
	}
	var waiting []*starting
	for _, v := range s.services() {
		running, err := s.start(ctx, v, s.spec(v, settings, keys[v.name]))
		if err != nil {
			return err
		}
		waiting = append(waiting, &starting{service: v, process: running, missing: errors.New("it does not answer")})
	}
	if err := s.awaitReady(ctx, waiting); err != nil {
		return err
	}
	return s.tell(settings)
}

// portsFree fails if a service that does not run could not listen.
func (s *Stack) portsFree(ctx context.Context) error {
	for _, v := range s.services() {
		_, err := process.Find(s.dir, v.name)
		if errors.Is(err, process.ErrNotRunning) {
			err = v.portsFree(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// forgetOwnAddresses takes addresses out of the environment that this stack has put there: after `. .local/stack.env` in
// a shell that exports, our own servers would look like somebody else's, which are never started.
func (s *Stack) forgetOwnAddresses(ctx context.Context) error {
	servers, err := servers.Inspect(ctx, s.dir)
	if err != nil {
		return fmt.Errorf("look at the backing services: %w", err)
	}
	own := map[string]string{
		string(backing.ServicePostgres): "DATABASE_URL", string(backing.ServiceRabbitMQ): "RABBITMQ_URL",
		string(backing.ServiceNATS): "NATS_URL",
	}
	for _, server := range servers {
		variable := own[string(server.Name)]
		if os.Getenv(variable) != server.URL {
			continue
		}
		names := []string{variable}
		if variable == "RABBITMQ_URL" {
			names = append(names, "RABBITMQ_MANAGEMENT_URL")
		}
		for _, name := range names {
			if err := os.Unsetenv(name); err != nil {
				return fmt.Errorf("unset %s: %w", name, err)
			}
		}
	}
	return nil
}

// starting is a service that is not known to be ready yet.
type starting struct {
	service
	process *process.Process
	missing error // why it is not ready, as of the last look
}

// awaitReady returns when all services are ready. If one of them ends, or time is over, the error shows what it had to
// say.
func (s *Stack) awaitReady(ctx context.Context, waiting []*starting) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		for _, v := range waiting {
			if !v.process.Alive() {
				return fmt.Errorf("%s has ended; its last words (%s):\n%s",
					v.name, s.relative(process.LogFile(s.dir, v.name)), s.lastLines(v.name))
			}
			if err := platform.Ready(ctx, v.opsURL()); ctx.Err() == nil {
				v.missing = err // that time is over says nothing about the service
			}
		}
		waiting = slices.DeleteFunc(waiting, func(v *starting) bool { return v.missing == nil })
		if len(waiting) == 0 {
			return nil
		}
		select {
		case <-tick.C:
			continue
		case <-ctx.Done():
		}
		var errs []error
		for _, v := range waiting {
			errs = append(errs, fmt.Errorf("%s is not ready: %w; its last words (%s):\n%s",
				v.name, v.missing, s.relative(process.LogFile(s.dir, v.name)), s.lastLines(v.name)))
		}
		return errors.Join(append(errs, fmt.Errorf("wait for the services: %w", ctx.Err()))...)
	}
}

// lastLines are the end of a log, indented.
func (s *Stack) lastLines(name string) string {
	lines, _, err := tail(process.LogFile(s.dir, name), 15)
	if err != nil {
		return "  " + err.Error()
	}
	var text strings.Builder
	for _, line := range lines {
		fmt.Fprintf(&text, "  %s\n", line)
	}
	return text.String()
}

// defaultVHost names the virtual host "/" so that every client understands it. An address that came from the environment may end
// in a slash: to the services that is the same, and to strict clients, which read stack.env as well, a virtual host without a
// name.
func defaultVHost(address string) string {
	parsed, err := url.Parse(address)
	if err != nil || parsed.EscapedPath() != "/" {
		return address
	}
	parsed.Path, parsed.RawPath = "", ""
	return parsed.String()
}

// tell writes stack.env and prints what a newcomer needs next.
func (s *Stack) tell(settings map[string]string) error {
	admin, err := s.Token(uuid.Nil, []auth.Scope{auth.ScopeTenantsAdmin}, TokenLifetime)
	if err != nil {
		return err
	}
	values := map[string]string{"ADMIN_TOKEN": admin}
	for _, key := range []string{"DATABASE_URL", "RABBITMQ_URL", "RABBITMQ_MANAGEMENT_URL", "NATS_URL"} {
		values[key] = settings[key]
	}
	values["RABBITMQ_URL"] = defaultVHost(values["RABBITMQ_URL"])
	s.say("")
	for _, v := range s.services() {
		values[v.prefix+"_URL"], values[v.prefix+"_OPS_URL"] = v.url(), v.opsURL()
		s.say("%-14s %s   Swagger UI %s/swagger/index.html   metrics %s/metrics", v.name, v.url(), v.url(), v.opsURL())
	}
	if err := s.writeEnv(values); err != nil {
		return err
	}
	s.say("%s", `
Admin token, valid for 7 days (it is in `+s.relative(s.envFile())+`, too):
`+admin+`

Try it; these lines can be pasted as they are:

  `+strings.Join(firstSteps(s.relative(s.envFile()), uuid.NewString()), "\n  ")+`

Further: make demo, make status, make logs, make down`)
	return nil
}

// firstSteps are shell lines that make a tenant, store a message and read it. The id is chosen here, so that nothing has
// to be cut out of an answer.
func firstSteps(envFile, tenant string) []string {
	const as, json = ` -H "Authorization: Bearer `, ` -H 'Content-Type: application/json'`
	return []string{
		"# addresses and the admin token",
		". " + filepath.ToSlash(envFile),
		"# a tenant; wait=10: the answer comes when its queue, partition and consumer are there",
		"TENANT=" + tenant,
		`curl -sS -X POST "$TENANT_URL/tenants"` + as + `$ADMIN_TOKEN"` + json + ` -H 'Prefer: wait=10' -d '{"id":"'$TENANT'","name":"acme","workers":3}'; echo`,
		"# a token of that tenant, a message, and the first page",
		`TOKEN=$(make token TENANT=$TENANT SCOPE="messages:read messages:write")`,
		`curl -sS -X POST "$INGEST_URL/messages"` + as + `$TOKEN"` + json + ` -d '{"payload":{"type":"order.created","total":"19.90"}}'; echo`,
		`curl -sS "$QUERY_URL/messages?limit=10"` + as + `$TOKEN"; echo`,
	}
}

// Down stops everything and keeps the data.
func (s *Stack) Down(ctx context.Context) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return s.down(ctx)
}

func (s *Stack) down(ctx context.Context) error {
	var stopping errgroup.Group
	for _, v := range s.services() {
		stopping.Go(func() error { return s.stopService(ctx, v.name) })
	}
	if err := stopping.Wait(); err != nil { // the services first, so that they can finish what is in flight
		return err
	}
	if err := servers.Stop(ctx, s.dir); err != nil {
		return fmt.Errorf("stop the backing services: %w", err)
	}
	s.say("everything is stopped; the data stays in %s (make reset removes it)", Folder)
	return nil
}

func (s *Stack) stopService(ctx context.Context, name string) error {
	running, err := process.Find(s.dir, name)
	if err == nil {
		err = running.Stop(ctx)
		s.say("%-14s stopped", name)
	}
	if err != nil && !errors.Is(err, process.ErrNotRunning) {
		return fmt.Errorf("stop %s: %w", name, err)
	}
	// The files of one that had died on its own.
	for _, file := range []string{
		s.fingerprintFile(name), process.PIDFile(s.dir, name), filepath.Join(s.dir, "run", name+".json"),
	} {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("forget %s: %w", name, err)
		}
	}
	return nil
}

// Reset stops everything and removes all that the stack has kept: data, logs, and the keys, so that old tokens end.
// Servers that were taken from the environment are not touched, and neither is what is stored there.
func (s *Stack) Reset(ctx context.Context) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.down(ctx); err != nil {
		return err
	}
	if err := servers.Reset(ctx, s.dir); err != nil {
		return fmt.Errorf("remove the data of the backing services: %w", err)
	}
	for _, file := range []string{"data", "log", "run", "auth.secret", signingKeyFile, issuedKeysFile, "stack.env"} {
		if err := os.RemoveAll(filepath.Join(s.dir, file)); err != nil {
			return fmt.Errorf("remove %s: %w", file, err)
		}
	}
	s.say("the data is removed")
	return nil
}
