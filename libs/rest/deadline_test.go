package rest_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
)

// A request that takes its time to the end is cut off without an answer.
func TestWithMarginEndsBeforeTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		request, done := context.WithTimeout(t.Context(), 20*time.Second)
		defer done()
		ctx, cancel := rest.WithMargin(request)
		defer cancel()
		began := time.Now()
		<-ctx.Done()
		require.Equal(t, 19*time.Second, time.Since(began))
		require.Equal(t, context.DeadlineExceeded, ctx.Err())
		require.NoError(t, request.Err(), "there is time to say so")
	})
}

func TestWithMarginEndsWithTheRequest(t *testing.T) {
	request, done := context.WithCancel(t.Context())
	ctx, cancel := rest.WithMargin(request)
	defer cancel()
	_, limited := ctx.Deadline()
	require.False(t, limited)
	require.NoError(t, ctx.Err())
	done()
	require.Equal(t, context.Canceled, ctx.Err())
}
