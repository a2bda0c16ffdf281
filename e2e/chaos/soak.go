package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

const (
	// flatOut is how long the machine's rate is measured.
	flatOut = 15 * time.Second
	// sampleInterval is that of a run of some length; shorter runs sample more often, to have enough.
	sampleInterval = 10 * time.Second
	samplesAtLeast = 60
	// tolerance is by how much the last third of a run may exceed the first.
	tolerance = 0.10
)

// soak runs long and disturbs nothing.
func (e *experiment) soak(ctx context.Context) error {
	if e.rate == 0 {
		if err := e.measure(ctx); err != nil {
			return err
		}
		e.traffic.SetRates(e.rate/2, e.rate/2)
	}
	e.screen.say("soak: %s, %.0f messages/s", e.servers, e.rate)
	all := newSeries()
	err := e.during(ctx, func(ctx context.Context) error { return e.collect(ctx, all) })
	if err != nil {
		return fmt.Errorf("interrupted: %w", err)
	}
	if err := e.drain(ctx); err != nil {
		return err
	}
	e.report.title = fmt.Sprintf("soak: %s, %d tenants, %.0f messages/s, %s", e.duration, e.tenants, e.rate, e.servers)
	e.report.flatness(all)
	for _, d := range e.deaths {
		e.report.fail("%s ended without being told to after %s", d.service, d.at.Round(time.Millisecond))
	}
	return nil
}

// measure finds the rate at which this machine publishes, stores and reads when nothing holds it back, and takes half of it.
func (e *experiment) measure(ctx context.Context) error {
	e.screen.say("soak: measuring the rate of this machine for %s", flatOut)
	var machine float64
	err := e.during(ctx, func(ctx context.Context) error {
		err := retry.Sleep(ctx, flatOut)
		machine = float64(e.traffic.Progress().Met-e.base.Met) / time.Since(e.began).Seconds()
		return err
	})
	if err != nil {
		return fmt.Errorf("interrupted: %w", err)
	}
	if err := e.drain(ctx); err != nil {
		return err
	}
	e.rate = machine / 2
	e.report.note("this machine publishes, stores and reads %.0f messages/s flat out", machine)
	return nil
}

// collect samples until the duration is over.
func (e *experiment) collect(ctx context.Context, all *series) error {
	interval := min(sampleInterval, e.duration/samplesAtLeast)
	tick := time.NewTicker(max(interval, time.Second))
	defer tick.Stop()
	for time.Since(e.began) < e.duration {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		at := time.Since(e.began)
		if at < e.duration/10 {
			continue // warming up
		}
		samples, err := e.sampleAll(ctx)
		if err != nil {
			return err
		}
		load, err := e.traffic.Load(ctx)
		if err != nil {
			return err
		}
		for _, service := range e.platform.Services() {
			s := samples[service.Name]
			all.add(service.Name+" RSS", unitMiB, at, s.rss)
			all.add(service.Name+" heap", unitMiB, at, s.heap)
			all.add(service.Name+" goroutines", unitGoroutines, at, s.goroutines)
			all.add(service.Name+" open files", unitFiles, at, s.files)
			for _, name := range backing.Names() {
				all.add(service.Name+" connections to "+string(name), unitConnections, at, s.connections[name])
			}
		}
		all.add("postgres connections", unitConnections, at, float64(load.DatabaseConnections))
		all.add("rabbitmq connections", unitConnections, at, float64(load.BrokerConnections))
		all.add("messages in queues", unitMessages, at, float64(load.Queued))
	}
	return nil
}

// unit is what a series counts. Each may rise by a little that means nothing.
type unit struct {
	scale     float64
	decimals  int
	allowance float64
}

//nolint:gochecknoglobals // constants, of a type that has none
var (
	unitMiB         = unit{scale: 1 << 20, decimals: 1, allowance: 16 << 20}
	unitGoroutines  = unit{scale: 1, allowance: 20}
	unitFiles       = unit{scale: 1, allowance: 20}
	unitConnections = unit{scale: 1, allowance: 2}
	unitMessages    = unit{scale: 1, allowance: 5000} // a second or two of traffic
)

// format never shows a zero with a sign.
func (u unit) format(value float64) string {
	text := fmt.Sprintf("%.*f", u.decimals, value/u.scale)
	if strings.Trim(text, "-0.") == "" {
		return strings.TrimPrefix(text, "-")
	}
	return text
}

// series are samples by name, in the order in which they were added first.
type series struct {
	names  []string
	points map[string][]point
	units  map[string]unit
}

type point struct{ hours, value float64 }

func newSeries() *series {
	return &series{points: make(map[string][]point), units: make(map[string]unit)}
}

func (s *series) add(name string, u unit, at time.Duration, value float64) {
	if _, known := s.units[name]; !known {
		s.names, s.units[name] = append(s.names, name), u
	}
	s.points[name] = append(s.points[name], point{at.Hours(), value})
}

// flatness adds the table of the series and fails those that rise.
func (r *report) flatness(all *series) {
	t := table{header: []string{"", "first third", "middle", "last third", "slope per hour"}}
	for _, name := range all.names {
		u, points := all.units[name], all.points[name]
		first, middle, last := thirds(points)
		t.add(name, u.format(first), u.format(middle), u.format(last), u.format(slope(points)))
		if rises(first, last, u) {
			r.fail("%s rises: %s in the first third, %s in the last", name, u.format(first), u.format(last))
		}
	}
	if len(all.names) == 0 {
		r.fail("nothing was sampled")
	}
	r.tables = append(r.tables, t)
}

func rises(first, last float64, u unit) bool { return last > first*(1+tolerance)+u.allowance }

// thirds are the medians of each third of the points.
func thirds(points []point) (first, middle, last float64) {
	n := len(points)
	return medianOf(points[:(n+2)/3]), medianOf(points[n/3 : max(n-n/3, n/3+1)]), medianOf(points[n-(n+2)/3:])
}

func medianOf(points []point) float64 {
	values := make([]float64, len(points))
	for i, p := range points {
		values[i] = p.value
	}
	slices.Sort(values)
	return values[(len(values)-1)/2]
}

// slope is that of the line with the least squares, per hour.
func slope(points []point) float64 {
	var meanX, meanY float64
	for _, p := range points {
		meanX += p.hours / float64(len(points))
		meanY += p.value / float64(len(points))
	}
	var xy, xx float64
	for _, p := range points {
		xy += (p.hours - meanX) * (p.value - meanY)
		xx += (p.hours - meanX) * (p.hours - meanX)
	}
	if xx == 0 {
		return 0
	}
	return xy / xx
}
