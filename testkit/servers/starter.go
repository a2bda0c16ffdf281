package servers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// readyPoll is how often a service is looked at while it starts.
const readyPoll = 50 * time.Millisecond

// starter does the work of [Start].
type starter struct {
	opts Options
	// dir is that of persistent servers, and for others empty until there is something to be put there.
	dir   string
	mode  backing.Mode
	kinds []kind
	// direct: the caller wants it, and the engine is on this machine; known once the sources are.
	direct bool

	// sayMu keeps the lines of services that start at the same time apart.
	sayMu sync.Mutex
}

func newStarter(opts Options) (*starter, error) {
	if opts.Getenv == nil {
		opts.Getenv = os.Getenv
	}
	s := &starter{opts: opts, mode: opts.Mode}
	var err error
	if s.mode == backing.ModeAuto {
		if s.mode, err = backing.ParseMode(opts.Getenv("BACKING")); err != nil {
			return nil, err
		}
	}
	if opts.Own && s.mode == backing.ModeExternal {
		s.mode = backing.ModeAuto // what is not ours cannot be killed
	}
	for _, k := range kinds() {
		if len(opts.Services) == 0 || slices.Contains(opts.Services, k.name()) {
			s.kinds = append(s.kinds, k)
		}
	}
	if opts.persistent() == (opts.Scratch != nil) {
		return nil, errors.New("servers need a folder: one of their own, in which they stay, or one in a scratch folder")
	}
	if opts.persistent() {
		if s.dir, err = filepath.Abs(opts.Dir); err != nil {
			return nil, fmt.Errorf("find the folder of the servers: %w", err)
		}
	}
	return s, nil
}

func (s *starter) say(format string, values ...any) {
	if s.opts.Log == nil {
		return
	}
	s.sayMu.Lock()
	defer s.sayMu.Unlock()
	s.opts.Log(fmt.Sprintf(format, values...))
}

func (s *starter) settings() settings {
	return settings{durable: s.opts.Durable, persistent: s.opts.persistent(), direct: s.direct, plugins: s.opts.RabbitMQPlugins}
}

// choice is where one service will be taken from.
type choice struct {
	kind   kind
	source backing.Source
	// external is the address of a service from the environment.
	external address
	// rec is that of a server of ours; known if it has been started before.
	rec   record
	known bool
}

// ours reports whether the service is a server that we have to run.
func (c choice) ours() bool { return c.source != backing.SourceEnv }

// choose decides for each service where it is taken from, and installs what is missing for that.
func (s *starter) choose(ctx context.Context) ([]choice, error) {
	if s.opts.Direct && !s.opts.persistent() {
		e, err := openEngine(ctx)
		s.direct = err == nil && e.shares()
	}
	choices := make([]choice, len(s.kinds))
	failures := make([]error, len(s.kinds)) // all of them are worth telling
	var group sync.WaitGroup
	for i, k := range s.kinds {
		group.Go(func() {
			var err error
			choices[i], err = s.chooseOne(ctx, k)
			failures[i] = named(k, err)
		})
	}
	group.Wait()
	var missing []string
	for _, c := range choices {
		if c.source == backing.SourceNative {
			missing = append(missing, c.kind.missing()...)
		}
	}
	if err := errors.Join(failures...); err != nil {
		return nil, err
	}
	return choices, install(ctx, missing, s.say)
}

// begin makes the services available, side by side.
func (s *starter) begin(ctx context.Context, choices []choice, services *Services) error {
	started := make([]*Process, len(choices))
	failures := make([]error, len(choices))
	var group sync.WaitGroup
	for i, c := range choices {
		group.Go(func() {
			var err error
			started[i], err = s.beginOne(ctx, c)
			failures[i] = named(c.kind, err)
		})
	}
	group.Wait()
	for _, p := range started {
		if p != nil {
			services.add(p)
		}
	}
	return errors.Join(failures...)
}

func named(k kind, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", k.name(), err)
}

