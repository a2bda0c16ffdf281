package contract_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

func TestEnvelopeLimits(t *testing.T) {
	t.Parallel()
	many := func(n, size int) map[string]string {
		attributes := make(map[string]string)
		for i := range n {
			attributes[fmt.Sprintf("a%02d", i)] = strings.Repeat("x", size)
		}
		return attributes
	}
	one := func(name, value string) contract.Envelope {
		return contract.Envelope{Attributes: map[string]string{name: value}}
	}
	for _, e := range []contract.Envelope{
		{},
		{Type: strings.Repeat("t", 255), Key: strings.Repeat("é", 127)},
		{Type: " ", Key: `"\`},
		{Key: "\u2028\ufffd😀"},
		{Attributes: many(16, 253)},
		one("a", ""), one(strings.Repeat("-", 64), strings.Repeat("v", 512)), one("a_0.b-", "\u00a0"),
	} {
		require.NoError(t, e.Check(), "%+v", e)
	}
	for _, bad := range []struct {
		envelope contract.Envelope
		field    string
	}{
		{contract.Envelope{Type: strings.Repeat("t", 256)}, "type"},
		{contract.Envelope{Type: "a\nb"}, "type"},
		{contract.Envelope{Type: "\x00"}, "type"},
		{contract.Envelope{Type: "\xff"}, "type"},
		{contract.Envelope{Type: "\u0085"}, "type"},
		{contract.Envelope{Key: strings.Repeat("é", 128)}, "key"},
		{contract.Envelope{Key: "\x7f"}, "key"},
		{contract.Envelope{Attributes: many(17, 0)}, "attributes"},
		{contract.Envelope{Attributes: many(16, 254)}, "attributes"},
		{one("", "x"), "attributes"},
		{one("A", "x"), "attributes"},
		{one("a b", "x"), "attributes"},
		{one("ä", "x"), "attributes"},
		{one(strings.Repeat("a", 65), "x"), "attributes"},
		{one("a", strings.Repeat("v", 513)), "attributes.a"},
		{one("a", "\t"), "attributes.a"},
		{one("a", "\xc3"), "attributes.a"},
	} {
		refused, ok := errors.AsType[*contract.EnvelopeError](bad.envelope.Check())
		require.True(t, ok, "%+v", bad.envelope)
		require.Equal(t, bad.field, refused.Field)
		require.True(t, strings.HasPrefix(refused.Detail, "must "), refused.Detail)
	}
}

func TestEnvelopeSize(t *testing.T) {
	t.Parallel()
	require.Zero(t, (*contract.Envelope)(nil).Size())
	require.True(t, (*contract.Envelope)(nil).IsZero())
	e := contract.Envelope{Type: "ab", Key: "é", Attributes: map[string]string{"n": "", "mm": "xyz"}}
	require.Equal(t, 2+2+1+2+3, e.Size())
	require.False(t, e.IsZero())
}
