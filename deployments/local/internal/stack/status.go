package stack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"sync"
	"text/tabwriter"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/process"
	"github.com/srireskianita/multi-tenant-messaging/testkit/servers"
	platform "github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

// errNotAllUp makes `make status` fail when something is wrong, for scripts.
var errNotAllUp = errors.New("not everything is up")

// Status prints a table of what runs, and fails unless everything does.
func (s *Stack) Status(ctx context.Context) error {
	table := tabwriter.NewWriter(s.out, 0, 0, 3, ' ', 0)
	row := func(name string, pid int, state, url string) {
		number := "-"
		if pid != 0 {
			number = strconv.Itoa(pid)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", name, number, state, url) //nolint:errcheck // reported by Flush
	}
	fmt.Fprintln(table, "NAME\tPID\tSTATE\tURL") //nolint:errcheck // reported by Flush
	allUp, err := s.backingStatus(ctx, row)
	if err != nil {
		return err
	}
	started, err := s.readEnv() // it was perhaps started with other addresses than the environment has now
	if err != nil {
		return err
	}
	var reasons []string
	for _, v := range s.services() {
		api := cmp.Or(started[v.prefix+"_URL"], v.url())
		running, err := process.Find(s.dir, v.name)
		if err != nil && !errors.Is(err, process.ErrNotRunning) {
			return fmt.Errorf("look for %s: %w", v.name, err)
		}
		pid, state := 0, "stopped"
		if running != nil {
			pid, state = running.PID(), "ready"
			if err := platform.Ready(ctx, cmp.Or(started[v.prefix+"_OPS_URL"], v.opsURL())); err != nil {
				state = "not ready"
				reasons = append(reasons, fmt.Sprintf("%s is not ready: %s", v.name, err))
			}
		} else if _, err := os.Stat(process.PIDFile(s.dir, v.name)); err == nil {
			state = "died"
		}
		allUp = allUp && state == "ready"
		row(v.name, pid, state, api)
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	for _, reason := range reasons { // too long for the table
		s.say("%s", reason)
	}
	if !allUp {
		return errNotAllUp
	}
	return nil
}

// backingStatus tells of the servers that this stack has started, or where its addresses lead.
func (s *Stack) backingStatus(ctx context.Context, row func(name string, pid int, state, url string)) (allUp bool, err error) {
	servers, err := servers.Inspect(ctx, s.dir)
	if err != nil {
		return false, fmt.Errorf("look at the backing services: %w", err)
	}
	addresses, err := s.readEnv()
	if err != nil {
		return false, err
	}
	allUp = true
	for _, name := range backing.Names() {
		address := addresses[map[backing.Name]string{
			backing.ServicePostgres: "DATABASE_URL", backing.ServiceRabbitMQ: "RABBITMQ_URL", backing.ServiceNATS: "NATS_URL",
		}[name]]
		found := false
		for _, server := range servers {
			if server.Name != name || address != "" && address != server.URL { // one that is not in use any more
				continue
			}
			found = true
			state := "running (" + string(server.Source) + ")"
			if !server.Running {
				allUp, state = false, "stopped"
			}
			if server.Container != "" && server.Running {
				state = "running (container " + server.Container + ")"
			}
			row(string(name), server.PID, state, withoutPassword(server.URL))
		}
		switch {
		case found:
		case address == "":
			allUp = false
			row(string(name), 0, "stopped", "")
		default:
			row(string(name), 0, "external", withoutPassword(address))
		}
	}
	return allUp, nil
}

func withoutPassword(address string) string {
	parsed, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return parsed.Redacted()
}

// noLog says why there is no log file of name, and where to look instead.
func (s *Stack) noLog(ctx context.Context, name string) error {
	servers, err := servers.Inspect(ctx, s.dir)
	if err != nil {
		return fmt.Errorf("look at the backing services: %w", err)
	}
	for _, server := range servers {
		if string(server.Name) == name && server.Container != "" {
			return fmt.Errorf("%s runs in a container: docker logs %s", name, server.Container)
		}
	}
	return fmt.Errorf("%s has no log here (%s)", name, s.relative(process.LogFile(s.dir, name)))
}

// Logs prints the newest lines of the log of name, or of all logs, each then with the name in front. With following it goes
// on until ctx ends.
func (s *Stack) Logs(ctx context.Context, name string, following bool) error {
	names := []string{name}
	if name == "" {
		names = nil
		for _, server := range backing.Names() {
			names = append(names, string(server))
		}
		for _, v := range s.services() {
			names = append(names, v.name)
		}
	}
	const lines = 30
	var printing sync.Mutex
	show := func(from string, line []byte) {
		printing.Lock()
		defer printing.Unlock()
		if len(names) > 1 {
			s.say("%-14s | %s", from, line)
		} else {
			s.say("%s", line)
		}
	}
	ends := make([]int64, len(names))
	for i, from := range names {
		file := process.LogFile(s.dir, from)
		if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
			if name != "" {
				return s.noLog(ctx, name)
			}
			continue
		}
		last, end, err := tail(file, lines)
		if err != nil {
			return err
		}
		ends[i] = end
		for _, line := range last {
			show(from, line)
		}
	}
	if !following {
		return nil
	}
	var followers sync.WaitGroup
	failed := make([]error, len(names))
	for i, from := range names {
		followers.Go(func() {
			failed[i] = follow(ctx, process.LogFile(s.dir, from), ends[i], func(line []byte) { show(from, line) })
		})
	}
	followers.Wait()
	return errors.Join(failed...)
}
