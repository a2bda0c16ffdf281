package servers

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/urfave/cli/v3"
	"go.uber.org/goleak"
)

// TestMain makes the test binary a program that starts servers: see [Commands].
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && slices.ContainsFunc(Commands(), func(c *cli.Command) bool { return c.Name == os.Args[1] }) {
		if err := (&cli.Command{Commands: Commands()}).Run(context.Background(), os.Args); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}
