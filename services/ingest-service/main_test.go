package main

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/srireskianita/multi-tenant-messaging/libs/config"
	"github.com/srireskianita/multi-tenant-messaging/libs/lifecycle"
	"github.com/srireskianita/multi-tenant-messaging/libs/logging"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/step"
	"github.com/srireskianita/multi-tenant-messaging/testkit/mortal"
)

func TestMain(m *testing.M) {
	if mortal.IsService() {
		lifecycle.Main(mortalService)
		return
	}
	// One goroutine of the whole process, which fasthttp starts with its first server and never ends.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"))
}

// mortalService runs the service as the binary does, and has it killed where it is told to.
func mortalService(ctx context.Context, _ []string) error {
	cfg := defaultConfig()
	if err := config.Load(&cfg, "", false, os.Environ()); err != nil {
		return err
	}
	log, err := logging.New(cfg.Log, serviceName, os.Stdout)
	if err != nil {
		return err
	}
	return mortal.Steps(func(done func(string)) error {
		return serveWith(ctx, cfg, log, func(tenant uuid.UUID, generation int64, at step.Step) {
			done(stepLine(tenant, generation, at))
		})
	})
}

// stepLine is how a step is written down.
func stepLine(tenant uuid.UUID, generation int64, done step.Step) string {
	return fmt.Sprintf("%s %d %s", tenant, generation, done)
}
