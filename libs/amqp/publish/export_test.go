package publish

import "time"

// Hasten gives up channels after stall and keeps breakers open for longest at most. Call it before Run.
func (p *Publisher) Hasten(stall, longest time.Duration) *Publisher {
	p.pool.cfg.stall = stall
	if p.trialPool != nil {
		p.trialPool.cfg.stall = stall
		p.breakers.shortest, p.breakers.longest = stall, longest
	}
	return p
}

// Channels is how many are open, and how many of these have confirmed nothing for a while although something waits on them.
func (p *Publisher) Channels() (open, slow int) {
	for i := range p.pool.all {
		if l := p.pool.all[i].Load(); l != nil {
			open++
			if l.slow.Load() {
				slow++
			}
		}
	}
	return open, slow
}

// Breakers is how many breakers have tripped.
func (p *Publisher) Breakers() int { return int(p.breakers.count.Load()) }
