package control

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// Timing of the connection.
const (
	connectTimeout = 3 * time.Second
	// reconnectWait is short, because everything that a reconnect costs NATS is a TCP handshake; the jitter spreads the
	// instances that lost the same server.
	reconnectWait   = 250 * time.Millisecond
	reconnectJitter = 250 * time.Millisecond
	// A half-open connection is noticed after pingInterval * (maxPings + 1).
	pingInterval = 5 * time.Second
	maxPings     = 2
	// closeTimeout bounds the wait for the goroutines of the client library.
	closeTimeout = 5 * time.Second
)

// Config is the section "nats" of a service's configuration.
type Config struct {
	URL string `koanf:"url" usage:"address of NATS with JetStream; several, separated by commas, for a cluster" validate:"required" secret:"url"`
	// TLSCAFile names the authorities that count instead of the system's; with it, or with a certificate of our own, nothing is sent in
	// clear. All are in PEM, and read again for every connection.
	TLSCAFile   string `koanf:"tls_ca_file" usage:"authorities of NATS, in PEM, instead of the system's; requires TLS"`
	TLSCertFile string `koanf:"tls_cert_file" validate:"required_with=TLSKeyFile" usage:"certificate of this client for NATS, in PEM; requires TLS"`
	TLSKeyFile  string `koanf:"tls_key_file" validate:"required_with=TLSCertFile" usage:"key of nats.tls_cert_file, in PEM"`
	// Replicas is the number of servers that keep each bucket: 1, or 3 in a cluster.
	Replicas int `koanf:"replicas" usage:"servers that keep each bucket (1, or 3 or 5 in a cluster)" validate:"min=1,max=5"`
	// Resync is how often a watch starts over although nothing seems wrong. It bounds how long a bucket that somebody
	// recreated, or a watcher that has gone silent, stays unnoticed. A snapshot of 10,000 keys takes about 0.1 s. 0 is the
	// default.
	Resync time.Duration `koanf:"resync" usage:"how often a watch takes a new snapshot, whatever it has seen" validate:"min=1s,max=10m"`
}

// DefaultConfig is a single NATS server on this machine.
func DefaultConfig() Config { return Config{URL: nats.DefaultURL, Replicas: 1, Resync: defaultResync} }

const defaultResync = 30 * time.Second

// errDisconnected is what a [Conn] reports, and a watch returns to its supervisor, while there is no connection.
var errDisconnected = errors.New("not connected to NATS")

// Conn is one connection to NATS that is repaired for ever. It is safe for concurrent use.
type Conn struct {
	nc       *nats.Conn
	js       jetstream.JetStream
	replicas int
	resync   time.Duration
	log      *zap.Logger
	closed   chan struct{} // closed when the client library has ended

	mu        sync.Mutex
	report    func(error)
	faults    map[string]error // what is wrong now, by source: the connection, or the watch of a bucket
	connected chan struct{}    // closed at the next connect, and then replaced
}

// Connect makes a connection that is named name on the server. It does not wait for NATS: a server that is down is
// reported and tried again for ever, every half a second. The only errors are those of the configuration, such as a
// malformed URL. Every change between working and not working is told to report (nil: working), some of them repeatedly,
// one call at a time; report may be nil.
func Connect(cfg Config, name string, log *zap.Logger, report func(error)) (*Conn, error) {
	if report == nil {
		report = func(error) {}
	}
	c := &Conn{
		replicas:  max(cfg.Replicas, 1),
		resync:    cmp.Or(cfg.Resync, defaultResync),
		log:       log,
		closed:    make(chan struct{}),
		report:    report,
		faults:    make(map[string]error),
		connected: make(chan struct{}),
	}
	c.fault(sourceConnection, errDisconnected)
	options := append(encryption(cfg),
		nats.Name(name),
		nats.Timeout(connectTimeout),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(), // credentials may be rotated on the server first
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectJitter, reconnectJitter),
		// Without a buffer a write fails at once while there is no connection. A buffered one would be sent after the
		// reconnect, long after its caller has given up on it.
		nats.ReconnectBufSize(-1),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(maxPings),
		nats.ConnectHandler(func(*nats.Conn) { c.onConnect("connected to NATS") }),
		nats.ReconnectHandler(func(*nats.Conn) { c.onConnect("connected to NATS again") }),
		nats.DisconnectErrHandler(c.onDisconnect),
		// Why an attempt has failed, such as a certificate or a password that does not count, is told here and nowhere else.
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { c.fault(sourceConnection, fmt.Errorf("%w: %w", errDisconnected, err)) }),
		nats.ClosedHandler(func(*nats.Conn) { close(c.closed) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			log.Debug("NATS client", zap.Error(err))
		}),
	)
	nc, err := nats.Connect(cfg.URL, options...)
	if malformed, ok := errors.AsType[*url.Error](err); ok {
		err = malformed.Err // without the URL, which may hold a password
	}
	if err != nil {
		return nil, fmt.Errorf("nats.url: %w", err)
	}
	c.nc = nc
	if !nc.IsConnected() {
		log.Warn("NATS is not there yet; trying again until it is", zap.NamedError("cause", nc.LastError()))
	}
	if c.js, err = jetstream.New(nc); err != nil {
		c.Close()
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	return c, nil
}

// encryption are the options of TLS, which is 1.2 at the least. Without any, a URL with the scheme tls asks for it.
func encryption(cfg Config) []nats.Option {
	var options []nats.Option
	if cfg.TLSCAFile != "" {
		options = append(options, nats.RootCAs(cfg.TLSCAFile))
	}
	if cfg.TLSCertFile != "" {
		options = append(options, nats.ClientCert(cfg.TLSCertFile, cfg.TLSKeyFile))
	}
	return options
}

// Close ends the connection and waits until the goroutines of the client library have ended. Watches must have been
// ended before, through their contexts.
func (c *Conn) Close() {
	c.nc.Close()
	select {
	case <-c.closed:
	case <-time.After(closeTimeout):
		c.log.Warn("NATS client did not end in time")
	}
}

// sourceConnection is the key of the connection itself among the faults of a [Conn].
const sourceConnection = "connection"

func (c *Conn) onConnect(message string) {
	c.log.Info(message)
	c.fault(sourceConnection, nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.connected)
	c.connected = make(chan struct{})
}

func (c *Conn) onDisconnect(nc *nats.Conn, err error) {
	if err == nil {
		err = errDisconnected
	}
	if !nc.IsClosed() {
		c.log.Warn("lost the connection to NATS", zap.Error(err))
	}
	c.fault(sourceConnection, err)
}

// NextConnect returns a channel that is closed at the next connect or reconnect.
func (c *Conn) NextConnect() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.connected
}

// fault notes that source works (nil) or why it does not, and reports what this makes of the whole.
func (c *Conn) fault(source string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		delete(c.faults, source)
	} else {
		c.faults[source] = err
	}
	if lost, ok := c.faults[sourceConnection]; ok {
		c.report(lost) // explains all others
		return
	}
	all := make([]error, 0, len(c.faults))
	for _, one := range c.faults {
		all = append(all, one)
	}
	c.report(errors.Join(all...))
}
