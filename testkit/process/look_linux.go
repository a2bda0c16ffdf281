package process

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"
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
