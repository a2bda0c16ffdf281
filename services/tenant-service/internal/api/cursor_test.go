package api

import (
	"encoding/base64"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Clients keep cursors: what was given out by an earlier version must stay good.
func TestCursorStaysTheSame(t *testing.T) {
	for text, want := range map[string]tenant.Position{
		"AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA": {},
		"AQAGSa3USxJAAZejwo8OfMGdOV0qPw96EQ": {
			CreatedAt: time.UnixMicro(1769860800123456).UTC(), ID: uuid.MustParse("0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11"),
		},
	} {
		require.Equal(t, text, encodeCursor(want))
		got, err := decodeCursor(text)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

// A cursor that comes back changed would skip tenants, or show some twice.
func TestCursorRoundTrip(t *testing.T) {
	start, err := decodeCursor(encodeCursor(tenant.Position{}))
	require.NoError(t, err)
	require.Equal(t, tenant.Position{}, start)
	rapid.Check(t, func(t *rapid.T) {
		want := tenant.Position{
			CreatedAt: time.UnixMicro(rapid.Int64Range(1, time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC).UnixMicro()).Draw(t, "micros")).UTC(),
			ID:        uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id")),
		}
		got, err := decodeCursor(encodeCursor(want))
		require.NoError(t, err)
		require.Equal(t, want, got)
	})
}

// Whatever a client sends is a position or a 400, and a position has one spelling.
func FuzzCursor(f *testing.F) {
	f.Add("")
	f.Add("hello")
	f.Add(encodeCursor(tenant.Position{}))
	f.Add(encodeCursor(tenant.Position{CreatedAt: time.UnixMicro(1769860800123456), ID: uuid.MustParse("0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11")}))
	f.Add(base64.RawURLEncoding.EncodeToString(append([]byte{1, 0x80}, make([]byte, 23)...)))
	f.Fuzz(func(t *testing.T, s string) {
		position, err := decodeCursor(s)
		if err != nil {
			p, ok := problem.As(err)
			require.True(t, ok)
			require.Equal(t, 400, p.Status)
			return
		}
		// The start of the list is also what a cursor without a time and an id says.
		require.Equal(t, s, encodeCursor(position))
	})
}
