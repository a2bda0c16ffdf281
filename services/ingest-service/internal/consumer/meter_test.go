package consumer

import (
	"math"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/rate"
)

// A tenant without limits per second pays nothing for those of others.
func TestWithoutALimitNothingIsAllocated(t *testing.T) {
	in := &collector{c: &Consumer{}, arrived: make([]consume.Delivery, 1)}
	in.meter = in.c.meter()
	require.Equal(t, math.MaxInt, in.meter.prefetch)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		in.meter.drained(in.arrived)
		if !in.admit(&in.arrived[0]) {
			t.Error("it is held back")
		}
		in.meter.misfit(time.Hour, false)
	}))
}

// What is delivered is what passes in a second, at least one message, by the size that messages have.
func TestPrefetchIsASecondOfTheRate(t *testing.T) {
	for name, test := range map[string]struct {
		rates rate.Amounts
		mean  int64
		want  int
	}{
		"one a second":          {rate.Amounts{1, 0}, 0, 1},
		"messages":              {rate.Amounts{300, 0}, 0, 300},
		"bytes, unknown size":   {rate.Amounts{0, 1 << 20}, 0, 16},
		"bytes, small messages": {rate.Amounts{0, 1 << 20}, 100, 10485},
		"bytes, large messages": {rate.Amounts{0, 1000}, 1 << 20, 1},
		"both":                  {rate.Amounts{10, 1 << 20}, 100, 10},
	} {
		require.Equal(t, test.want, (&meter{rates: test.rates, meanBytes: test.mean}).second(), name)
	}
	m := meter{rates: rate.Amounts{0, 1 << 20}, prefetch: 16}
	m.drained([]consume.Delivery{{}, {}})
	require.False(t, m.misfit(0, false), "not at once")
	require.True(t, m.misfit(time.Second, false), "small messages would never reach the limit")
	m = meter{rates: rate.Amounts{0, 1 << 20}, prefetch: 16, meanBytes: 1 << 20}
	require.True(t, m.misfit(time.Second, true), "large messages are held for longer than a second")
	require.False(t, m.misfit(time.Second, false), "and nobody minds while none is")
}

// What the platform itself has published is not counted again.
func TestWhatIsCounted(t *testing.T) {
	for exchange, want := range map[string]bool{
		contract.MessagesExchange: true, "": true, contract.ScreenExchange: true, contract.TenantsExchange: false, contract.RetryReturnExchange: false,
	} {
		d := consume.Delivery{}
		d.Exchange = exchange
		require.Equal(t, want, counted(&d), exchange)
	}
}

// rooms is a storage with so much room.
type rooms int64

func (r rooms) Room(uuid.UUID, int64) (room int64, known bool) { return int64(r), r >= 0 }
func (rooms) Refreshed() <-chan struct{}                       { return nil }

// What is delivered at a time is what there is room for, and more once there is much more.
func TestPrefetchFitsIntoTheRoom(t *testing.T) {
	limits := contract.Limits{StoredMaxBytes: 1 << 30}
	begin := func(room int64) *collector {
		c := &Consumer{cfg: Config{Storage: rooms(room), Prefetch: 2000}, prefetch: 2000, meanBytes: 1000}
		c.limits.Store(&limits)
		return &collector{c: c, prefetch: 2000, meter: c.meter(), began: time.Now().Add(-misfitAfter)}
	}
	for room, want := range map[int64]int{1: 1, 10_000: 10, 1 << 30: 1 << 30 / 1000, -1: math.MaxInt} {
		require.Equal(t, want, begin(room).meter.prefetch, room)
	}
	in := begin(10_000)
	for room, want := range map[rooms]bool{10_000: false, 39_999: false, 40_000: true, 1 << 30: true, 5: false, -1: false} {
		in.c.cfg.Storage = room
		require.Equal(t, want, in.isCramped(), room)
	}
	in.began = time.Now().Add(time.Minute)
	in.c.cfg.Storage = rooms(1 << 30)
	require.False(t, in.isCramped(), "not at once")
	in = begin(3_000_000)
	in.c.cfg.Storage = rooms(1 << 40)
	require.False(t, in.isCramped(), "no more than the configuration allows")
	require.False(t, in.limited())
	in = begin(10_000)
	in.c.cfg.Storage = rooms(1 << 40)
	raised := contract.Limits{}
	in.c.limits.Store(&raised)
	require.True(t, in.limited(), "a limit that is gone leaves no trace")
}
