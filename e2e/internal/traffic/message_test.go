package traffic

import (
	"encoding/json"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

func anyTenant(t *rapid.T, label string) uuid.UUID {
	return uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, label))
}

// An id that was taken for another message, or for another tenant's, would hide a loss.
func TestIdentity(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Int64().Draw(t, "seed")
		mine := newIdentity(seed, anyTenant(t, "tenant"), 256)
		other := newIdentity(seed, anyTenant(t, "other"), 256)
		seq := rapid.Uint32().Draw(t, "seq")
		id := mine.id(seq)
		require.Equal(t, id, uuid.UUID(contract.MessageID(mine.tenant, id.String())), "it is kept as it is")
		back, ok := mine.seq(id)
		require.True(t, ok)
		require.Equal(t, seq, back)
		if mine.tenant != other.tenant {
			_, ok = other.seq(id)
			require.False(t, ok)
		}
		bent := id
		bent[rapid.IntRange(0, 15).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		_, ok = mine.seq(bent)
		require.False(t, ok, "an id with one wrong bit is nobody's")
	})
}

// Sizes are those of what is sent: over HTTP that is what the client makes of a payload.
func TestCompacted(t *testing.T) {
	mine := newAccount(1, uuid.New(), 300)
	mine.publishesDirectly(item{seq: 20})
	require.EqualValues(t, len(mine.payload(20, 0)), mine.size(20))
	for seq := range uint32(20) {
		sent, err := json.Marshal(json.RawMessage(mine.payload(seq, 0)))
		require.NoError(t, err)
		require.Equal(t, string(sent), string(compacted(mine.payload(seq, 0))))
		require.EqualValues(t, len(sent), mine.size(seq))
	}
}

func TestPayload(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mine := newIdentity(rapid.Int64().Draw(t, "seed"), anyTenant(t, "tenant"), rapid.IntRange(0, 2000).Draw(t, "bytes"))
		seq := rapid.Uint32().Draw(t, "seq")
		payload := mine.payload(seq, 0)
		require.NoError(t, contract.CheckPayload(payload, contract.DefaultMaxPayload))
		require.True(t, mine.is(seq, payload))
		require.False(t, mine.is(seq, mine.payload(seq, 1)), "another revision is another content")
		require.False(t, mine.is(seq, mine.payload(seq+1, 0)))
		number, ok := mine.claims(payload)
		require.True(t, ok)
		require.Equal(t, seq, number)

		var value any
		require.NoError(t, json.Unmarshal(payload, &value))
		other := newIdentity(0, uuid.New(), 256)
		_, ok = other.claims(payload)
		require.False(t, ok, "it is of another tenant")
	})
}

// Poison that could be stored would prove nothing, and a wrong expectation would cry wolf.
func TestPoison(t *testing.T) {
	mine := newIdentity(1, uuid.New(), 256)
	kinds := make(map[poison]int)
	for seq := range uint32(2000) {
		kind := mine.poisonOf(seq)
		if kinds[kind]++; kinds[kind] > 3 {
			continue
		}
		key, headers := mine.disguise(seq)
		err := contract.CheckPayload(mine.poisoned(seq), contract.DefaultMaxPayload)
		if kind == poisonForeign {
			require.NoError(t, err, "only its key is wrong")
			require.NotEqual(t, mine.tenant.String(), key)
			require.Equal(t, []any{mine.tenant.String()}, headers["CC"], "it gets into the tenant's queue")
			require.Equal(t, contract.ReasonForeignKey, kind.reason())
			continue
		}
		require.Equal(t, mine.tenant.String(), key)
		var bad *contract.PayloadError
		require.ErrorAs(t, err, &bad)
		require.Equal(t, bad.Reason, kind.reason())
	}
	require.Len(t, kinds, int(poisonKinds), "every kind occurs")
}
