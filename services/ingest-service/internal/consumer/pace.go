package consumer

import "time"

const (
	// backlogLinger is how long a batch waits to become full while there is a backlog. At 10,000 messages a second it is
	// full sooner; a broker that has nothing more to give costs this once.
	backlogLinger = 50 * time.Millisecond
	// probeSize is how many messages in one batch make it worth asking for a backlog.
	probeSize = 16
	// probeInterval is the shortest time between two such questions.
	probeInterval = 100 * time.Millisecond
)

// pace decides how long a batch that is not full waits for more. Without a backlog a message should wait for nothing that
// it need not; with one, a batch of ten costs nearly as much as one of five hundred, and it is those behind it that wait.
// Whether there is a backlog the broker tells, asked when a batch has become large without lingering; from then on what was taken
// is counted down. The zero value expects none.
type pace struct {
	backlog int64 // messages that wait in the queue, as far as known
	asked   time.Time
	asking  bool
}

// took notes one delivery.
func (p *pace) took() { p.backlog = max(p.backlog-1, 0) }

// linger is how long a batch that is not full waits, from its first message on. A lone message waits for nothing; while
// others are being written, another worker begins only after delay.
func (p *pace) linger(busy bool, delay time.Duration) time.Duration {
	switch {
	case p.backlog > 0:
		return max(backlogLinger, delay)
	case busy:
		return delay
	default:
		return 0
	}
}

// handedOver notes that a batch of n messages was handed over, and reports whether the broker is to be asked for the
// depth of the queue; answered takes the answer.
func (p *pace) handedOver(n int, full bool, now time.Time) (ask bool) {
	if !full && p.backlog > 0 {
		p.backlog = 0 // it has waited in vain: others consume the queue as well
	}
	if p.backlog > 0 || p.asking || n < probeSize || now.Sub(p.asked) < probeInterval {
		return false
	}
	p.asking, p.asked = true, now
	return true
}

func (p *pace) answered(depth int64) { p.asking, p.backlog = false, depth }
