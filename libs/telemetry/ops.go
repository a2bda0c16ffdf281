package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/certificate"
)

const (
	// readTimeout bounds a request, of which none has a body.
	readTimeout = 10 * time.Second
	// writeTimeout bounds an answer. It is what limits /debug/pprof/profile?seconds=n: net/http/pprof refuses
	// to take longer than the server may write.
	writeTimeout = 2 * time.Minute
	idleTimeout  = time.Minute
	// headerLimit bounds a header, in bytes, to which net/http adds 4 KiB.
	headerLimit = 16 << 10
	// stopTimeout is how long a scrape may still run when the process stops; a profile is cut off.
	stopTimeout = 3 * time.Second
)

// Config is the section "ops".
type Config struct {
	// Addr is where the listener binds. It shows profiles and metrics to whoever reaches it.
	Addr string `koanf:"addr" validate:"required,listen_addr" usage:"address of the operations listener: /metrics /healthz /readyz /debug/pprof"`
	// TLSCertFile and TLSKeyFile are in PEM, and may be replaced while the listener runs. Without them it is not encrypted.
	TLSCertFile string `koanf:"tls_cert_file" validate:"required_with=TLSKeyFile" usage:"certificate chain of the operations listener, in PEM; without it the listener is plain HTTP"`
	TLSKeyFile  string `koanf:"tls_key_file" validate:"required_with=TLSCertFile" usage:"key of ops.tls_cert_file, in PEM"`
}

// Ops is the operations listener.
type Ops struct {
	cfg    Config
	log    *zap.Logger
	server *http.Server

	mu       sync.Mutex
	listener net.Listener // nil until Listen
}

// NewOps makes the listener, which serves once Run is called.
func NewOps(cfg Config, reg *prometheus.Registry, h *Health, log *zap.Logger) *Ops {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", h.alive)
	mux.HandleFunc("GET /readyz", h.ready)
	// A collector that fails must not hide what the others have to say.
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		ErrorLog:      zap.NewStdLog(log),
		ErrorHandling: promhttp.ContinueOnError,
	}))
	// Any method, since go tool pprof posts to symbol.
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("/debug/pprof/block", recorded(runtime.SetBlockProfileRate, blockRate))
	mux.HandleFunc("/debug/pprof/mutex", recorded(func(fraction int) { runtime.SetMutexProfileFraction(fraction) }, mutexFraction))
	return &Ops{
		cfg: cfg, log: log,
		server: &http.Server{
			Handler:           framed(mux),
			ReadHeaderTimeout: readTimeout,
			ReadTimeout:       readTimeout,
			WriteTimeout:      writeTimeout,
			IdleTimeout:       idleTimeout,
			MaxHeaderBytes:    headerLimit,
			ErrorLog:          zap.NewStdLog(log),
		},
	}
}

// framed refuses chunked bodies, of which no request here has one, and keeps no connection of HTTP/1.0 open. net/http lets
// Transfer-Encoding stand beside Content-Length, or ignores it in HTTP/1.0, and continues with what it takes for the next request;
// a proxy in front may have taken that for a body (RFC 9112 section 6.1 wants the connection closed).
func framed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if chunked := len(r.TransferEncoding) > 0; chunked || !r.ProtoAtLeast(1, 1) {
			w.Header().Set("Connection", "close")
			if chunked {
				// What is left of the body is not waited for.
				_ = http.NewResponseController(w).SetReadDeadline(time.Now())
				http.Error(w, "no request here has a chunked body", http.StatusBadRequest)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

const (
	// blockRate has one wait recorded for so many nanoseconds of waiting, on average.
	blockRate = 10_000
	// mutexFraction has one of so many waits for a lock recorded.
	mutexFraction = 10
)

// recorded has waits recorded at a rate only while their profile is asked for, which takes ?seconds=n: it would cost every
// one of them. A rate of 0 records nothing.
func recorded(record func(rate int), rate int) http.HandlerFunc {
	var asking sync.Mutex // a second request waits
	return func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("seconds") == "" {
			http.Error(w, "waits are recorded on demand: ask with ?seconds=10", http.StatusBadRequest)
			return
		}
		asking.Lock()
		defer asking.Unlock()
		record(rate)
		defer record(0)
		pprof.Index(w, r)
	}
}

// Listen binds the address, if that has not been done, and returns it. Run does it as well; a caller does
// it before to learn the port that ":0" has got, or to fail before anything else is started.
func (o *Ops) Listen() (net.Addr, error) {
	ln, err := o.listen(context.Background())
	if err != nil {
		return nil, err
	}
	return ln.Addr(), nil
}

func (o *Ops) listen(ctx context.Context) (net.Listener, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.listener == nil {
		ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.cfg.Addr)
		if err != nil {
			return nil, fmt.Errorf("ops.addr %s: %w", o.cfg.Addr, err)
		}
		secured, err := certificate.Listener(ln, o.cfg.TLSCertFile, o.cfg.TLSKeyFile, o.log)
		if err != nil {
			return nil, fmt.Errorf("ops.tls_cert_file: %w", errors.Join(err, ln.Close()))
		}
		o.listener = secured
	}
	return o.listener, nil
}

// Run serves until ctx ends. It is listed first in a process, so that it ends last.
func (o *Ops) Run(ctx context.Context) error {
	ln, err := o.listen(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- o.server.Serve(ln) }()

	select {
	case err := <-served:
		return fmt.Errorf("serve ops: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	err = o.server.Shutdown(stop)
	if errors.Is(err, context.DeadlineExceeded) {
		err = o.server.Close() // a profile is still being taken: not worth failing for
	}
	if err != nil {
		return fmt.Errorf("stop ops: %w", err)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve ops: %w", err)
	}
	return nil
}
