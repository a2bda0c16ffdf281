package report

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strings"
)

// Machine are the facts about the machine that the benchmark runs on. What the system does not tell is missing.
func Machine() []Fact {
	facts := []Fact{{"CPU", fmt.Sprintf("%s, %d usable", cpuModel(), runtime.NumCPU())}}
	if memory := valueOf("/proc/meminfo", "MemTotal"); memory != "" {
		var kibibytes float64
		if _, err := fmt.Sscanf(memory, "%f kB", &kibibytes); err == nil {
			memory = fmt.Sprintf("%.1f GiB", kibibytes/(1<<20))
		}
		facts = append(facts, Fact{"memory", memory})
	}
	kernel := runtime.GOOS
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		kernel += " " + strings.TrimSpace(string(release))
	}
	return append(facts, Fact{"kernel", kernel}, Fact{"Go", runtime.Version() + " " + runtime.GOARCH})
}

func cpuModel() string {
	if model := valueOf("/proc/cpuinfo", "model name"); model != "" {
		return model
	}
	return runtime.GOARCH
}

// valueOf is the value of the first line "key : value" of a file, or "".
func valueOf(path, key string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = file.Close() }() // only read
	for scanner := bufio.NewScanner(file); scanner.Scan(); {
		name, value, found := strings.Cut(scanner.Text(), ":")
		if found && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
