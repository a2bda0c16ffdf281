package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/srireskianita/multi-tenant-messaging/libs/config"
	"github.com/srireskianita/multi-tenant-messaging/libs/lifecycle"
	"github.com/srireskianita/multi-tenant-messaging/libs/logging"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/step"
)

// The environment of a test binary that is to be the service itself, in a process of its own.
const (
	// stepsEnv names the file into which the service writes every step that is done.
	stepsEnv = "MTM_TEST_STEPS"
	// deathEnv names the file that says at which step it dies; it dies at none while there is no such file.
	deathEnv = "MTM_TEST_DEATH"
)

func TestMain(m *testing.M) {
	if os.Getenv(stepsEnv) != "" {
		lifecycle.Main(mortal)
		return
	}
	// One goroutine of the whole process, which fasthttp starts with its first server and never ends.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"))
}

// mortal runs the service as the binary does, and has it killed where it is told to.
func mortal(ctx context.Context, _ []string) error {
	cfg := defaultConfig()
	if err := config.Load(&cfg, "", false, os.Environ()); err != nil {
		return err
	}
	log, err := logging.New(cfg.Log, serviceName, os.Stdout)
	if err != nil {
		return err
	}
	steps, err := os.OpenFile(os.Getenv(stepsEnv), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer steps.Close() //nolint:errcheck // every line was written by itself
	return serveWith(ctx, cfg, log, func(tenant uuid.UUID, generation int64, done step.Step) {
		line := stepLine(tenant, generation, done)
		if _, err := fmt.Fprintln(steps, line); err != nil {
			panic(err)
		}
		if death, err := os.ReadFile(os.Getenv(deathEnv)); err == nil && strings.TrimSpace(string(death)) == line {
			if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
				panic(err)
			}
			select {} // not a single instruction more of this goroutine
		}
	})
}

// stepLine is how a step is written down.
func stepLine(tenant uuid.UUID, generation int64, done step.Step) string {
	return fmt.Sprintf("%s %d %s", tenant, generation, done)
}
