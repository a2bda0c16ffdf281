// Command query-service answers what a tenant has stored: pages of messages in the order in which they were stored,
// with a cursor, and single messages by their id. It only reads, as a database role that can do nothing else.
//
// It starts whether or not PostgreSQL is up, and is ready once it is. While the database is away it answers 503 and
// resumes without intervention when the database is back. From the control channel, if it is told where that is, it learns
// what tenants may read a second; it is ready without it, too.
package main

import (
	"context"
	"os"

	"github.com/srireskianita/multi-tenant-messaging/libs/lifecycle"
	"github.com/srireskianita/multi-tenant-messaging/libs/readrate"
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
	NATS  readrate.Config `koanf:"nats"`
	Query QueryConfig     `koanf:"query"`
}

// QueryConfig is the section "query".
type QueryConfig struct {
	Instance          string `koanf:"instance" validate:"required,max=64,excludesall=.*> /" usage:"name of this instance among those that share the limits of reading; each needs its own (default: the host name and a random part)"`
	MaxReadsPerTenant int    `koanf:"max_reads_per_tenant" validate:"min=0,max=1000" usage:"reads of one tenant that are under way at a time on this instance; others wait a second at most and are then refused (0: half of database.max_conns)"`
}

// maxReads is the number of reads of one tenant at a time.
func (c Config) maxReads() int {
	if c.Query.MaxReadsPerTenant > 0 {
		return c.Query.MaxReadsPerTenant
	}
	return max(int(c.Database.MaxConns)/2, 1)
}

func defaultConfig() Config {
	return Config{
		Config: service.DefaultConfig(":8083", "127.0.0.1:9083"),
		NATS:   readrate.DefaultConfig(),
		Query:  QueryConfig{Instance: service.InstanceName("query")},
	}
}

func main() {
	lifecycle.Main(func(ctx context.Context, args []string) error {
		return command().Line(os.Environ(), os.Stdout).Run(ctx, args)
	})
}

func command() service.Command[Config] {
	return service.Command[Config]{Name: serviceName, Usage: "read stored messages over HTTP", Defaults: defaultConfig, Serve: serve}
}
