// Command query-service answers what a tenant has stored: pages of messages in the order in which they were stored,
// with a cursor, and single messages by their id. It only reads, as a database role that can do nothing else.
//
// It starts whether or not PostgreSQL is up, and is ready once it is. While the database is away it answers 503 and
// resumes without intervention when the database is back.
package main

import (
	"context"
	"os"

	"github.com/srireskianita/multi-tenant-messaging/libs/lifecycle"
	"github.com/srireskianita/multi-tenant-messaging/libs/service"
)

// The head of the OpenAPI document, which `make generate` takes from here:
//
//	@title			query-service
//	@version		1.0
//	@description	Reads stored messages, page by page or one by one. Errors are RFC 9457 problem documents.
//	@license.name	MIT
//	@license.url	https://opensource.org/license/mit
//	@BasePath		/
//	@tag.name		messages
//	@tag.description	what a tenant has stored
//	@accept			json
//	@produce		json
//
//	@securityDefinitions.apikey	Bearer
//	@in							header
//	@name						Authorization
//	@description				"Bearer " and a token with the scope messages:read

// serviceName is the name in logs, metrics and on the servers that this service connects to.
const serviceName = "query-service"

// Config is the configuration of this binary.
type Config struct {
	service.Config
}

func defaultConfig() Config {
	return Config{Config: service.DefaultConfig(":8083", "127.0.0.1:9083")}
}

func main() {
	lifecycle.Main(func(ctx context.Context, args []string) error {
		return command().Line(os.Environ(), os.Stdout).Run(ctx, args)
	})
}

func command() service.Command[Config] {
	return service.Command[Config]{Name: serviceName, Usage: "read stored messages over HTTP", Defaults: defaultConfig, Serve: serve}
}
