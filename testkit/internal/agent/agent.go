// Package agent is the protocol between tests and the program that starts servers for them (testkit/servers/cmd/backing), so
// that tests need not link what it takes to start servers.
//
// A request is one connection to a Unix socket: a line of JSON, answered by lines of progress and a reply. What a request
// starts is a lease, and lasts as long as the connection: [Lease.Release] ends it and says how that went, and a client that
// is killed ends it as well, since the kernel closes its connections.
package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// SocketFile is the name of the socket in the folder of an agent.
const SocketFile = "backing.sock"

// Verb says what is asked for.
type Verb string

// Leases.
const (
	StartServers Verb = "servers" // servers as BACKING says
	StartNATS    Verb = "nats"    // a NATS server in the agent's own process
	MakeScratch  Verb = "scratch" // a folder, removed with what runs in it
)

// Requests about one of the servers of a lease.
const (
	Start   Verb = "start"
	Stop    Verb = "stop"
	Kill    Verb = "kill"
	Wipe    Verb = "wipe"
	Signal  Verb = "signal"
	Inspect Verb = "inspect"
	Tool    Verb = "tool"
	Tail    Verb = "tail"
)

// Request is what a client asks for. Fields that do not belong to the verb are empty.
type Request struct {
	Do Verb `json:"do"`
	// Of StartServers: the environment of the client, and see backing.Options.
	Env     map[string]string `json:"env,omitempty"`
	Names   []string          `json:"names,omitempty"`
	Mode    string            `json:"mode,omitempty"`
	Own     bool              `json:"own,omitempty"`
	Durable bool              `json:"durable,omitempty"`
	Direct  bool              `json:"direct,omitempty"`
	Plugins []string          `json:"plugins,omitempty"`
	// Of StartNATS: where its data lies, its port (any free one if 0), and a file with more of its configuration.
	Data   string `json:"data,omitempty"`
	Port   int    `json:"port,omitempty"`
	Config string `json:"config,omitempty"`
	// Of requests about a server: the folder of its lease, and its name.
	Dir    string `json:"dir,omitempty"`
	Server string `json:"server,omitempty"`
	// Signal is a number; Tool a program and its arguments.
	Signal int      `json:"signal,omitempty"`
	Tool   []string `json:"tool,omitempty"`
}

// Server is a server that has been started, or was found in the environment.
type Server struct {
	Name          string `json:"name"`
	Source        string `json:"source"`
	URL           string `json:"url"`
	ManagementURL string `json:"management_url,omitempty"`
}

// Reply is the answer. Fields that do not belong to the verb are empty.
type Reply struct {
	// Progress is a line for people; another reply follows.
	Progress string `json:"progress,omitempty"`
	// Error is why the request has failed.
	Error string `json:"error,omitempty"`
	// Dir is the folder of a lease, Servers are its servers; URL is that of a NATS server.
	Dir     string   `json:"dir,omitempty"`
	Servers []Server `json:"servers,omitempty"`
	URL     string   `json:"url,omitempty"`
	// Of Inspect: whether the server runs, and as which process of this machine; 0 if that is not known.
	Running bool `json:"running,omitempty"`
	PID     int  `json:"pid,omitempty"`
	// Output is that of a tool, or the end of a log.
	Output string `json:"output,omitempty"`
}

// Lease is something that an agent has started for a client.
type Lease struct{ conn *net.UnixConn }

// Call sends a request to the agent at socket and returns its reply.
func Call(ctx context.Context, socket string, request Request) (Reply, error) {
	lease, reply, err := Hold(ctx, socket, request, nil)
	if err != nil {
		return reply, err
	}
	return reply, lease.close()
}

// Hold sends a request and keeps what it starts. log is told of the progress; it may be nil.
func Hold(ctx context.Context, socket string, request Request, log func(line string)) (*Lease, Reply, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, Reply{}, fmt.Errorf("reach the program that starts servers: %w", err)
	}
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, Reply{}, errors.Join(fmt.Errorf("%s is not a Unix socket", socket), conn.Close())
	}
	lease := &Lease{conn: unix}
	if err := json.NewEncoder(conn).Encode(request); err != nil {
		return nil, Reply{}, errors.Join(fmt.Errorf("ask to %s: %w", request.Do, err), lease.close())
	}
	reply, err := lease.receive(ctx, log)
	if err != nil {
		return nil, reply, errors.Join(err, lease.close())
	}
	return lease, reply, nil
}

// Release ends what the lease has started and returns when that is done.
func (l *Lease) Release(ctx context.Context) error {
	if err := l.conn.CloseWrite(); err != nil {
		return errors.Join(fmt.Errorf("release: %w", err), l.close())
	}
	_, err := l.receive(ctx, nil)
	return errors.Join(err, l.close())
}

func (l *Lease) close() error {
	if err := l.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close the connection to the program that starts servers: %w", err)
	}
	return nil
}

// receive returns the next reply that is not progress. When ctx ends it gives up, and with it the connection.
func (l *Lease) receive(ctx context.Context, log func(string)) (Reply, error) {
	stop := context.AfterFunc(ctx, func() { _ = l.conn.Close() }) // which lets the reading below fail
	defer stop()
	// The agent says nothing more until it is asked, so a decoder cannot read ahead.
	for decoder := json.NewDecoder(l.conn); ; {
		var reply Reply
		if err := decoder.Decode(&reply); err != nil {
			if ctx.Err() != nil {
				return Reply{}, ctx.Err()
			}
			return Reply{}, fmt.Errorf("the program that starts servers does not answer: %w", err)
		}
		switch {
		case reply.Error != "":
			return reply, errors.New(reply.Error)
		case reply.Progress == "":
			return reply, nil
		case log != nil:
			log(reply.Progress)
		}
	}
}

// releaseTimeout bounds the end of a lease.
const releaseTimeout = 2 * time.Minute

// Handler does what a request asks for. ctx ends when the client has gone. A lease is what comes with a release and no
// error; release is called once, also for a client that has gone meanwhile.
type Handler func(ctx context.Context, request Request, progress func(line string)) (reply Reply, release func(context.Context) error, err error)

// Serve answers requests until ctx ends, and returns when all leases have been released. It closes listener.
func Serve(ctx context.Context, listener net.Listener, handle Handler) error {
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() }) // which ends the loop
	defer stop()
	var group sync.WaitGroup
	defer group.Wait()
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		group.Go(func() { serveOne(ctx, conn, handle) })
	}
}

func serveOne(ctx context.Context, conn net.Conn, handle Handler) {
	defer func() { _ = conn.Close() }() // all that it was for has been said
	var request Request
	decoder := json.NewDecoder(conn)
	if decoder.Decode(&request) != nil {
		return // nothing was asked
	}
	connected, cancel := context.WithCancel(ctx)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer func() { _ = conn.Close() }() // ends the reading
	defer cancel()
	reading.Go(func() {
		_, _ = io.Copy(io.Discard, conn) // until the client lets go or is gone
		cancel()
	})

	var sending sync.Mutex // servers start side by side, and each has progress to tell
	send := func(reply Reply) {
		sending.Lock()
		defer sending.Unlock()
		_ = json.NewEncoder(conn).Encode(reply) // a client that has gone is noticed by the reading
	}
	reply, release, err := handle(connected, request, func(line string) { send(Reply{Progress: line}) })
	if err != nil {
		reply.Error = err.Error()
	}
	send(reply)
	if release == nil || err != nil {
		return
	}
	<-connected.Done()
	ending, done := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer done()
	ended := Reply{}
	if err := release(ending); err != nil {
		ended.Error = err.Error()
	}
	send(ended)
}
