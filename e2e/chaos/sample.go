package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/procfs"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

// sample is what a service takes at a moment.
type sample struct {
	rss, heap, goroutines, files float64
	// connections to each server.
	connections map[backing.Name]float64
}

const sampleTimeout = 10 * time.Second

// The metrics that a sample is made of, see client_golang's collectors.
const (
	metricRSS        = "process_resident_memory_bytes"
	metricHeap       = "go_memstats_heap_inuse_bytes"
	metricGoroutines = "go_goroutines"
	metricFiles      = "process_open_fds"
)

// sample looks at one service.
func (e *experiment) sample(ctx context.Context, service *stack.Service) (sample, error) {
	values, err := scrape(ctx, service.OpsURL+"/metrics", metricRSS, metricHeap, metricGoroutines, metricFiles)
	if err != nil {
		return sample{}, fmt.Errorf("sample %s: %w", service.Name, err)
	}
	s := sample{
		rss: values[metricRSS], heap: values[metricHeap], goroutines: values[metricGoroutines], files: values[metricFiles],
		connections: make(map[backing.Name]float64),
	}
	ports := make(map[int]backing.Name)
	for name, proxy := range e.platform.Proxies {
		_, port, err := net.SplitHostPort(proxy.Listen)
		if err != nil {
			return sample{}, fmt.Errorf("sample %s: %w", service.Name, err)
		}
		number, err := strconv.Atoi(port)
		if err != nil {
			return sample{}, fmt.Errorf("sample %s: %w", service.Name, err)
		}
		ports[number] = name
	}
	if err := countConnections(service.PID(), ports, s.connections); err != nil {
		return sample{}, fmt.Errorf("sample %s: %w", service.Name, err)
	}
	return s, nil
}

// scrape reads metrics without labels.
func scrape(ctx context.Context, url string, names ...string) (values map[string]float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, sampleTimeout)
	defer cancel()
	got, err := raw.Do(ctx, &http.Transport{DisableKeepAlives: true}, raw.Request{URL: url})
	if err != nil {
		return nil, fmt.Errorf("scrape: %w", err)
	}
	values = make(map[string]float64)
	for line := range strings.Lines(string(got.Body)) {
		for _, name := range names {
			if text, ok := strings.CutPrefix(line, name+" "); ok {
				if values[name], err = strconv.ParseFloat(strings.TrimSpace(text), 64); err != nil {
					return nil, fmt.Errorf("scrape %s: %w", name, err)
				}
			}
		}
	}
	if len(values) < len(names) {
		return nil, fmt.Errorf("scrape: %d of %d metrics are there", len(values), len(names))
	}
	return values, nil
}

// countConnections counts the TCP connections of a process to ports, by what /proc tells (Linux).
func countConnections(pid int, ports map[int]backing.Name, counts map[backing.Name]float64) error {
	proc, err := procfs.NewProc(pid)
	if err != nil {
		return fmt.Errorf("look at the process: %w", err)
	}
	files, err := proc.FileDescriptorTargets()
	if err != nil {
		return fmt.Errorf("list the open files: %w", err)
	}
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return fmt.Errorf("look at the connections: %w", err)
	}
	connections, err := fs.NetTCP() //nolint:staticcheck // deprecated for its slowness with many connections, of which there are few
	if err != nil {
		return fmt.Errorf("list the connections: %w", err)
	}
	const established = 1 // TCP_ESTABLISHED
	for _, c := range connections {
		name, ours := ports[int(c.RemPort)]
		if ours && c.St == established && slices.Contains(files, fmt.Sprintf("socket:[%d]", c.Inode)) {
			counts[name]++
		}
	}
	return nil
}
