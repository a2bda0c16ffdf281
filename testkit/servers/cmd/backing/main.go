// Command backing starts and stops PostgreSQL, RabbitMQ and NATS.
//
//	backing run -- go test work     servers for the time of one command, which gets their addresses in its environment
//	backing up --dir .local         servers that stay, and keep their data in that folder
//	backing status|down|reset --dir .local
//	backing nats --dir data         a NATS server with JetStream in the foreground
//	backing serve                   servers for the process that has started it, as package backing does in tests
//
// Where the servers come from is said by package backing and can be forced with BACKING=external, docker or native.
package main

import (
	"context"
	"encoding/json"
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
	"github.com/srireskianita/multi-tenant-messaging/testkit/servers"
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
		Commands: append([]*cli.Command{
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
				Action: func(ctx context.Context, c *cli.Command) error { return servers.Stop(ctx, c.String("dir")) },
			},
			{
				Name: "reset", Usage: "stop the servers and remove their data", Flags: []cli.Flag{dir},
				Action: func(ctx context.Context, c *cli.Command) error { return servers.Reset(ctx, c.String("dir")) },
			},
			{
				Name: "serve", Usage: "start servers for another process until standard input ends", Hidden: true,
				Action: serve,
			},
		}, servers.Commands()...),
	}
}

func say(line string) { fmt.Fprintln(os.Stderr, "backing:", line) }

func up(ctx context.Context, c *cli.Command) error {
	services, err := servers.Start(ctx, servers.Options{Dir: c.String("dir"), Durable: true, Log: say})
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
	all, err := servers.Inspect(ctx, c.String("dir"))
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

// run starts scratch servers and an agent, runs the command, and stops them. SIGINT and SIGTERM are passed on to the command
// and to what it has started; how it ends is how we end.
func run(ctx context.Context, c *cli.Command) error {
	arguments := c.Args().Slice()
	if len(arguments) == 0 {
		return errors.New("run what? backing run -- COMMAND [ARGUMENT…]")
	}
	var status int
	err := withAgent(ctx, func(agent *servers.Agent) (err error) {
		services, err := servers.Start(ctx, servers.Options{Scratch: agent.Scratch(), Durable: c.Bool("durable"), Log: say})
		if err != nil {
			return err
		}
		env := append(services.Env(), backing.RunEnv+"="+agent.Scratch().Dir)
		status, err = runWith(ctx, env, arguments, c.Root().Reader)
		return err
	})
	if err == nil && status != 0 {
		return &exitError{status: status}
	}
	return err
}

// serve starts servers for the process that holds the other end of standard input, which learns from standard output where to
// ask for them.
func serve(ctx context.Context, c *cli.Command) error {
	announce := json.NewEncoder(c.Root().Writer)
	announced := false
	err := withAgent(ctx, func(agent *servers.Agent) error {
		announced = true
		if err := announce.Encode(backing.Serving{Socket: agent.Socket()}); err != nil {
			return err
		}
		ended := make(chan error, 1) // the reading ends with standard input or with us
		go func() {
			_, err := io.Copy(io.Discard, c.Root().Reader)
			ended <- err
		}()
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			return err
		}
	})
	if err != nil && !announced {
		err = errors.Join(err, announce.Encode(backing.Serving{Error: err.Error()}))
	}
	return err
}

// withAgent runs an agent while do does, and removes everything that was started through it or in its folder.
func withAgent(ctx context.Context, do func(*servers.Agent) error) error {
	agent, err := servers.NewAgent(ctx)
	if err != nil {
		return err
	}
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- agent.Serve(serving) }()
	err = do(agent)
	cancel()
	err = errors.Join(err, <-served)
	stopCtx, stop := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer stop()
	return errors.Join(err, agent.Close(stopCtx))
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
