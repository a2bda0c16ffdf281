package consumer

import (
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/batch"
)

// Every delivery must be in exactly one batch, in the order of the tags, however batches are taken and given back: a tag
// that two batches span would be acknowledged before its message is stored, one that none spans never.
func TestGathererAgainstAModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		tenant := uuid.New()
		g := gatherer{
			tenant: tenant, key: tenant.String(),
			cfg: Config{BatchMessages: rapid.IntRange(1, 8).Draw(t, "messages"), BatchBytes: rapid.Int64Range(1, 64).Draw(t, "bytes"), MaxPayload: 32},
		}
		type expected struct {
			id   string
			good bool
		}
		var pending []expected        // what the batch that is gathered must hold
		var tag, begun, handed uint64 // tags begin at 1
		var out []*batch.Batch        // handed over, not given back
		now := time.Unix(0, 0)
		took := func(t *rapid.T) {
			b, first, last := g.flush(3)
			require.Equal(t, handed+1, first, "no gap, no overlap")
			require.Equal(t, tag, last)
			handed = last
			require.Len(t, b.Deliveries, len(pending))
			require.Len(t, b.Deliveries, int(last-first+1))
			good, bad := 0, 0
			var size int64
			for i, want := range pending {
				require.Equal(t, want.id, b.Deliveries[i].MessageId)
				size += int64(len(b.Deliveries[i].Body))
				if want.good {
					require.Equal(t, want.id, b.Messages[good].ID.String())
					require.Equal(t, i, b.Index[good])
					good++
				} else {
					require.Equal(t, i, b.Rejected[bad].Delivery)
					bad++
				}
			}
			require.Len(t, b.Messages, good)
			require.Len(t, b.Rejected, bad)
			require.Equal(t, size, b.Bytes)
			require.Equal(t, 3, b.MaxAttempts)
			require.NotContains(t, out, b, "memory of a batch that is still being written")
			out, pending = append(out, b), nil
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				if g.full() {
					took(t)
				}
				tag++
				now = now.Add(time.Millisecond)
				if g.current == nil {
					begun = tag
				}
				want := expected{id: uuid.NewString(), good: rapid.Bool().Draw(t, "good")}
				body := rapid.SampledFrom([]string{`1`, `"a"`, `{"a":[1,2,3]}`}).Draw(t, "body")
				if !want.good {
					body = rapid.SampledFrom([]string{``, `{`, `"0123456789012345678901234567890123456789"`}).Draw(t, "bad body")
				}
				pending = append(pending, want)
				d := amqp.Delivery{DeliveryTag: tag, RoutingKey: g.key, MessageId: want.id, Body: []byte(body)}
				g.add(&consume.Delivery{Delivery: d}, func() time.Time { return now })
				require.Equal(t, begun, g.first)
				require.Equal(t, len(pending) >= g.cfg.BatchMessages || g.current.Bytes >= g.cfg.BatchBytes, g.full())
			},
			"take": func(t *rapid.T) {
				if g.current == nil {
					t.Skip("nothing was gathered")
				}
				took(t)
			},
			"give back": func(t *rapid.T) {
				if len(out) == 0 {
					t.Skip("nothing is being written")
				}
				i := rapid.IntRange(0, len(out)-1).Draw(t, "which")
				b := out[i]
				out = append(out[:i], out[i+1:]...)
				g.giveBack(b, len(out) == 0 && g.current == nil)
				require.Empty(t, b.Deliveries[:0])
				if len(out) == 0 && g.current == nil {
					require.Empty(t, g.spare, "a tenant at rest keeps no memory")
				}
			},
		})
	})
}

// A message that was delivered before, or whose neighbours were stored before, may be stored already.
func TestWhatMayBeStoredAlready(t *testing.T) {
	t.Parallel()
	tenant := uuid.New()
	g := gatherer{tenant: tenant, key: tenant.String(), cfg: Config{BatchMessages: 100, BatchBytes: 1 << 20, MaxPayload: 100}}
	add := func(redelivered bool) bool {
		g.add(&consume.Delivery{Delivery: amqp.Delivery{RoutingKey: g.key, Body: []byte(`1`), Redelivered: redelivered}}, time.Now)
		return g.current.Messages[len(g.current.Messages)-1].Again
	}
	require.False(t, add(false))
	require.True(t, add(true))
	require.False(t, add(false))
	g.careful = 2
	require.True(t, add(false))
	require.True(t, add(false))
	require.False(t, add(false))
}

// However the broker answers, a lone message waits for nothing, no batch waits without end, and the broker is asked
// rarely and by one at a time.
func TestPaceAgainstAModel(t *testing.T) {
	t.Parallel()
	const delay = 5 * time.Millisecond
	rapid.Check(t, func(t *rapid.T) {
		var p pace
		var waiting int64 // in the queue, as far as the broker has said, less what was taken since
		asking := false
		var asked time.Time
		now := time.Unix(1, 0)
		t.Repeat(map[string]func(*rapid.T){
			"time passes": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 200).Draw(t, "ms")) * time.Millisecond)
			},
			"take": func(*rapid.T) {
				p.took()
				waiting = max(waiting-1, 0)
			},
			"hand over": func(t *rapid.T) {
				n, full := rapid.IntRange(1, 500).Draw(t, "n"), rapid.Bool().Draw(t, "full")
				ask := p.handedOver(n, full, now)
				if !full {
					waiting = 0
				}
				if ask {
					require.False(t, asking, "one question at a time")
					require.Zero(t, waiting, "the answer is known")
					require.GreaterOrEqual(t, n, probeSize)
					require.True(t, asked.IsZero() || now.Sub(asked) >= probeInterval)
					asking, asked = true, now
				}
			},
			"answer": func(t *rapid.T) {
				if !asking {
					t.Skip("nobody has asked")
				}
				waiting, asking = rapid.Int64Range(0, 1000).Draw(t, "depth"), false
				p.answered(waiting)
			},
			"": func(t *rapid.T) {
				require.Equal(t, waiting > 0, p.linger(false, delay) > 0, "a lone message waits only when others wait behind it")
				require.LessOrEqual(t, p.linger(true, delay), backlogLinger)
				require.GreaterOrEqual(t, p.linger(true, delay), delay)
			},
		})
	})
}
