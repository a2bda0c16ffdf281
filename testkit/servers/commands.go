package servers

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v3"
)

const (
	natsCommand     = "nats"
	guardCommand    = "guard"
	natsPasswordEnv = "NATS_PASSWORD"
)

// Commands are those that a program which starts servers must have: it is started again with them, as a NATS server and as
// the guard of a scratch folder.
func Commands() []*cli.Command {
	return []*cli.Command{
		{
			Name:  natsCommand,
			Usage: "run a NATS server with JetStream until it is told to end",
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "dir", Usage: "folder of its data", Required: true},
				&cli.IntFlag{Name: "port", Usage: "port on 127.0.0.1", Value: 4222},
				&cli.StringFlag{Name: "password", Usage: "of the login operator; none if empty", Sources: cli.EnvVars(natsPasswordEnv)},
			},
			Action: func(ctx context.Context, c *cli.Command) error {
				ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
				defer stop()
				return ServeNATS(ctx, NATSConfig{Dir: c.String("dir"), Port: c.Int("port"), Password: c.String("password"), Log: true})
			},
		},
		{
			Name: guardCommand, Usage: "remove a scratch folder when standard input ends", Hidden: true, ArgsUsage: "DIR",
			Action: func(ctx context.Context, c *cli.Command) error {
				if c.Args().Len() != 1 {
					return errors.New("guard what?")
				}
				return watch(ctx, c.Args().First())
			},
		},
	}
}
