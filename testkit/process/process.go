package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ErrNotRunning says that no living process of that name is recorded in the folder.
var ErrNotRunning = errors.New("not running")

// ErrRunning says that a process of that name is running already.
var ErrRunning = errors.New("already running")

const (
	defaultStopTimeout = 15 * time.Second
	// pollInterval is how often a process is looked at while waiting for its end.
	pollInterval = 10 * time.Millisecond
	// killTimeout is how long the kernel may take to end a process after SIGKILL: only uninterruptible I/O holds it up.
	killTimeout = 10 * time.Second
)

// Spec says how to start a process.
type Spec struct {
	// Name names the files of the process; letters, digits and hyphens.
	Name string
	// Path is the program; Args come without the program's own name, which is Title, or Path if that is empty.
	Path  string
	Title string
	Args  []string
	// Env is the whole environment: nothing is inherited.
	Env []string
	// WorkDir is where it runs; empty means the folder of the processes.
	WorkDir string
	// User runs it as somebody else, which only root can ask for. Nil means as ourselves.
	User *User
	// StopSignal asks it to end; SIGTERM if zero. After StopTimeout (15 s if zero) it is killed.
	StopSignal  syscall.Signal
	StopTimeout time.Duration
	// Stdin is what it reads; nothing if nil.
	Stdin *os.File
}

// User is whom a process runs as, with no further groups.
type User struct{ UID, GID uint32 }

// identity is the content of the .json file.
type identity struct {
	PID         int            `json:"pid"`
	Start       string         `json:"start"`
	Program     string         `json:"program"`
	StopSignal  syscall.Signal `json:"stop_signal"`
	StopTimeout time.Duration  `json:"stop_timeout_ns"`
}

// Process is a process that is recorded in a folder.
type Process struct {
	dir, name string
	id        identity

	mu     sync.Mutex
	gone   bool
	status *syscall.WaitStatus // known only to the process that started it
}

