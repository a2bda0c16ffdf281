package rate

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func golden(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", file))
	require.NoError(t, err)
	b, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	require.NoError(t, err)
	return b
}

// Instances of two versions lend to each other during an upgrade: the bytes of version 1 stay as they are, and what a later version
// adds behind them does no harm.
func TestGoldenMessages(t *testing.T) {
	t.Parallel()
	asks := []ask{
		{tenant: uuid.MustParse("6f1c2b1e-5a59-4a1b-9f5e-2f4f0e3f7a11"), kind: Messages, need: 1, want: 300},
		{tenant: uuid.MustParse("00000000-0000-4000-8000-000000000001"), kind: Bytes, need: 1 << 20, want: 1 << 40},
	}
	grants := []grant{{status: lent, tokens: 250, level: 0, wait: 3 * time.Millisecond}, {status: unserved}}
	require.Equal(t, golden(t, "request.hex"), encodeRequest("ingest-1", asks))
	require.Equal(t, golden(t, "answer.hex"), encodeAnswer(grants))

	from, decoded, err := decodeRequest(append(golden(t, "request.hex"), "and more"...))
	require.NoError(t, err)
	require.Equal(t, "ingest-1", from)
	require.Equal(t, asks, decoded)
	answer, err := decodeAnswer(append(golden(t, "answer.hex"), "and more"...), 2)
	require.NoError(t, err)
	require.Equal(t, grants, answer)
	_, err = decodeAnswer(golden(t, "answer.hex"), 3)
	require.ErrorIs(t, err, errMalformed)
}

// A message of another version, or of anybody who can reach the subject, is read or refused: nothing else.
func TestMalformedMessages(t *testing.T) {
	t.Parallel()
	whole := golden(t, "request.hex")
	for n := range whole {
		_, _, err := decodeRequest(whole[:n])
		require.ErrorIs(t, err, errMalformed)
	}
	another := append([]byte{2}, whole[1:]...)
	_, _, err := decodeRequest(another)
	require.ErrorIs(t, err, errMalformed)
	many := append([]byte{version, 1, 'x'}, 0xff, 0xff, 0xff, 0xff, 0x7f)
	_, _, err = decodeRequest(many)
	require.ErrorIs(t, err, errMalformed)
	rapid.Check(t, func(rt *rapid.T) {
		b := rapid.SliceOf(rapid.Byte()).Draw(rt, "message")
		if rapid.Bool().Draw(rt, "resembling") {
			b = append([]byte{version, 1, 'x', 1}, b...)
		}
		if _, asks, err := decodeRequest(b); err == nil {
			for _, a := range asks {
				require.GreaterOrEqual(rt, a.need, int64(0))
				require.GreaterOrEqual(rt, a.want, int64(0))
			}
		}
		if grants, err := decodeAnswer(b, 1); err == nil {
			require.GreaterOrEqual(rt, grants[0].tokens, int64(0))
			require.GreaterOrEqual(rt, grants[0].wait, time.Duration(0))
		}
	})
}
