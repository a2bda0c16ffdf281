package bisect_test

import (
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/bisect"
)

// Whatever is refused, all the rest is stored, once, and in few statements.
func TestOnlyTheBadItemsAreRefused(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(1, 1000).Draw(r, "n")
		bad := rapid.SliceOfNDistinct(rapid.IntRange(0, n-1), 0, min(n, 20), rapid.ID[int]).Draw(r, "bad")
		slices.Sort(bad)
		var stored, refused []int
		tries := 0
		err := bisect.Range(0, n, func(from, to int) error {
			tries++
			for i := from; i < to; i++ {
				if slices.Contains(bad, i) {
					return &pgconn.PgError{Code: "22P05"}
				}
			}
			for i := from; i < to; i++ {
				stored = append(stored, i)
			}
			return nil
		}, func(i int, err error) error {
			require.ErrorAs(r, err, new(*pgconn.PgError))
			refused = append(refused, i)
			return nil
		})
		require.NoError(r, err)
		require.Equal(r, bad, append([]int{}, refused...), "in their order")
		require.Len(r, stored, n-len(bad))
		require.True(r, slices.IsSorted(stored), "in their order")
		const halvings = 10 // log2(1000), rounded up
		require.LessOrEqual(r, tries, len(bad)*(2*halvings)+1)
	})
}

// What is nobody's fault costs no item anything: it must not be taken for refused one by one.
func TestAnOutageEndsIt(t *testing.T) {
	var tried [][2]int
	err := bisect.Range(0, 8, func(from, to int) error {
		tried = append(tried, [2]int{from, to})
		if from == 0 && to > 2 {
			return &pgconn.PgError{Code: "P0001"}
		}
		return io.ErrUnexpectedEOF
	}, func(int, error) error {
		t.Fatal("nothing was refused")
		return nil
	})
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Equal(t, [][2]int{{0, 8}, {0, 4}, {0, 2}}, tried)
}

func TestAFailureToDisposeEndsIt(t *testing.T) {
	full := errors.New("full")
	calls := 0
	err := bisect.Range(3, 7, func(int, int) error { return &pgconn.PgError{Code: "22P05"} }, func(i int, _ error) error {
		calls++
		require.Equal(t, 3, i)
		return full
	})
	require.Equal(t, full, err)
	require.Equal(t, 1, calls)
}
