package rest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/certificate"
)

const (
	// headerLimit bounds the request line and the header together: an RS256 token with many claims has 2 to
	// 4 KB, a cursor under 1 KB. Each connection has a buffer of this size.
	headerLimit = 16 << 10
	// drainTimeout is how long Run waits for requests in flight, a part of the 30 s that a process has to stop.
	drainTimeout = 20 * time.Second
	// idleWorker is how long fasthttp keeps the goroutine of a closed connection, and how often it looks.
	// Its cleaner outlives Serve by as much: by default 10 s, which a leak detector would report.
	idleWorker = 100 * time.Millisecond
)

// Config is the section "http".
type Config struct {
	// Addr is where the server listens; each service has a default of its own.
	Addr string `koanf:"addr" validate:"required,listen_addr" usage:"address of the HTTP API"`
	// TLSCertFile and TLSKeyFile are in PEM, and may be replaced while the server runs. Without them HTTP is not encrypted.
	TLSCertFile string `koanf:"tls_cert_file" validate:"required_with=TLSKeyFile" usage:"certificate chain of the HTTP API, in PEM; without it the API is plain HTTP"`
	TLSKeyFile  string `koanf:"tls_key_file" validate:"required_with=TLSCertFile" usage:"key of http.tls_cert_file, in PEM"`
	// BodyLimit is in bytes; a larger body is 413 body_too_large. Bodies are held in memory.
	BodyLimit int `koanf:"body_limit" validate:"min=1024,max=67108864" usage:"largest request body, in bytes"`
	// RequestTimeout is the deadline of c.UserContext(). A handler that gives up because of it answers 503.
	RequestTimeout time.Duration `koanf:"request_timeout" validate:"min=100ms,max=10m" usage:"time that a request may take"`
	// ReadTimeout is from the first byte of a request to its last.
	ReadTimeout time.Duration `koanf:"read_timeout" validate:"min=100ms,max=10m" usage:"time that a client may take to send a request"`
	// WriteTimeout is from the first byte of an answer to its last.
	WriteTimeout time.Duration `koanf:"write_timeout" validate:"min=100ms,max=10m" usage:"time that a client may take to receive an answer"`
	// IdleTimeout is between two requests on a connection.
	IdleTimeout time.Duration `koanf:"idle_timeout" validate:"min=100ms,max=1h" usage:"time that a connection is kept open between requests"`
}

// DefaultConfig suits small JSON requests. It has no address.
func DefaultConfig() Config {
	return Config{
		BodyLimit:      1 << 20,
		RequestTimeout: 10 * time.Second,
		ReadTimeout:    15 * time.Second,
		WriteTimeout:   30 * time.Second, // a page of 8 MiB at 2 Mbit/s
		IdleTimeout:    time.Minute,
	}
}

// withDefaults replaces what is zero, which fasthttp would take for "unlimited".
func (c Config) withDefaults() Config {
	def := DefaultConfig()
	if c.BodyLimit <= 0 {
		c.BodyLimit = def.BodyLimit
	}
	for _, d := range []struct {
		value *time.Duration
		def   time.Duration
	}{
		{&c.RequestTimeout, def.RequestTimeout},
		{&c.ReadTimeout, def.ReadTimeout},
		{&c.WriteTimeout, def.WriteTimeout},
		{&c.IdleTimeout, def.IdleTimeout},
	} {
		if *d.value <= 0 {
			*d.value = d.def
		}
	}
	return c
}

// Server is one HTTP API.
type Server struct {
	cfg     Config
	app     *fiber.App
	log     *zap.Logger
	metrics *metrics
	// unpacker is for the bodies of all routes.
	unpacker *unpacker
	drain    time.Duration
	// stopping has every answer from here on end its connection. fasthttp does the same by CloseOnShutdown, but only once
	// the listener has been closed for a while: an answer that came in between would invite another request.
	stopping atomic.Bool
	onStop   func() // is called before requests in flight are waited for

	mu       sync.Mutex
	listener *listener // nil until Listen
}

