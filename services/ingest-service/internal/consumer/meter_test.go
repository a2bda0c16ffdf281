package consumer

import (
	"math"
	"testing"
	"time"

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
