package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// Ended reports whether no process has that pid, or only one that has ended and has not been waited for.
func Ended(pid int) bool {
	s, err := look(pid)
	return err != nil || s.dead
}

// state is what the kernel knows of a pid.
type state struct {
	start string // tells apart processes that had the same pid
	dead  bool   // ended, but not waited for
}

func look(pid int) (state, error) {
	stat, err := statOf(pid)
	if err != nil {
		return state{}, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return state{}, fmt.Errorf("read the boot id: %w", err)
	}
	return state{
		// The start time is in clock ticks since boot, which is unique together with the boot id.
		start: strings.TrimSpace(string(boot)) + "/" + strconv.FormatUint(stat.Starttime, 10),
		// The first thread may be a zombie while others are still on their way out, and with them open files and ports.
		dead: stat.State == "X" || stat.State == "Z" && stat.NumThreads == 1,
	}, nil
}

func statOf(pid int) (procfs.ProcStat, error) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return procfs.ProcStat{}, err
	}
	return p.Stat()
}

// Tree is pid, its children, their children and so on, as far as they can be seen.
func Tree(pid int) []int {
	all, _ := procfs.AllProcs() // what cannot be seen is not there
	children := map[int][]int{}
	for _, p := range all {
		if stat, err := p.Stat(); err == nil { // else it has ended meanwhile
			children[stat.PPID] = append(children[stat.PPID], p.PID)
		}
	}
	found := []int{pid}
	for i := 0; i < len(found); i++ {
		found = append(found, children[found[i]]...)
	}
	return found
}

// In reports whether a living process has dir as its working folder, as far as we may know.
func In(dir string) bool {
	all, _ := procfs.AllProcs() // what cannot be seen is not there
	return slices.ContainsFunc(all, func(p procfs.Proc) bool {
		cwd, err := p.Cwd()
		return err == nil && cwd == dir && !Ended(p.PID)
	})
}

// onOneCPU calls start on a thread that is bound to one CPU, which a process started there inherits. It is worth its
// while only for a boot that suffers from moving about, so whatever goes wrong here means no more than a slower boot.
func onOneCPU(start func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return start()
	}
	for cpu := range len(all) * 64 {
		if all.IsSet(cpu) {
			one.Zero()
			one.Set(cpu) // the last one counts: interrupts prefer the first
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return start()
	}
	err := start()
	if restore := unix.SchedSetaffinity(0, &all); restore != nil {
		return errors.Join(err, fmt.Errorf("unbind the thread: %w", restore))
	}
	return err
}

// mayWiden reports whether we may change the CPUs of a process that runs as user (see sched_setaffinity(2)). Root in a
// container often may not.
func mayWiden(user *User) bool {
	if user == nil || user.UID == uint32(os.Geteuid()) {
		return true
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // version 3 has room for 64 capabilities
	return unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_SYS_NICE) != 0
}

// Widen lets a process that was started with OneCPU use all CPUs that we may use. For others it does nothing.
func (p *Process) Widen() error {
	if !p.id.Pinned {
		return nil
	}
	if !p.Alive() {
		return fmt.Errorf("widen %s: %w", p.name, ErrNotRunning)
	}
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return fmt.Errorf("read our CPUs: %w", err)
	}
	threads, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(p.id.PID), "task"))
	if err != nil {
		return fmt.Errorf("list the threads of %s: %w", p.name, err)
	}
	for _, entry := range threads {
		thread, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if err := unix.SchedSetaffinity(thread, &all); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("widen %s: %w", p.name, err)
		}
	}
	return nil
}
