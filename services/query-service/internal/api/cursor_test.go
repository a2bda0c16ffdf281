package api

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/services/query-service/internal/store"
)

// Clients keep cursors: what was given out by an earlier version must stay good.
func TestCursorStaysTheSame(t *testing.T) {
	tenant := uuid.MustParse("0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11")
	behind := &store.Position{Epoch: 2, Xid: 123_456_789_012, Ord: 77}
	require.Equal(t, "AQEBAZejwo8OfMGdOV0qPw96EQAAAAIAAAAcvpkaFAAAAE2oVNRt", encodeCursor(tenant, store.Ascending, behind))
	require.Equal(t, "AQIAAZejwo8OfMGdOV0qPw96EQAAAAAAAAAAAAAAAAAAAADq4xUX", encodeCursor(tenant, store.Descending, nil))
}

func TestCursorComesBack(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		tenant := uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(r, "tenant"))
		order := rapid.SampledFrom([]store.Order{store.Ascending, store.Descending}).Draw(r, "order")
		var behind *store.Position
		if rapid.Bool().Draw(r, "behind a message") {
			behind = &store.Position{Epoch: rapid.Int32().Draw(r, "epoch"), Xid: rapid.Uint64Max(math.MaxInt64).Draw(r, "xid"), Ord: rapid.Int32().Draw(r, "ord")}
		}
		text := encodeCursor(tenant, order, behind)
		got, err := decodeCursor(text, tenant, order)
		require.NoError(r, err)
		require.Equal(r, behind, got)

		_, err = decodeCursor(text, uuid.New(), order)
		requireBadCursor(r, err)
		_, err = decodeCursor(text, tenant, store.Ascending+store.Descending-order)
		requireBadCursor(r, err)
		for name, spoilt := range map[string]string{
			"cut":            text[:rapid.IntRange(0, len(text)-1).Draw(r, "cut")],
			"padded":         text + "=",
			"with a break":   text[:10] + "\n" + text[10:],
			"break in place": text[:10] + "\n" + text[11:],
			"one wrong":      swap(text, rapid.IntRange(0, len(text)-1).Draw(r, "wrong")),
			"two at once":    text + text,
		} {
			_, err = decodeCursor(spoilt, tenant, order)
			requireBadCursor(r, err, name)
		}
	})
}

// swap replaces a character by another of the alphabet.
func swap(text string, at int) string {
	other := "A"
	if text[at] == 'A' {
		other = "_"
	}
	return text[:at] + other + text[at+1:]
}

func requireBadCursor(t require.TestingT, err error, context ...any) {
	p, ok := problem.As(err)
	require.True(t, ok, context...)
	require.Equal(t, "bad_cursor", p.Code, context...)
	require.Equal(t, 400, p.Status)
}

// Made-up cursors with a right checksum: they must be refused or be the one way to write what they say.
func FuzzCursor(f *testing.F) {
	tenant := uuid.MustParse("0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11")
	f.Add(encodeCursor(tenant, store.Ascending, nil))
	f.Add(encodeCursor(tenant, store.Descending, &store.Position{Epoch: 1, Xid: math.MaxInt64, Ord: math.MaxInt32}))
	f.Add(encodeCursor(tenant, store.Ascending, &store.Position{Epoch: -1, Xid: math.MaxUint64, Ord: -1}))
	f.Add("")
	f.Add(strings.Repeat("\n", 52))
	f.Fuzz(func(t *testing.T, text string) {
		for _, candidate := range []string{text, remade(text)} {
			for _, order := range []store.Order{store.Ascending, store.Descending} {
				behind, err := decodeCursor(candidate, tenant, order)
				if err != nil {
					requireBadCursor(t, err)
					continue
				}
				require.Equal(t, candidate, encodeCursor(tenant, order, behind))
			}
		}
	})
}

// remade is what text says with the version and the checksum that it should have, so that the fuzzer gets past them.
func remade(text string) string {
	raw, _ := base64.RawURLEncoding.DecodeString(text) // what could be read is enough
	var fields cursorFields
	if len(raw) > 0 {
		_, _ = binary.Decode(raw[1:], binary.BigEndian, &fields) // the same
	}
	return cursorFormat().Encode(fields)
}
