package tenant

import "time"

// Step is the length of the steps in which usage is shown.
type Step string

// The steps of usage. They begin at the full hour, or at midnight, of UTC.
const (
	Hour Step = "hour"
	Day  Step = "day"
)

// Length of the step.
func (s Step) Length() time.Duration {
	if s == Day {
		return 24 * time.Hour
	}
	return time.Hour
}

// Window is a time of whole steps, in UTC.
type Window struct {
	Step Step
	From time.Time
	To   time.Time // not included
}

// Usage is what a tenant has used.
type Usage struct {
	// Steps of a window, in their order, without those in which nothing happened.
	Steps []UsageStep
	// StoredMessages and StoredBytes are stored now: what came in less what was removed.
	StoredMessages, StoredBytes int64
	// CountedUntil is when the newest message that is counted was stored; nil if none is.
	CountedUntil *time.Time
}

// UsageStep is what happened in a step that began at From.
type UsageStep struct {
	From                                    time.Time
	Messages, Bytes, Delivered, DeadLetters int64
}
