// Command backing starts and stops PostgreSQL, RabbitMQ and NATS.
//
//	backing run -- go test work     servers for the time of one command, which gets their addresses in its environment
//	backing up --dir .local         servers that stay, and keep their data in that folder
//	backing status|down|reset --dir .local
//	backing nats --dir data         a NATS server with JetStream in the foreground
//
// Where the servers come from is said by package backing and can be forced with BACKING=external, docker or native.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/srireskianita/multi-tenant-messaging/libs/build"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// stopTimeout bounds the end of scratch servers, of which nothing is kept.
const stopTimeout = time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command().Run(ctx, os.Args)
	stop()
	if ended, ok := errors.AsType[*exitError](err); ok {
		os.Exit(ended.status)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "backing:", err)
		os.Exit(1)
	}
}

func command() *cli.Command {
	dir := &cli.StringFlag{Name: "dir", Usage: "folder of data, logs, pid files and passwords", Required: true}
	return &cli.Command{
		Name:    "backing",
		Usage:   "start and stop PostgreSQL, RabbitMQ and NATS",
		Version: build.Read().String(),
		Commands: []*cli.Command{
			{
				Name:      "run",
				Usage:     "run a command with servers of its own, gone when it ends",
				ArgsUsage: "-- COMMAND [ARGUMENT…]",
				Flags:     []cli.Flag{&cli.BoolFlag{Name: "durable", Usage: "wait for the disk, as production does"}},
				Action:    run,
			},
			{Name: "up", Usage: "start what does not run, and print the addresses", Flags: []cli.Flag{dir}, Action: up},
			{Name: "status", Usage: "tell what runs", Flags: []cli.Flag{dir}, Action: status},
			{
				Name: "down", Usage: "stop the servers and keep their data", Flags: []cli.Flag{dir},
				Action: func(ctx context.Context, c *cli.Command) error { return backing.Stop(ctx, c.String("dir")) },
			},
			{
				Name: "reset", Usage: "stop the servers and remove their data", Flags: []cli.Flag{dir},
				Action: func(ctx context.Context, c *cli.Command) error { return backing.Reset(ctx, c.String("dir")) },
			},
			{
				Name:  "nats",
				Usage: "run a NATS server with JetStream until it is told to end",
				Flags: []cli.Flag{
					dir,
					&cli.IntFlag{Name: "port", Usage: "port on 127.0.0.1", Value: 4222},
					&cli.StringFlag{Name: "password", Usage: "of the login operator; none if empty", Sources: cli.EnvVars("NATS_PASSWORD")},
				},
				Action: func(ctx context.Context, c *cli.Command) error {
					return backing.ServeNATS(ctx, backing.NATSConfig{
						Dir: c.String("dir"), Port: c.Int("port"), Password: c.String("password"), Log: true,
					})
				},
			},
		},
	}
}

func say(line string) { fmt.Fprintln(os.Stderr, "backing:", line) }

func up(ctx context.Context, c *cli.Command) error {
	services, err := backing.Start(ctx, backing.Options{Dir: c.String("dir"), Persistent: true, Durable: true, Log: say})
	if err != nil {
		return err
	}
	for _, line := range services.Env() {
		if _, err := fmt.Fprintln(c.Root().Writer, line); err != nil {
			return err
		}
	}
	return nil
}

func status(ctx context.Context, c *cli.Command) error {
	all, err := backing.Inspect(ctx, c.String("dir"))
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(c.Root().Writer, 0, 0, 2, ' ', 0)
	for _, s := range all {
		state := "stopped"
		if s.Running {
			state = "running"
		}
		if s.Err != nil {
			state = "unknown: " + s.Err.Error()
		}
		where := s.Container
		if s.PID != 0 {
			where = fmt.Sprintf("pid %d", s.PID)
		}
		if _, err := fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", s.Name, state, s.Source, where); err != nil {
			return err
		}
	}
	return table.Flush()
}

// exitError is the end of the command that was run, which becomes our own.
type exitError struct{ status int }

func (e *exitError) Error() string { return fmt.Sprintf("exit status %d", e.status) }

// run starts scratch servers, runs the command, and stops them. SIGINT and SIGTERM are passed on to the command and to
// what it has started; how it ends is how we end.
func run(ctx context.Context, c *cli.Command) error {
	arguments := c.Args().Slice()
	if len(arguments) == 0 {
		return errors.New("run what? backing run -- COMMAND [ARGUMENT…]")
	}
	services, err := backing.Start(ctx, backing.Options{Durable: c.Bool("durable"), Log: say})
	if err != nil {
		return err
	}
	status, err := runShared(ctx, services.Env(), arguments, c.Root().Reader)
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := errors.Join(err, services.Stop(stopCtx)); err != nil {
		return err
	}
	if status != 0 {
		return &exitError{status: status}
	}
	return nil
}

// runShared runs the command with a folder that all its processes share.
func runShared(ctx context.Context, env, arguments []string, stdin io.Reader) (status int, err error) {
	shared, err := backing.NewScratch()
	if err != nil {
		return 0, err
	}
	defer func() {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		err = errors.Join(err, shared.Remove(stopCtx))
	}()
	return runWith(ctx, append(env, backing.RunEnv+"="+shared.Dir), arguments, stdin)
}

func runWith(ctx context.Context, env, arguments []string, stdin io.Reader) (status int, err error) {
	signals := make(chan os.Signal, 4) // more than a person types before the first is passed on
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)

	// Not bound to ctx, which would kill the command where it is to be asked.
	command := exec.CommandContext(context.WithoutCancel(ctx), arguments[0], arguments[1:]...)
	command.Stdin, command.Stdout, command.Stderr = stdin, os.Stdout, os.Stderr
	command.Env = append(os.Environ(), env...)
	// A group of its own, so that a signal reaches it through us alone, and then all of it.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := command.Start(); err != nil {
		return 0, fmt.Errorf("start the command: %w", err)
	}
	ended := make(chan error, 1) // so that the waiting ends with the command in any case
	go func() { ended <- command.Wait() }()
	for {
		select {
		case sig := <-signals:
			if sig, ok := sig.(syscall.Signal); ok {
				// It may have ended just now, which the next turn finds out.
				_ = syscall.Kill(-command.Process.Pid, sig)
			}
		case err := <-ended:
			return exitStatus(err)
		}
	}
}

// exitStatus is that of a shell: 128 and the number of the signal for a command that one has ended.
func exitStatus(err error) (int, error) {
	if err == nil {
		return 0, nil
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return 0, fmt.Errorf("wait for the command: %w", err)
	}
	if state, ok := exit.Sys().(syscall.WaitStatus); ok && state.Signaled() {
		return 128 + int(state.Signal()), nil
	}
	return exit.ExitCode(), nil
}
