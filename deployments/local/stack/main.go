// Command stack runs the platform on this machine and shows what it does. It is what the targets of the Makefile call;
// run it in the root of the repository.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/uuid"
	"github.com/urfave/cli/v3"

	"github.com/srireskianita/multi-tenant-messaging/deployments/local/internal/demo"
	"github.com/srireskianita/multi-tenant-messaging/deployments/local/internal/stack"
	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/build"
	"github.com/srireskianita/multi-tenant-messaging/libs/lifecycle"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
	"github.com/srireskianita/multi-tenant-messaging/testkit/servers"
)

func main() {
	lifecycle.Main(run)
}

func run(ctx context.Context, args []string) error {
	command := &cli.Command{
		Name: "stack", Usage: "the whole platform on this machine", Version: build.Read().String(), Commands: servers.Commands(),
	}
	if len(args) < 2 || command.Command(args[1]) == nil { // else it is a server of the stack, and runs in a folder of its own
		local, err := stack.New(".", os.Environ(), os.Stdout)
		if err != nil {
			return err
		}
		command.Commands = append(commands(local), command.Commands...)
	}
	return command.Run(ctx, args)
}

func commands(local *stack.Stack) []*cli.Command {
	return []*cli.Command{
		{Name: "up", Usage: "start what does not run, and wait until all is ready", Action: plain(local.Up)},
		{Name: "down", Usage: "stop everything and keep the data", Action: plain(local.Down)},
		{Name: "reset", Usage: "stop everything and remove the data", Action: plain(local.Reset)},
		{Name: "status", Usage: "what runs, and where", Action: plain(local.Status)},
		logsCommand(local),
		tokenCommand(local),
		demoCommand(local),
	}
}

func plain(do func(context.Context) error) cli.ActionFunc {
	return func(ctx context.Context, command *cli.Command) error {
		if command.Args().Present() {
			return fmt.Errorf("%s takes no arguments: %q", command.Name, command.Args().Slice())
		}
		return do(ctx)
	}
}

func logsCommand(local *stack.Stack) *cli.Command {
	return &cli.Command{
		Name: "logs", Usage: "the newest log lines of everything, or of one process", ArgsUsage: "[name]",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "follow", Usage: "continue until interrupted"}},
		Action: func(ctx context.Context, command *cli.Command) error {
			return local.Logs(ctx, command.Args().First(), command.Bool("follow"))
		},
	}
}

func tokenCommand(local *stack.Stack) *cli.Command {
	return &cli.Command{
		Name: "token", Usage: "print a token for this stack, and nothing else",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "tenant", Usage: "id of the tenant that the token is bound to"},
			&cli.StringFlag{Name: "scope", Usage: "scopes, separated by spaces"},
			&cli.DurationFlag{Name: "lifetime", Usage: "how long it is valid", Value: stack.TokenLifetime},
		},
		Action: func(_ context.Context, command *cli.Command) error {
			var tenant uuid.UUID
			if command.IsSet("tenant") { // an empty one, or the nil UUID, must not become a token for all of them
				var err error
				if tenant, err = rest.UUID("tenant", command.String("tenant")); err != nil {
					return fmt.Errorf("the tenant %q is not the id of one: %w", command.String("tenant"), err)
				}
			}
			var scopes []auth.Scope
			for scope := range strings.FieldsSeq(command.String("scope")) {
				scopes = append(scopes, auth.Scope(scope))
			}
			if len(scopes) == 0 {
				return errors.New(`which scopes? For example SCOPE="messages:read messages:write", or SCOPE=tenants:admin`)
			}
			token, err := local.Token(tenant, scopes, command.Duration("lifetime"))
			if err != nil {
				return err
			}
			_, err = fmt.Println(token)
			return err
		},
	}
}

func demoCommand(local *stack.Stack) *cli.Command {
	return &cli.Command{
		Name: "demo", Usage: "use a running stack as its clients do, and check that what comes out is what went in",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "file", Usage: "JSON documents, one a line", Value: "deployments/local/events.ndjson"},
			&cli.IntFlag{Name: "messages", Usage: "messages a tenant; the file is repeated as often as needed (0: as many as it holds)", Value: 2000},
		},
		Action: func(ctx context.Context, command *cli.Command) error {
			env, err := local.Env()
			if err != nil {
				return err
			}
			return demo.Run(ctx, demo.Config{
				TenantURL: env["TENANT_URL"], IngestURL: env["INGEST_URL"], QueryURL: env["QUERY_URL"],
				RabbitMQURL: env["RABBITMQ_URL"], AdminToken: env["ADMIN_TOKEN"],
				TenantToken: func(tenant uuid.UUID) (string, error) {
					scopes := []auth.Scope{auth.ScopeMessagesRead, auth.ScopeMessagesWrite}
					return local.Token(tenant, scopes, stack.TokenLifetime)
				},
				File: command.String("file"), Messages: command.Int("messages"), Out: os.Stdout,
			})
		},
	}
}
