package rig

import (
	"context"
	"time"
)

// Usage is CPU time for a million messages, in seconds, of each of [Ingesting] in their order, and of all of them.
type Usage []float64

// Ingesting are the processes that a message goes through on its way into the database.
func Ingesting() []Process { return []Process{Ingest, Broker, Database} }

// Spend measures the CPU time of what happens during do, in which n messages are ingested: by the platform, or by the
// benchmark itself if ourselves, which then stands for ingest-service. The error is [ErrElsewhere] where the processes
// cannot be looked at.
func (r *Rig) Spend(ctx context.Context, ourselves bool, n int, do func() error) (Usage, error) {
	before, err := r.clock(ctx, ourselves)
	if err != nil {
		return nil, err
	}
	if err := do(); err != nil {
		return nil, err
	}
	after, err := r.clock(ctx, ourselves)
	if err != nil {
		return nil, err
	}
	const million = 1e6
	spent := make(Usage, len(after)+1)
	for i := range after {
		spent[i] = (after[i] - before[i]).Seconds() / float64(n) * million
		spent[len(after)] += spent[i]
	}
	return spent, nil
}

// clock is the CPU time of each of Ingesting so far.
func (r *Rig) clock(ctx context.Context, ourselves bool) ([]time.Duration, error) {
	var all []time.Duration
	for _, process := range Ingesting() {
		used, err := OwnCPU()
		if !ourselves || process != Ingest {
			used, err = r.CPU(ctx, process)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, used)
	}
	return all, nil
}