// chooseOne decides where a service is taken from. A server that has run in this folder keeps its place, since its data
// is there.
func (s *starter) chooseOne(ctx context.Context, k kind) (choice, error) {
	var rec record
	known := false
	if s.dir != "" {
		var err error
		if rec, known, err = currentRecord(s.dir, k.name()); err != nil {
			return choice{}, err
		}
	}
	if !s.opts.Own && (s.mode == backing.ModeAuto || s.mode == backing.ModeExternal) {
		external, variable := k.fromEnv(s.opts.Getenv)
		// The address of our own server comes back to us where somebody has exported what we have printed.
		ours := known && s.mode == backing.ModeAuto && external.URL == k.address(rec).URL
		if external.URL != "" && !ours {
			return choice{kind: k, source: backing.SourceEnv, external: external}, nil
		}
		if s.mode == backing.ModeExternal {
			return choice{}, fmt.Errorf("BACKING=external, but %s is not set", variable)
		}
	}
	if known && (s.mode == backing.ModeAuto || string(s.mode) == string(rec.Source)) {
		return choice{kind: k, source: rec.Source, rec: rec, known: true}, nil
	}
	source, err := s.chooseOwn(ctx, k)
	if err != nil {
		return choice{}, err
	}
	if known { // and the mode wants it elsewhere
		s.say("%s: stopping the one of before (%s); its data stays", k.name(), rec.Source)
		if err := serverOf(s.dir, k, rec, s.settings()).remove(ctx); err != nil {
			return choice{}, err
		}
		rec, known, err = loadRecord(s.dir, k.name(), source)
		if err != nil {
			return choice{}, err
		}
	}
	return choice{kind: k, source: source, rec: rec, known: known}, nil
}

// chooseOwn decides between Docker and this machine's programs.
func (s *starter) chooseOwn(ctx context.Context, k kind) (backing.Source, error) {
	if s.mode == backing.ModeNative {
		return backing.SourceNative, nil
	}
	e, err := openEngine(ctx)
	if err == nil {
		if err = e.needImage(ctx, k.image(), s.say); err == nil {
			return backing.SourceDocker, nil
		}
		if s.mode != backing.ModeDocker && ctx.Err() == nil {
			s.say("%s: %v; passing over the Docker engine", k.name(), err)
		}
	}
	if s.mode == backing.ModeDocker {
		return "", fmt.Errorf("BACKING=docker: %w", err)
	}
	return backing.SourceNative, ctx.Err()
}

// beginOne makes one service available. A process that did start is returned along with the error, so that it can be
// stopped.
func (s *starter) beginOne(ctx context.Context, c choice) (*Process, error) {
	if c.source == backing.SourceEnv {
		return s.adopt(ctx, c)
	}
	started, err := s.launch(ctx, c)
	if err == nil || c.source == backing.SourceNative || s.mode == backing.ModeDocker || c.known || ctx.Err() != nil {
		return started, err
	}
	s.say("%s: %v; passing over the Docker engine", c.kind.name(), err)
	if started != nil {
		if err := started.remove(ctx); err != nil {
			return started, err
		}
	}
	if err := install(ctx, c.kind.missing(), s.say); err != nil {
		return nil, err
	}
	return s.launch(ctx, choice{kind: c.kind, source: backing.SourceNative})
}

// adopt takes a service from the environment. It is somebody else's, and starts when they say so; but it may be on its
// way up.
func (s *starter) adopt(ctx context.Context, c choice) (*Process, error) {
	p := &Process{name: c.kind.name(), source: backing.SourceEnv, kind: c.kind, address: c.external}
	ctx, cancel := context.WithTimeout(ctx, externalTimeout)
	defer cancel()
	if err := p.await(ctx); err != nil {
		_, variable := c.kind.fromEnv(s.opts.Getenv)
		return nil, fmt.Errorf("%s is set, but the service there cannot be used: %w", variable, err)
	}
	s.say("%s: from the environment", c.kind.name())
	return p, nil
}

// externalTimeout is how long a service from the environment may take until it answers.
const externalTimeout = 15 * time.Second

