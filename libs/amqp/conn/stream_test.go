package conn

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Everything that shares a connection would hang with a write that waits for the peer.
func TestStreamNeverWaitsForThePeer(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe() // unbuffered: a write waits for the reader
	s := newStream(near, near)
	data := bytes.Repeat([]byte("0123456789"), streamHighWater/8)
	require.Nil(t, s.ready())
	for chunk := range len(data) / 10 {
		n, err := s.Write(data[chunk*10 : chunk*10+10])
		require.NoError(t, err)
		require.Equal(t, 10, n)
	}
	full := s.ready()
	require.NotNil(t, full, "publishers are told to wait")

	got := make([]byte, len(data))
	_, err := io.ReadFull(far, got)
	require.NoError(t, err)
	require.Equal(t, data, got)
	<-full
	require.Nil(t, s.ready())
	require.NoError(t, s.Close())
	<-s.done
	_, err = s.Write([]byte("x"))
	require.Error(t, err)
}

// The last frame of a connection, such as connection.close-ok, is written before it closes.
func TestStreamWritesWhatItHasWhenItIsClosed(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	s := newStream(near, near)
	_, err := s.Write([]byte("goodbye"))
	require.NoError(t, err)
	require.NoError(t, s.Close())
	got, err := io.ReadAll(far)
	require.NoError(t, err)
	require.Equal(t, "goodbye", string(got))
	<-s.done
}

func TestStreamThatIsClosedDoesNotWaitForAPeerThatDoesNotRead(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	defer func() { require.NoError(t, far.Close()) }()
	s := newStream(near, near)
	_, err := s.Write([]byte("goodbye"))
	require.NoError(t, err)
	require.NoError(t, s.Close())
	select {
	case <-s.done:
	case <-time.After(10 * streamLinger):
		t.Fatal("the stream hangs")
	}
}

func TestStreamThatIsAbortedEndsAtOnceAndWakesWhoWaits(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	defer func() { require.NoError(t, far.Close()) }()
	s := newStream(near, near)
	for s.ready() == nil {
		_, err := s.Write(make([]byte, streamHighWater))
		require.NoError(t, err)
	}
	full := s.ready()
	s.abort()
	<-full
	<-s.done
	_, err := s.Write([]byte("x"))
	require.ErrorIs(t, err, net.ErrClosed)
}
