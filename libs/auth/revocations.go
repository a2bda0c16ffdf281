package auth

import (
	"errors"
	"maps"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

const (
	// forgetAfter is how long after its expiry a revoked token is remembered: more than the clock skew that is allowed for.
	forgetAfter = 5 * time.Minute
	// sweepEvery is how often those are looked for that can be forgotten.
	sweepEvery = time.Minute
)

var (
	// errRevoked stands for an issued token that was revoked.
	errRevoked = errors.New("the token was revoked")
	// errRevocationsUnknown means that it is not known yet which issued tokens were revoked. That is not the client's fault.
	errRevocationsUnknown = errors.New("it is not known yet which tokens were revoked")
	// errTokenID is the claim jti of an issued token that can't be looked up, and so could not be revoked.
	errTokenID = wrongType("jti", "a UUID")
)

// Revocations are the issued tokens that were revoked. Until Add has been called once, it is not known which these are, and no
// issued token is accepted. Add is called by one goroutine at a time, everything else by any.
type Revocations struct {
	expiries atomic.Pointer[map[uuid.UUID]time.Time] // of the revoked tokens; the map is replaced, never changed
	swept    time.Time                               // owned by the caller of Add
}

// Add adds revoked tokens, with the time at which each expires; after that it is forgotten. There is no way back for a token.
func (r *Revocations) Add(revoked map[uuid.UUID]time.Time) {
	now := time.Now()
	known := map[uuid.UUID]time.Time{}
	if p := r.expiries.Load(); p != nil {
		known = *p
		fresh := false
		for id := range revoked {
			if _, ok := known[id]; !ok {
				fresh = true
				break
			}
		}
		if !fresh && now.Sub(r.swept) < sweepEvery {
			return
		}
	}
	next := make(map[uuid.UUID]time.Time, len(known)+len(revoked))
	maps.Copy(next, known)
	maps.Copy(next, revoked)
	maps.DeleteFunc(next, func(_ uuid.UUID, expires time.Time) bool { return now.Sub(expires) > forgetAfter })
	r.swept = now
	r.expiries.Store(&next)
}

// Known tells whether it is known which tokens were revoked.
func (r *Revocations) Known() bool { return r.expiries.Load() != nil }

// Revoked tells whether a token was revoked, as far as is known.
func (r *Revocations) Revoked(token uuid.UUID) bool {
	expiries := r.expiries.Load()
	if expiries == nil {
		return false
	}
	_, revoked := (*expiries)[token]
	return revoked
}

// check is nil for a token that is not an issued one, or was not revoked.
func (r *Revocations) check(id Identity, issued bool) error {
	if named, ok := strings.CutPrefix(id.Subject, issuedSubject); !issued && (!ok || named != id.TokenID) {
		return nil
	}
	token, err := uuid.Parse(id.TokenID)
	if err != nil || len(id.TokenID) != len(uuid.Nil.String()) {
		return errTokenID
	}
	switch {
	case !r.Known():
		return errRevocationsUnknown
	case r.Revoked(token):
		return errRevoked
	}
	return nil
}