// launch starts a server of ours, or finds it running, and waits until it answers.
func (s *starter) launch(ctx context.Context, c choice) (*Process, error) {
	began := time.Now()
	if !c.known {
		var err error
		if c.rec, err = s.newRecord(ctx, c.kind, c.source); err != nil {
			return nil, err
		}
	}
	p, err := s.process(c)
	if err != nil {
		return nil, err
	}
	ran, err := p.server.running(ctx)
	if err != nil {
		if c.known && c.source == backing.SourceDocker {
			err = fmt.Errorf("its data is in Docker (container %s): %w", c.rec.Container, err)
		}
		return p, err
	}
	if c.known && !ran {
		if p, err = s.movePorts(ctx, c, p); err != nil {
			return p, err
		}
	}
	err = p.Start(ctx)
	if err != nil && !ran && portTaken(err) && ctx.Err() == nil {
		s.say("%s: somebody else was quicker to take one of its ports; moving to others", p.name)
		if p, err = s.move(ctx, c, p); err == nil {
			err = p.Start(ctx)
		}
	}
	if err != nil {
		return p, err
	}
	if ran {
		s.say("%s: running already (%s)", p.name, p.source)
	} else {
		s.say("%s: started (%s) in %s", p.name, p.describe(), time.Since(began).Round(10*time.Millisecond))
	}
	return p, nil
}

// process records a server of ours and says how to control it. That comes before anything is started, so that it can be
// found and stopped whatever happens to us.
func (s *starter) process(c choice) (*Process, error) {
	if err := saveRecord(s.dir, c.kind.name(), c.rec); err != nil {
		return nil, err
	}
	return &Process{
		name: c.kind.name(), source: c.source, kind: c.kind, address: c.kind.address(c.rec),
		server: serverOf(s.dir, c.kind, c.rec, s.settings()),
	}, nil
}

// portTimeout is how long a port may take to be free after the end of the server that had it.
const portTimeout = 2 * time.Second

// movePorts gives a stopped server other ports if somebody else has taken one of its own meanwhile.
func (s *starter) movePorts(ctx context.Context, c choice, p *Process) (*Process, error) {
	taken := c.rec.taken(ctx)
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for until := time.Now().Add(portTimeout); taken != 0 && time.Now().Before(until); taken = c.rec.taken(ctx) {
		select {
		case <-ctx.Done():
			return p, ctx.Err()
		case <-tick.C:
		}
	}
	if taken == 0 {
		return p, nil
	}
	s.say("%s: somebody else has taken port %d; moving to others", p.name, taken)
	return s.move(ctx, c, p)
}

// move gives a server that does not run other ports.
func (s *starter) move(ctx context.Context, c choice, p *Process) (*Process, error) {
	fresh, err := c.kind.newRecord(ctx, c.source)
	if err != nil {
		return p, err
	}
	c.rec.Port, c.rec.ManagementPort = fresh.Port, fresh.ManagementPort
	c.rec.DistributionPort, c.rec.EPMDPort = fresh.DistributionPort, fresh.EPMDPort
	if err := p.server.remove(ctx); err != nil { // a container has its ports for life
		return p, err
	}
	return s.process(c)
}

func (s *starter) newRecord(ctx context.Context, k kind, source backing.Source) (record, error) {
	rec, err := k.newRecord(ctx, source)
	if err != nil {
		return record{}, err
	}
	switch source {
	case backing.SourceDocker:
		rec.Container = "mtm-" + dirID(s.dir) + "-" + string(k.name())
		if s.opts.persistent() {
			rec.Volume = rec.Container
		}
	case backing.SourceNative:
		if rec.Data, err = dataFolder(s.dir, k); err != nil {
			return record{}, err
		}
	case backing.SourceEnv:
	}
	return rec, nil
}

// portTaken reports whether a server did not start because somebody listens on one of its ports: a port that was free when
// it was chosen may be taken until the server asks for it, seconds later. Each server says so in words of its own.
func portTaken(err error) bool {
	said := strings.ToLower(err.Error())
	for _, words := range []string{"address already in use", "eaddrinuse", "port is already allocated"} {
		if strings.Contains(said, words) {
			return true
		}
	}
	return false
}

// describe says what a started server is, for people.
func (p *Process) describe() string {
	switch p.source {
	case backing.SourceDocker:
		return "docker, " + p.kind.image()
	case backing.SourceNative:
		return fmt.Sprintf("native, pid %d", p.PID())
	case backing.SourceEnv:
	}
	return string(p.source)
}

// lastLines shortens the tail of a log for an error message.
func lastLines(tail string) string {
	if tail == "" {
		return "its log is empty"
	}
	return "its log ends with:\n" + strings.TrimSpace(tail)
}
