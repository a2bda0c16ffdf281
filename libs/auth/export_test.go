package auth

import "time"

// SetPace changes how often the key set is tried again after a failure, and how often unknown keys may
// cause a refresh. It is called before Run.
func (v *Verifier) SetPace(retry, ask time.Duration) {
	v.set.pace.retry, v.set.pace.ask = retry, ask
}