// New makes a server for a service, whose name is a label of its metrics. Zero fields of cfg get their
// defaults. Routes are added to App before Run.
func New(cfg Config, service string, reg prometheus.Registerer, log *zap.Logger) *Server {
	s := &Server{cfg: cfg.withDefaults(), log: log, metrics: newMetrics(reg, service), drain: drainTimeout, onStop: func() {}}
	s.unpacker = newUnpacker(s.cfg.BodyLimit)
	s.app = fiber.New(fiber.Config{
		AppName:               service,
		DisableStartupMessage: true,
		CaseSensitive:         true,
		// An empty id is no id: /dead-letters/ is not /dead-letters.
		StrictRouting: true,
		// Without it parameters and bodies are views of memory that the next request overwrites.
		Immutable:                    true,
		BodyLimit:                    s.cfg.BodyLimit,
		ReadBufferSize:               headerLimit,
		ReadTimeout:                  s.cfg.ReadTimeout,
		WriteTimeout:                 s.cfg.WriteTimeout,
		IdleTimeout:                  s.cfg.IdleTimeout,
		DisablePreParseMultipartForm: true,
		ErrorHandler:                 s.renderError,
	})
	server := s.app.Server()
	server.MaxIdleWorkerDuration = idleWorker
	server.ErrorHandler = s.protocolError
	// Without it errors quote the header, and with it the token.
	server.SecureErrorLogMessage = true
	server.Handler = routable(s.knownMethods(server.Handler))
	s.app.Use(s.handle)
	return s
}

// App is the Fiber application, for adding routes. Middleware belongs to routes and not to the
// application, so that it sees, and is measured under, the route's template:
//
//	s.App().Get("/messages/:id", verifier.Authenticate(), auth.Require(auth.ScopeMessagesRead), get)
func (s *Server) App() *fiber.App { return s.app }

// OnStop has a function called when the server is told to stop, before it waits for requests in flight, so that those that wait for
// something can be answered. It is called before Run.
func (s *Server) OnStop(do func()) { s.onStop = do }

// Listen binds the address, if that has not been done, and returns it. Run does it as well; a caller does
// it before to learn the port that ":0" has got, or to fail before anything else is started.
func (s *Server) Listen() (net.Addr, error) {
	ln, err := s.listen(context.Background())
	if err != nil {
		return nil, err
	}
	return ln.Addr(), nil
}

func (s *Server) listen(ctx context.Context) (*listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.cfg.Addr)
		if err != nil {
			return nil, fmt.Errorf("http.addr %s: %w", s.cfg.Addr, err)
		}
		secured, err := certificate.Listener(ln, s.cfg.TLSCertFile, s.cfg.TLSKeyFile, s.log)
		if err != nil {
			return nil, fmt.Errorf("http.tls_cert_file: %w", errors.Join(err, ln.Close()))
		}
		s.listener = &listener{Listener: secured}
	}
	return s.listener, nil
}

// Run serves until ctx ends, and then until the requests in flight have been answered, which is given
// 20 seconds; what is left then is cut off. A server runs once.
func (s *Server) Run(ctx context.Context) error {
	// Binding is not cut short, so that a stop that comes early is a stop and not a failure.
	ln, err := s.listen(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	addr := ln.Addr()
	// The listener is ours because Fiber loses a Shutdown that comes before its Listen, and would then
	// serve for ever; a closed listener ends Serve at once, whichever comes first.
	served := make(chan error, 1)
	go func() { served <- s.app.Listener(ln) }()
	s.log.Info("http server is listening", zap.Stringer("addr", addr))

	select {
	case err := <-served:
		return fmt.Errorf("serve http on %s: %w", addr, err)
	case <-ctx.Done():
	}
	s.stopping.Store(true)
	s.onStop()
	if err := ln.Close(); err != nil {
		return fmt.Errorf("close http listener: %w", err)
	}
	if err := <-served; err != nil {
		return fmt.Errorf("serve http on %s: %w", addr, err)
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.drain)
	defer cancel()
	if err := s.app.ShutdownWithContext(stop); err != nil {
		// A client that takes its time to read is no failure of ours.
		s.log.Warn("requests in flight have not finished in time and are cut off", zap.Duration("limit", s.drain), zap.Error(err))
	}
	return nil
}
