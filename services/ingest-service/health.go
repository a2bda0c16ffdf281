package main

import (
	"errors"
	"sync"

	"github.com/srireskianita/multi-tenant-messaging/libs/telemetry"
)

// sharedCheck lets several connections report to one check, which is fine when all of them are.
type sharedCheck struct {
	check *telemetry.Check

	mu     sync.Mutex
	faults []error // guarded by mu: one for each connection
}

var errStarting = errors.New("starting")

// reporter returns the report function of one more connection, which counts as starting until it reports.
func (s *sharedCheck) reporter() func(error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := len(s.faults)
	s.faults = append(s.faults, errStarting)
	return func(err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.faults[i] = err
		s.check.Set(errors.Join(s.faults...))
	}
}