// Start starts a process and records it. It returns at once: whether the process is of any use is for the caller to
// find out. The log file is appended to.
func Start(dir string, spec Spec) (*Process, error) {
	if running, err := Find(dir, spec.Name); err == nil {
		return running, fmt.Errorf("%s (pid %d): %w", spec.Name, running.PID(), ErrRunning)
	} else if !errors.Is(err, ErrNotRunning) {
		return nil, err
	}
	for _, folder := range []string{runDir(dir), filepath.Dir(LogFile(dir, spec.Name))} {
		if err := os.MkdirAll(folder, 0o750); err != nil {
			return nil, fmt.Errorf("make the folder of %s: %w", spec.Name, err)
		}
	}
	log, err := os.OpenFile(LogFile(dir, spec.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", spec.Name, err)
	}
	defer closeFile(log)
	stdin := spec.Stdin
	if stdin == nil {
		if stdin, err = os.Open(os.DevNull); err != nil {
			return nil, fmt.Errorf("open %s: %w", os.DevNull, err)
		}
		defer closeFile(stdin)
	}
	pid, err := launch(dir, spec, []*os.File{stdin, log, log})
	if err != nil {
		return nil, err
	}
	p := &Process{dir: dir, name: spec.Name, id: identity{
		PID: pid, Program: spec.Path, StopSignal: spec.StopSignal, StopTimeout: spec.StopTimeout,
	}}
	if err := p.record(); err != nil {
		// Nobody could stop it later.
		return nil, errors.Join(err, syscall.Kill(pid, syscall.SIGKILL))
	}
	return p, nil
}

func launch(dir string, spec Spec, files []*os.File) (int, error) {
	attr := &os.ProcAttr{
		Dir: spec.WorkDir, Env: spec.Env, Files: files,
		// A session of its own: a Ctrl-C in the terminal is not for it.
		Sys: &syscall.SysProcAttr{Setsid: true},
	}
	if attr.Dir == "" {
		attr.Dir = dir
	}
	if spec.User != nil {
		attr.Sys.Credential = &syscall.Credential{Uid: spec.User.UID, Gid: spec.User.GID}
	}
	title := spec.Title
	if title == "" {
		title = spec.Path
	}
	started, err := os.StartProcess(spec.Path, append([]string{title}, spec.Args...), attr)
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	pid := started.Pid
	if err := started.Release(); err != nil {
		return 0, fmt.Errorf("release %s: %w", spec.Name, err)
	}
	return pid, nil
}

func (p *Process) record() error {
	state, err := look(p.id.PID)
	if err != nil {
		return fmt.Errorf("identify %s: %w", p.name, err)
	}
	p.id.Start = state.start
	body, err := json.Marshal(p.id)
	if err != nil {
		return fmt.Errorf("record %s: %w", p.name, err)
	}
	if err := replaceFile(identityFile(p.dir, p.name), append(body, '\n')); err != nil {
		return fmt.Errorf("record %s: %w", p.name, err)
	}
	if err := replaceFile(PIDFile(p.dir, p.name), []byte(strconv.Itoa(p.id.PID)+"\n")); err != nil {
		return fmt.Errorf("record %s: %w", p.name, err)
	}
	return nil
}

// Find is the living process of that name in dir, or [ErrNotRunning].
func Find(dir, name string) (*Process, error) {
	body, err := os.ReadFile(identityFile(dir, name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", name, ErrNotRunning)
	}
	if err != nil {
		return nil, fmt.Errorf("read the record of %s: %w", name, err)
	}
	p := &Process{dir: dir, name: name}
	if err := json.Unmarshal(body, &p.id); err != nil || p.id.PID <= 1 {
		// A record that was cut short names nobody, so there is nobody to leave alone or to stop.
		return nil, fmt.Errorf("%s: %w", name, ErrNotRunning)
	}
	if !p.Alive() {
		return nil, fmt.Errorf("%s: %w", name, ErrNotRunning)
	}
	return p, nil
}

// All are the living processes in dir, in the order of their names.
func All(dir string) ([]*Process, error) {
	files, err := filepath.Glob(filepath.Join(runDir(dir), "*.json"))
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	sort.Strings(files)
	var all []*Process
	for _, file := range files {
		p, err := Find(dir, strings.TrimSuffix(filepath.Base(file), ".json"))
		if errors.Is(err, ErrNotRunning) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// Name is the name it was started under.
func (p *Process) Name() string { return p.name }

// PID is its process id.
func (p *Process) PID() int { return p.id.PID }

// Alive reports whether it is still running. A zombie is not.
func (p *Process) Alive() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return false
	}
	state, err := look(p.id.PID)
	if err == nil && state.start == p.id.Start {
		var status syscall.WaitStatus
		reaped, err := syscall.Wait4(p.id.PID, &status, syscall.WNOHANG, nil)
		if err == nil { // a child of ours; it is gone when its last thread is, and then there is a status to take
			if p.gone = reaped == p.id.PID; p.gone {
				p.status = &status
			}
			return !p.gone
		}
	}
	p.gone = err != nil || state.dead || state.start != p.id.Start
	return !p.gone
}

// Status is how it ended. It is known only where this very process started it and has seen it end through [Process.Alive],
// [Process.Wait] or [Process.Stop].
func (p *Process) Status() (status syscall.WaitStatus, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.status == nil {
		return 0, false
	}
	return *p.status, true
}

// Signal sends sig to the process alone. [ErrNotRunning] if it has ended.
func (p *Process) Signal(sig syscall.Signal) error {
	// Where the kernel has process descriptors, this holds on to the process before it is identified: the pid cannot be
	// recycled in between.
	handle, err := os.FindProcess(p.id.PID)
	if err != nil {
		return fmt.Errorf("find %s: %w", p.name, err)
	}
	defer func() { _ = handle.Release() }() // only lets go of the handle
	if !p.Alive() {
		return fmt.Errorf("signal %s: %w", p.name, ErrNotRunning)
	}
	err = handle.Signal(sig)
	if errors.Is(err, os.ErrProcessDone) || errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal %s: %w", p.name, ErrNotRunning)
	}
	if err != nil {
		return fmt.Errorf("signal %s: %w", p.name, err)
	}
	return nil
}

// SignalTree sends sig to the process and to all its descendants. A server that works in children of its own, such as
// PostgreSQL, is paused as a whole only in this way.
func (p *Process) SignalTree(sig syscall.Signal) error {
	if !p.Alive() {
		return fmt.Errorf("signal %s: %w", p.name, ErrNotRunning)
	}
	children := Tree(p.id.PID)[1:] // before the signal: the orphans of a killed parent are nobody's descendants
	if err := p.Signal(sig); err != nil {
		return err
	}
	for _, child := range children {
		if err := syscall.Kill(child, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("signal child %d of %s: %w", child, p.name, err)
		}
	}
	return nil
}

// Wait returns once the process has ended, or with the error of ctx.
func (p *Process) Wait(ctx context.Context) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for p.Alive() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of %s: %w", p.name, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// Kill ends the process and its descendants with SIGKILL and waits until it is gone. A process that has ended already is
// fine.
func (p *Process) Kill(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	children := Tree(p.id.PID)[1:]
	if err := p.SignalTree(syscall.SIGKILL); err != nil && !errors.Is(err, ErrNotRunning) {
		return err
	}
	if err := p.Wait(ctx); err != nil {
		return err
	}
	// A child that is still on its way out holds on to what the next process of that name needs: PostgreSQL refuses to
	// start beside the shared memory of the one before.
	for _, child := range children {
		if err := waitGone(ctx, child); err != nil {
			return fmt.Errorf("wait for child %d of %s: %w", child, p.name, err)
		}
	}
	return p.forget()
}

func waitGone(ctx context.Context, pid int) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if Ended(pid) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// Stop asks the process to end, waits for it, kills it when its time or ctx is over, and removes its record. A process
// that has ended already is fine.
func (p *Process) Stop(ctx context.Context) error {
	signal, timeout := p.id.StopSignal, p.id.StopTimeout
	if signal == 0 {
		signal = syscall.SIGTERM
	}
	if timeout == 0 {
		timeout = defaultStopTimeout
	}
	grace, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := p.Signal(signal)
	if err == nil {
		// One that was paused takes no notice of anything else before this.
		err = p.SignalTree(syscall.SIGCONT)
	}
	if err != nil && !errors.Is(err, ErrNotRunning) {
		return err
	}
	if p.Wait(grace) == nil {
		return p.forget()
	}
	return p.Kill(context.WithoutCancel(ctx)) // it has a limit; leaving it behind would help nobody
}

func (p *Process) forget() error {
	for _, file := range []string{PIDFile(p.dir, p.name), identityFile(p.dir, p.name)} {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("forget %s: %w", p.name, err)
		}
	}
	return nil
}

// LogFile is where a process of that name writes to.
func LogFile(dir, name string) string { return filepath.Join(dir, "log", name+".log") }

// PIDFile holds the pid of a process of that name.
func PIDFile(dir, name string) string { return filepath.Join(runDir(dir), name+".pid") }

func identityFile(dir, name string) string { return filepath.Join(runDir(dir), name+".json") }

func runDir(dir string) string { return filepath.Join(dir, "run") }

// replaceFile writes a file so that a reader sees either the old content or the new one.
func replaceFile(path string, body []byte) error {
	temporary := path + ".new"
	if err := os.WriteFile(temporary, body, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// closeFile closes a file of which nothing is awaited any more: the child has its own copy.
func closeFile(file *os.File) { _ = file.Close() }
