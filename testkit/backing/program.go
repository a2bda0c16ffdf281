package backing

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/testkit/internal/agent"
	"github.com/srireskianita/multi-tenant-messaging/testkit/workspace"
)

// RunEnv is set by "backing run": the addresses in the environment are those of servers that were started, as BACKING
// asks, for this run of tests. It names a folder that all processes of the run share, and that goes with the run. The agent
// of the run listens there.
const RunEnv = "MTM_BACKING_RUN"

// programBuildTimeout is for a build from nothing on two cores.
const programBuildTimeout = 10 * time.Minute

// program is the program that starts servers for this process. It is global because it belongs to the process, not to any of
// its tests, and ends with it: its standard input ends then.
var program agentProgram //nolint:gochecknoglobals // see above

type agentProgram struct {
	once sync.Once
	path string // of the socket
	err  error
	// stdin is the writing end of its standard input. Were it collected, the program would end.
	stdin *os.File
}

// socket is where the agent of this run listens, or that of this process, started if this is the first time.
func (p *agentProgram) socket(ctx context.Context) (string, error) {
	if run := os.Getenv(RunEnv); run != "" {
		return filepath.Join(run, agent.SocketFile), nil
	}
	p.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), programBuildTimeout)
		defer cancel()
		var file string
		if file, p.err = buildProgram(ctx); p.err == nil {
			p.err = p.start(file)
		}
	})
	return p.path, p.err
}

// buildProgram builds the program unless it is up to date, which the go command decides.
func buildProgram(ctx context.Context) (file string, err error) {
	root, err := workspace.Root()
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a folder for the program that starts servers: %w", err)
	}
	// Of its own for each clone, which may have another version.
	dir := filepath.Join(cache, "mtm-backing", strings.ReplaceAll(strings.Trim(root, "/"), "/", "-"))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make a folder for the program that starts servers: %w", err)
	}
	unlock, err := workspace.Lock(ctx, filepath.Join(dir, "build.lock"), func() {})
	if err != nil {
		return "", err
	}
	defer unlock()
	file = filepath.Join(dir, "backing")
	if err := workspace.Build(ctx, "-o", file, "./testkit/servers/cmd/backing"); err != nil {
		return "", fmt.Errorf("build the program that starts servers: %w", err)
	}
	return file, nil
}

// Serving is what "backing serve" prints when it listens, or cannot.
type Serving struct {
	Socket string `json:"socket,omitempty"`
	Error  string `json:"error,omitempty"`
}

func (p *agentProgram) start(file string) error {
	input, stdin, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	defer func() { _ = input.Close() }() // the program has its own copy
	output, stdout, err := os.Pipe()
	if err != nil {
		return errors.Join(fmt.Errorf("make a pipe: %w", err), stdin.Close())
	}
	defer func() { _ = output.Close() }() // the program prints one line
	//nolint:noctx // it ends with its standard input
	command := exec.Command(file, "serve")
	command.Stdin, command.Stdout = input, stdout
	// A session of its own: a Ctrl-C in the terminal ends the tests, and with them the program, which then cleans up.
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = command.Start()
	if err = errors.Join(err, stdout.Close()); err != nil {
		return errors.Join(fmt.Errorf("start the program that starts servers: %w", err), stdin.Close())
	}
	var serving Serving
	line, err := bufio.NewReader(output).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &serving)
	}
	if err == nil && serving.Error != "" {
		err = errors.New(serving.Error)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("start the program that starts servers: %w", err), stdin.Close())
	}
	p.path, p.stdin = serving.Socket, stdin
	return nil
}
