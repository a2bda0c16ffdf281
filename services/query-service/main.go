// Command query-service answers what a tenant has stored: pages of messages in the order in which they were stored,
// with a cursor, and single messages by their id. It only reads, as a database role that can do nothing else.
//
// It starts whether or not PostgreSQL is up, and is ready once it is. While the database is away it answers 503 and
// resumes without intervention when the database is back.
package main

import (
	"context"
	"os"

	"github.com/srireskianita/multi-tenant-messaging/libs/command"
	"github.com/srireskianita/multi-tenant-messaging/libs/lifecycle"
	"github.com/srireskianita/multi-tenant-messaging/libs/logging"
)

const service = "query-service"

// @title query-service
// @version 1.0
// @description Reads stored messages, page by page or one by one. Errors are RFC 9457 problem documents.
// @license.name MIT
// @license.url https://opensource.org/license/mit
// @BasePath /
// @tag.name messages
// @tag.description what a tenant has stored
// @accept json
// @produce json
// @securityDefinitions.apikey Bearer
// @in header
// @name Authorization
// @description "Bearer " and a token with the scope messages:read
func main() {
	lifecycle.Main(func(ctx context.Context, args []string) error {
		return binary().Command(os.Environ(), os.Stdout).Run(ctx, args)
	})
}

func binary() command.Service[settings] {
	return command.Service[settings]{
		Name:     service,
		Usage:    "read stored messages over HTTP",
		Defaults: defaults,
		Log:      func(cfg settings) logging.Config { return cfg.Log },
		OpsAddr:  func(cfg settings) string { return cfg.Ops.Addr },
		Serve:    serve,
	}
}
