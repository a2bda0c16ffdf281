package main

import "github.com/srireskianita/multi-tenant-messaging/e2e/internal/traffic"

// limits adds what the limits of tenants have done, and fails a complete run in which they have not.
func (r *report) limits(l traffic.Limits, complete bool) {
	t := table{header: []string{"limits", "changed", "over a rate (429)", "payload too large (413)"}}
	t.add("all tenants", l.Changes, l.RateLimited, l.TooLarge)
	r.tables = append(r.tables, t)
	if complete && (l.RateLimited == 0 || l.TooLarge == 0) {
		r.fail("limits were changed %d times, and held up %d messages for their rate and %d for their size", l.Changes, l.RateLimited, l.TooLarge)
	}
}
