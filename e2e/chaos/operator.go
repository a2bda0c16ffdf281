package main

import (
	"slices"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/e2e/internal/fault"
	"github.com/srireskianita/multi-tenant-messaging/e2e/internal/traffic"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

const (
	// revocationLimit is how soon what was revoked is refused: by the services while they reach PostgreSQL, by the broker always.
	revocationLimit = 2 * time.Second
	// relearnLimit is how much longer a service may take when it reaches PostgreSQL again: it may still wait for an answer, up to 3 s.
	relearnLimit = 3 * time.Second
)

// limits adds what the limits of tenants have done, and fails a complete run in which they have not.
func (r *report) limits(l traffic.Limits, complete bool) {
	t := table{header: []string{"limits", "changed", "over a rate (429)", "payload too large (413)"}}
	t.add("all tenants", l.Changes, l.RateLimited, l.TooLarge)
	r.tables = append(r.tables, t)
	if complete && (l.RateLimited == 0 || l.TooLarge == 0) {
		r.fail("limits were changed %d times, and held up %d messages for their rate and %d for their size", l.Changes, l.RateLimited, l.TooLarge)
	}
}

// retention fails a complete run in which nothing was removed.
func (r *report) retention(v traffic.Verdict, complete bool) {
	if complete && v.Removed == 0 {
		r.fail("some tenants keep their messages for seconds, and nothing was removed")
	}
}

// revocations adds what became of revoked tokens and credentials. Those that are late were accepted when they had to be refused.
func (r *report) revocations(v traffic.Revocations, late []traffic.Late, complete bool) {
	t := table{header: []string{"revoked tokens and logins", "accepted before", "refused after", "accepted after, at most", "accepted too late"}}
	for _, name := range traffic.Verifiers() {
		var longest time.Duration
		for _, l := range v.Late {
			if l.Service == name {
				longest = max(longest, l.Began.Sub(l.Revoked))
			}
		}
		overdue := slices.DeleteFunc(slices.Clone(late), func(l traffic.Late) bool { return l.Service != name })
		t.add(name, v.Accepted[name], v.Refused[name], longest, len(overdue))
		if len(overdue) > 0 {
			r.fail("%s accepted %d times what was revoked, at most %s after that", name, len(overdue), seconds(longest))
		}
		if complete && (v.Accepted[name] == 0 || v.Refused[name] == 0) {
			r.fail("%s accepted tokens or logins %d times before they were revoked, and refused them %d times after", name, v.Accepted[name], v.Refused[name])
		}
	}
	r.tables = append(r.tables, t)
	r.note("revoked during the run: %d tokens, %d AMQP credentials", v.Tokens, v.Credentials)
}

// overdue are those that were accepted later than a revocation takes. A service that a fault has kept from PostgreSQL meanwhile learns of
// it later. The faults began at begin.
func overdue(late []traffic.Late, begin time.Time, results []fault.Result) (left []traffic.Late) {
	cuts := slices.DeleteFunc(slices.Clone(results), func(r fault.Result) bool { return !r.Event.CutsOff(backing.ServicePostgres) })
	slices.SortFunc(cuts, func(a, b fault.Result) int { return int(a.At - b.At) })
	for _, l := range late {
		deadline := l.Revoked.Add(revocationLimit)
		for _, cut := range cuts {
			from, until := begin.Add(cut.At), begin.Add(cut.At+cut.Lasted+relearnLimit)
			if l.Service != string(backing.ServiceRabbitMQ) && !from.After(deadline) && until.After(l.Revoked) {
				deadline = later(deadline, until.Add(revocationLimit))
			}
		}
		if l.Began.After(deadline) {
			left = append(left, l)
		}
	}
	return left
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
