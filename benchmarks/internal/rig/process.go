package rig

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/prometheus/procfs"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/process"
)

// Process is a process of the platform with all that it has started.
type Process string

// The processes whose use of the machine can be told.
const (
	Ingest   Process = "ingest-service"
	Tenant   Process = "tenant-service"
	Query    Process = "query-service"
	Broker   Process = "broker"
	Database Process = "database"
)

// ErrElsewhere says that a process is not one of this machine, so that its use of the machine cannot be told.
var ErrElsewhere = errors.New("the process does not run on this machine")

// tick is the unit of times in /proc/<pid>/stat: USER_HZ, which is 100 on every architecture that Go knows.
const tick = 10 * time.Millisecond

// CPU is the CPU time that a process and its descendants have used so far, those included that have ended.
func (r *Rig) CPU(ctx context.Context, p Process) (time.Duration, error) {
	root, err := r.PID(ctx, p)
	if err != nil {
		return 0, err
	}
	var ticks int64
	for _, pid := range process.Tree(root) {
		proc, err := procfs.NewProc(pid)
		if err != nil {
			continue // it has ended meanwhile
		}
		if stat, err := proc.Stat(); err == nil {
			ticks += int64(stat.UTime) + int64(stat.STime) + int64(stat.CUTime) + int64(stat.CSTime)
		}
	}
	return time.Duration(ticks) * tick, nil
}

// OwnCPU is the CPU time of the benchmark itself: of alternatives that run in it.
func OwnCPU() (time.Duration, error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0, fmt.Errorf("read our CPU time: %w", err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), nil
}

// Memory is the resident memory of a service in bytes, shared libraries and files included.
func (r *Rig) Memory(ctx context.Context, p Process) (int64, error) {
	pid, err := r.PID(ctx, p)
	if err != nil {
		return 0, err
	}
	proc, err := procfs.NewProc(pid)
	if err != nil {
		return 0, fmt.Errorf("read the memory of %s: %w", p, err)
	}
	status, err := proc.NewStatus()
	if err != nil {
		return 0, fmt.Errorf("read the memory of %s: %w", p, err)
	}
	if status.VmRSS == 0 {
		return 0, fmt.Errorf("read the memory of %s: it has ended", p)
	}
	return int64(status.VmRSS), nil
}

// PID is the first process of p; for a server in Docker, that in the container, as the host sees it.
func (r *Rig) PID(ctx context.Context, p Process) (int, error) {
	switch p {
	case Ingest:
		return r.Stack.Ingest.PID(), nil
	case Tenant:
		return r.Stack.Tenant.PID(), nil
	case Query:
		return r.Stack.Query.PID(), nil
	case Broker:
		return r.serverPID(ctx, backing.ServiceRabbitMQ)
	case Database:
		return r.serverPID(ctx, backing.ServicePostgres)
	default:
		return 0, fmt.Errorf("%s is not a process of the platform", p)
	}
}

// serverPID is the first process of a server; in Docker, as this machine knows it.
func (r *Rig) serverPID(ctx context.Context, name backing.Name) (int, error) {
	server := r.Backing.Process(name)
	if server == nil || server.Source() == backing.SourceEnv {
		return 0, fmt.Errorf("%s: %w", name, ErrElsewhere)
	}
	pid, err := server.PID(ctx)
	if err != nil {
		return 0, fmt.Errorf("look at %s: %w", name, err)
	}
	if pid == 0 { // an engine in a virtual machine has pids of its own
		return 0, fmt.Errorf("%s: %w", name, ErrElsewhere)
	}
	return pid, nil
}
