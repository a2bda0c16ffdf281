package consumer

import (
	"math"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/rate"
)

// Rates hold the limits per second of tenants; [rate.Limiter] does.
type Rates interface {
	// Try lets a message pass, or says after which time to try again; wake may be called before.
	Try(tenant uuid.UUID, limits, cost, waiting rate.Amounts, wake func()) (again time.Duration, ok bool)
}

const (
	// assumedBytes is what a message is taken for as long as none has come. It makes the first prefetch under a limit of bytes.
	assumedBytes = 64 << 10
	// misfitFactor is how far a prefetch may be from what a second of the rate is, in either direction.
	misfitFactor = 4
	// misfitAfter is the shortest time between two prefetches of one limit.
	misfitAfter = time.Second
	// holdLimit is how long deliveries are held before they go back to their queue, and come again. It is well below the 30 minutes after which the broker
	// closes the channel of a consumer that does not acknowledge.
	holdLimit = 5 * time.Minute
)

// meter holds a collector to the tenant's limits per second. A message that was published over HTTP was counted when it came in, one that
// returns from a retry when it was tried first, and a replay never is: what the platform itself has published passes. That is told by the exchange, which the
// broker notes and no producer can write: producers have no right to publish to those of the platform.
//
// What is held back stays with the collector, and that is little: the prefetch is what the limits let pass in a second. All else waits in the
// queue.
type meter struct {
	limits   contract.Limits
	rates    rate.Amounts // zero: no limit
	prefetch int          // at most, by those limits and by the room for what is to be stored

	meanBytes int64     // of a message; 0 if not known
	since     time.Time // when the delivery at the front was held back first; zero if none is
	again     time.Time // when to try again, while one is
}

// meter returns that of the next collector.
func (c *Consumer) meter() meter {
	m := meter{meanBytes: c.meanBytes, prefetch: math.MaxInt}
	if limits := c.limits.Load(); limits != nil {
		m.limits = *limits
		if c.cfg.Rates != nil {
			m.rates = rate.Publishing(*limits)
		}
	}
	m.prefetch = m.second()
	if room, known := c.room(); known {
		m.prefetch = min(m.prefetch, m.fits(room))
	}
	return m
}

// second is how many messages pass in a second, at least 1.
func (m *meter) second() int {
	second := int64(math.MaxInt)
	if n := m.rates[rate.Messages]; n > 0 {
		second = min(second, n)
	}
	if n := m.rates[rate.Bytes]; n > 0 {
		mean := m.meanBytes
		if mean == 0 {
			mean = assumedBytes
		}
		second = min(second, n/mean)
	}
	return int(max(second, 1))
}

// drained takes in how large messages are.
func (m *meter) drained(deliveries []consume.Delivery) {
	if m.rates[rate.Bytes] <= 0 && m.limits.StoredMaxBytes == 0 || len(deliveries) == 0 {
		return
	}
	bytes := int64(0)
	for i := range deliveries {
		bytes += size(&deliveries[i])
	}
	if mean := max(bytes/int64(len(deliveries)), 1); m.meanBytes == 0 {
		m.meanBytes = mean
	} else {
		m.meanBytes = max((3*m.meanBytes+mean)/4, 1)
	}
}

// misfit reports whether the prefetch is far from what passes in a second: too much is held, or the limit cannot be reached.
func (m *meter) misfit(age time.Duration, held bool) bool {
	if m.rates[rate.Bytes] <= 0 || m.meanBytes == 0 || age < misfitAfter {
		return false
	}
	second := m.second()
	return held && m.prefetch/misfitFactor >= second || !held && second/misfitFactor >= m.prefetch
}

func (m *meter) holding() bool { return !m.since.IsZero() }

// exhausted reports whether a delivery has been held for so long that it is to go back to its queue.
func (m *meter) exhausted(now time.Time) bool { return m.holding() && now.Sub(m.since) >= holdLimit }

// size is what a delivery costs in bytes: payload, and the properties as its envelope.
func size(d *consume.Delivery) int64 { return int64(len(d.Body) + len(d.Properties)) }

// counted reports whether a delivery is to be counted: it was not published by the platform.
func counted(d *consume.Delivery) bool {
	return d.Exchange != contract.TenantsExchange && d.Exchange != contract.RetryReturnExchange
}

// limited takes in the limits that are in force, and reports whether another prefetch goes with them.
func (in *collector) limited() bool {
	next := in.c.meter()
	if next.limits == in.meter.limits {
		return false
	}
	in.gather.maxPayload = next.limits.MaxPayload
	if next.rates != in.meter.rates || in.isBelow(next.prefetch) {
		return true
	}
	in.meter.limits = next.limits
	return false
}

// admit reports whether a delivery may pass now. If not, the collector is woken when it is worth trying again.
func (in *collector) admit(d *consume.Delivery) bool {
	m := &in.meter
	if m.rates.IsZero() || !counted(d) {
		return true
	}
	// What is too large to be stored counts as the largest that is: one mistake is not to stop a tenant for hours.
	cost := rate.Amounts{rate.Messages: 1, rate.Bytes: int64(min(len(d.Body), in.c.cfg.MaxPayload) + len(d.Properties))}
	behind := int64(len(in.arrived) - in.used - 1)
	waiting := rate.Amounts{rate.Messages: behind, rate.Bytes: behind * m.meanBytes}
	again, ok := in.c.cfg.Rates.Try(in.c.tenant, m.rates, cost, waiting, in.c.wake)
	if ok {
		m.since = time.Time{}
		in.c.state.Held.Store(0)
		return true
	}
	now := time.Now()
	if m.since.IsZero() {
		m.since = now
	}
	m.again = now.Add(again)
	in.c.state.Held.Store(behind + 1)
	return false
}
