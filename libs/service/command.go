package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/urfave/cli/v3"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/build"
	"github.com/srireskianita/multi-tenant-messaging/libs/certificate"
	"github.com/srireskianita/multi-tenant-messaging/libs/config"
	"github.com/srireskianita/multi-tenant-messaging/libs/lifecycle"
	"github.com/srireskianita/multi-tenant-messaging/libs/logging"
	"github.com/srireskianita/multi-tenant-messaging/libs/telemetry"
)

// Command describes a binary whose configuration is a C, which embeds [Config].
type Command[C interface{ Common() Config }] struct {
	// Name is the name in logs, metrics and on the servers that the service connects to.
	Name  string
	Usage string
	// Defaults is the configuration before the file and the environment.
	Defaults func() C
	// Serve runs the service until ctx ends.
	Serve func(ctx context.Context, cfg C, log *zap.Logger) error
	// More are further commands, by name: what they do, and how.
	More map[string]Extra[C]
}

// Extra is a command that only one service has.
type Extra[C any] struct {
	Usage string
	Run   func(ctx context.Context, cfg C, log *zap.Logger) error
}

// ErrArgument refuses a misspelt command, which would otherwise run the service.
var ErrArgument = errors.New("unknown command or argument")

// Line builds the command line: serve (the default), healthcheck, config and those in More. Logs and what is printed go to out. A service continues when nobody reads out any more, see
// [logging.Sink]; other commands end then, as programs in a pipe do.
func (s Command[C]) Line(environ []string, out io.Writer) *cli.Command {
	root := &cli.Command{
		Name:        s.Name,
		Usage:       s.Usage,
		Description: "Configuration is a YAML file with environment variables over it:\n\n" + config.Help(s.Defaults()),
		Writer:      out,
		Version:     build.Read().String(),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Usage: "YAML `FILE`; the default one may be absent", Value: "config.yaml"},
		},
	}
	logged := func(run func(context.Context, C, *zap.Logger) error) func(context.Context, C) error {
		return func(ctx context.Context, cfg C) error {
			sink := logging.NewSink(out)
			defer sink.Close()
			log, err := logging.New(cfg.Common().Log, s.Name, sink)
			if err != nil {
				return err
			}
			return run(ctx, cfg, log)
		}
	}
	action := func(run func(context.Context, C) error) cli.ActionFunc {
		return func(ctx context.Context, c *cli.Command) error {
			if c.Args().Present() {
				return fmt.Errorf("%w %q; see --help", ErrArgument, c.Args().First())
			}
			cfg := s.Defaults()
			if err := config.Load(&cfg, c.String("config"), c.IsSet("config"), environ); err != nil {
				return err
			}
			return run(ctx, cfg)
		}
	}
	serve := action(logged(func(ctx context.Context, cfg C, log *zap.Logger) error {
		lifecycle.OutliveReaders()
		return s.Serve(ctx, cfg, log)
	}))
	root.Action = serve
	root.Commands = []*cli.Command{
		{Name: "serve", Usage: "run the service (the default)", Action: serve},
		{Name: "healthcheck", Usage: "exit with 0 if the service on this machine is ready", Action: action(func(ctx context.Context, cfg C) error {
			return healthcheck(ctx, cfg.Common().Ops, out)
		})},
		{Name: "config", Usage: "print the configuration in effect, without secrets", Action: action(func(_ context.Context, cfg C) error {
			_, err := out.Write(config.Masked(cfg))
			return err
		})},
	}
	for name, extra := range s.More {
		root.Commands = append(root.Commands, &cli.Command{Name: name, Usage: extra.Usage, Action: action(logged(extra.Run))})
	}
	return root
}

// healthcheckTimeout is below what a container engine gives a health check.
const healthcheckTimeout = 3 * time.Second

// ErrNotReady is the answer of healthcheck to a service that runs but cannot work.
var ErrNotReady = errors.New("not ready")

// healthcheck asks the operations listener, which may be bound to all addresses, and prints what it says.
func healthcheck(ctx context.Context, ops telemetry.Config, out io.Writer) (err error) {
	host, port, err := net.SplitHostPort(ops.Addr)
	if err != nil {
		return fmt.Errorf("ops.addr: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = "localhost"
	}
	ctx, cancel := context.WithTimeout(ctx, healthcheckTimeout)
	defer cancel()
	scheme, transport := "http", &http.Transport{DisableKeepAlives: true}
	if ops.TLSCertFile != "" {
		scheme, transport.TLSClientConfig = "https", certificate.Pinned(ops.TLSCertFile)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+net.JoinHostPort(host, port)+"/readyz", http.NoBody)
	if err != nil {
		return fmt.Errorf("make the health request: %w", err)
	}
	client := &http.Client{Transport: transport}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("ask for health: %w", err)
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	if _, err := io.Copy(out, io.LimitReader(response.Body, 64<<10)); err != nil {
		return fmt.Errorf("read health: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return ErrNotReady
	}
	return nil
}
