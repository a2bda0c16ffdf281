package rabbitmq

import "time"

// Hasten gives up channels after stall and refuses suspects for longest at most. Call it before Run.
func (p *Publisher) Hasten(stall, longest time.Duration) *Publisher {
	p.lanes.cfg.stall = stall
	if p.quarantine != nil {
		p.quarantine.cfg.stall = stall
		p.suspects.shortest, p.suspects.longest = stall, longest
	}
	return p
}

// Channels is how many are open, and how many of these have confirmed nothing for a while although something waits on them.
func (p *Publisher) Channels() (open, slow int) {
	for i := range p.lanes.all {
		if l := p.lanes.all[i].Load(); l != nil {
			open++
			if l.slow.Load() {
				slow++
			}
		}
	}
	return open, slow
}

// Suspects is how many destinations are suspect.
func (p *Publisher) Suspects() int { return int(p.suspects.count.Load()) }

// Hasten has consumers wait for limit at most. Call it before Run.
func (l *Link) Hasten(limit time.Duration) *Link {
	l.consumeLimit = limit
	return l
}

// MaxForsaken is how many channels of a connection may be stuck.
const MaxForsaken = maxForsaken
