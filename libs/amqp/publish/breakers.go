package publish

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
)

const (
	// longestRefusal is how long a destination that does not answer is refused before it is tried again. It begins with
	// the time that a trial takes and doubles, so that a broker that was slow for everybody is soon forgiven.
	longestRefusal = 30 * time.Second
	// breakerLifetime is how long a tripped breaker is kept that nobody asks for: the tenant may be gone.
	breakerLifetime = 10 * time.Minute
)

// breakers are circuit breakers, one for each destination whose queue may not answer; there is none for the others. A tripped one is tried with one message at a time,
// where that harms nobody else; one confirmation closes the breaker, and a trial that stalls has it refused for a while.
type breakers struct {
	shortest, longest time.Duration // refusals
	log               *zap.Logger

	count atomic.Int64 // length of all: as a rule 0, which is seen without the lock
	mu    sync.Mutex
	all   map[destination]*breaker // guarded by mu
}

type breaker struct {
	to      destination
	tried   bool          // a trial is under way
	refusal time.Duration // the last one; 0 as long as no trial has failed
	until   time.Time     // refused until then
	asked   time.Time     // for the last time
	changed chan struct{} // closed when a trial is over
}

func newBreakers(shortest, longest time.Duration, log *zap.Logger) *breakers {
	return &breakers{shortest: shortest, longest: longest, log: log, all: make(map[destination]*breaker)}
}

// trip trips the breakers of destinations, and forgets those that nobody has asked for in a while.
func (s *breakers) trip(destinations []destination) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for to, known := range s.all {
		if !known.tried && now.Sub(known.asked) > breakerLifetime {
			delete(s.all, to)
		}
	}
	for _, to := range destinations {
		if s.all[to] == nil {
			// The strings may be memory that a server uses again for its next request.
			to = destination{strings.Clone(to.exchange), strings.Clone(to.key)}
			s.all[to] = &breaker{to: to, asked: now, changed: make(chan struct{})}
		}
	}
	s.count.Store(int64(len(s.all)))
}

// anyTripped reports whether any breaker has tripped; false for nil. It takes no lock.
func (s *breakers) anyTripped() bool { return s != nil && s.count.Load() > 0 }

// tripped reports whether that of a destination has.
func (s *breakers) tripped(to destination) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[to] != nil
}

// admit returns the breaker whose trial a message to a destination is to be, the end of which is then told to
// [breakers.record]; nil, and no error, if it has not tripped. While another message is the trial it waits for the
// result, unless the destination has failed before; then it is refused meanwhile.
func (s *breakers) admit(ctx context.Context, to destination) (*breaker, error) {
	for {
		s.mu.Lock()
		known := s.all[to]
		if known == nil {
			s.mu.Unlock()
			return nil, nil
		}
		known.asked = time.Now()
		refused := known.asked.Before(known.until) || known.tried && known.refusal > 0
		trial := !refused && !known.tried
		known.tried = known.tried || trial
		changed := known.changed
		s.mu.Unlock()
		switch {
		case refused:
			return nil, fmt.Errorf("%w: %w (exchange %s, key %s)", conn.ErrUnavailable, conn.ErrUnanswered, to.exchange, to.key)
		case trial:
			return known, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// record ends a trial with what became of its message. Any answer of the broker clears the destination; an end that has
// other reasons, such as a lost connection, decides nothing.
func (s *breakers) record(known *breaker, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known.tried = false
	close(known.changed)
	known.changed = make(chan struct{})
	log := s.log.With(zap.String("exchange", known.to.exchange), zap.String("routing_key", known.to.key))
	switch {
	case err == nil, errors.Is(err, ErrUnroutable), errors.Is(err, ErrRejected):
		delete(s.all, known.to)
		s.count.Store(int64(len(s.all)))
		if known.refusal > 0 {
			log.Info("a queue answers again")
		}
	case errors.Is(err, errStalled):
		if known.refusal == 0 {
			log.Warn("a queue does not answer; publishing to it is refused")
		}
		known.refusal = min(max(2*known.refusal, s.shortest), s.longest)
		known.until = time.Now().Add(known.refusal)
	}
}
