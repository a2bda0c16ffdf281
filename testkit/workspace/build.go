package workspace

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// Build runs "go build" with arguments in the root of the workspace. An error has what the compiler says.
func Build(ctx context.Context, arguments ...string) error {
	root, err := Root()
	if err != nil {
		return err
	}
	command := exec.CommandContext(ctx, "go", append([]string{"build"}, arguments...)...)
	command.Dir = root
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	if err := command.Run(); err != nil {
		return fmt.Errorf("go build: %w: %s", err, strings.TrimSpace(output.String()))
	}
	return nil
}
