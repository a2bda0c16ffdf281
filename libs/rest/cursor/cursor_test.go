package cursor_test

import (
	"math"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest/cursor"
)

// fields are of every kind that a list has.
type fields struct {
	Order  byte
	Behind bool
	Tenant uuid.UUID
	Place  struct {
		Epoch int32
		Xid   uint64
	}
	Micros int64
}

func checked() cursor.Format[fields]   { return cursor.Format[fields]{Version: 3} }
func unchecked() cursor.Format[fields] { return cursor.Format[fields]{Version: 3, Unchecked: true} }

func sample() fields {
	f := fields{Order: 2, Behind: true, Tenant: uuid.MustParse("0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11"), Micros: -1}
	f.Place.Epoch, f.Place.Xid = -2, math.MaxUint64
	return f
}

// Clients keep cursors: one that was given out by an earlier version must stay good.
func TestTheTextStaysTheSame(t *testing.T) {
	require.Equal(t, "AwIBAZejwo8OfMGdOV0qPw96Ef____7_____________________O0wuoA", checked().Encode(sample()))
	require.Equal(t, "AwIBAZejwo8OfMGdOV0qPw96Ef____7_____________________", unchecked().Encode(sample()))
}

func TestACursorComesBack(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		want := fields{
			Order: rapid.Byte().Draw(r, "order"), Behind: rapid.Bool().Draw(r, "behind"),
			Tenant: uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(r, "tenant")), Micros: rapid.Int64().Draw(r, "micros"),
		}
		want.Place.Epoch, want.Place.Xid = rapid.Int32().Draw(r, "epoch"), rapid.Uint64().Draw(r, "xid")
		for _, format := range []cursor.Format[fields]{checked(), unchecked()} {
			got, err := format.Decode(format.Encode(want))
			require.NoError(r, err)
			require.Equal(r, want, got)
		}
	})
}

// A reader with half a cursor, or with two mixed up, would be somewhere else in the list, and would not know.
func TestOtherTextsAreRefused(t *testing.T) {
	text, bare := checked().Encode(sample()), unchecked().Encode(sample())
	for i := range text {
		for _, other := range "A_-x" {
			if rune(text[i]) != other {
				requireRefused(t, checked(), text[:i]+string(other)+text[i+1:])
			}
		}
		requireRefused(t, checked(), text[:i])
	}
	for name, refused := range map[string]string{
		"empty":             "",
		"padded":            text + "=",
		"twice":             text + text,
		"a line break more": text[:10] + "\n" + text[10:],
		"standard alphabet": "++++",
		"no base64":         "not a cursor!",
		"without checksum":  bare,
		"other version":     cursor.Format[fields]{Version: 4}.Encode(sample()),
	} {
		t.Run(name, func(t *testing.T) { requireRefused(t, checked(), refused) })
	}
	for name, refused := range map[string]string{
		"with checksum":       text,
		"a line break more":   bare[:10] + "\r\n" + bare[10:],
		"true that is not 1":  "AwIC" + bare[4:],
		"other version":       "BAIB" + bare[4:],
		"shorter":             bare[:len(bare)-4],
		"longer":              bare + "AAAA",
		"half a byte shorter": bare[:len(bare)-1],
	} {
		t.Run("unchecked/"+name, func(t *testing.T) { requireRefused(t, unchecked(), refused) })
	}
}

// Whatever a client sends is the one text of a cursor, or 400.
func FuzzDecode(f *testing.F) {
	f.Add("")
	f.Add("A")
	f.Add(checked().Encode(sample()))
	f.Add(unchecked().Encode(sample()))
	f.Add(unchecked().Encode(fields{})[:44] + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, format := range []cursor.Format[fields]{checked(), unchecked()} {
			got, err := format.Decode(text)
			if err != nil {
				requireRefused(t, format, text)
				continue
			}
			require.Equal(t, text, format.Encode(got))
		}
	})
}

func requireRefused(t *testing.T, format cursor.Format[fields], text string) {
	t.Helper()
	got, err := format.Decode(text)
	require.Zero(t, got, text)
	p, ok := problem.As(err)
	require.True(t, ok, text)
	require.Equal(t, 400, p.Status)
	require.Equal(t, "bad_cursor", p.Code)
	require.Len(t, p.Errors, 1)
	require.Equal(t, "cursor", p.Errors[0].Field)
}

func TestTimes(t *testing.T) {
	for name, test := range map[string]struct {
		micros int64
		want   time.Time
		ok     bool
	}{
		"none":          {0, time.Time{}, true},
		"first":         {1, time.Date(1970, 1, 1, 0, 0, 0, 1000, time.UTC), true},
		"a microsecond": {1769860800123456, time.Date(2026, 1, 31, 12, 0, 0, 123456000, time.UTC), true},
		"last":          {253402300799999999, time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC), true},
	} {
		got, ok := cursor.Time(test.micros)
		require.Equal(t, test.ok, ok, name)
		require.Equal(t, test.want, got, name)
		require.Equal(t, test.micros, cursor.Micros(got), name)
	}
	for _, micros := range []int64{-1, math.MinInt64, math.MaxInt64, 253402300800000000, -62135596800000000} {
		_, ok := cursor.Time(micros)
		require.False(t, ok, micros)
	}
	require.Equal(t, int64(1), cursor.Micros(time.Unix(0, 1999).In(time.FixedZone("", 3600))), "cut to microseconds")
}
