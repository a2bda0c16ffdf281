package conn

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/wire"
)

const (
	// streamHighWater is how many bytes may wait for the socket before publishers wait, too. It is a soft limit: each
	// publishing channel may exceed it by one message.
	streamHighWater = 1 << 20
	// streamKeep is the largest buffer that is kept for reuse.
	streamKeep = 4 << 20
	// streamStall is how long the socket may take no byte at all before the connection is given up. A dead peer is found
	// earlier, by its missing heartbeats; this is for one that sends and no longer reads.
	streamStall = 30 * time.Second
	// tlsRecord is the most that fits into one record of TLS.
	tlsRecord = 16 << 10
	// streamLinger is how long a closed stream may still write what was handed over before, as a rule connection.close-ok.
	streamLinger = time.Second
)

// stream is a connection whose Write never waits for the network: it appends to a buffer that a goroutine of the stream
// writes to the socket. amqp091-go writes under locks that publishing, acknowledging, heartbeats and closing share; with
// the network inside them, one stalled socket would hang all of these without regard to any context. Whoever produces
// much asks [stream.ready] first.
type stream struct {
	net.Conn          // the socket, or TLS on it
	socket   net.Conn // is what ends everything at once: TLS says goodbye first, and may wait for that
	reader   *wire.Reader

	mu      sync.Mutex
	pending []byte        // guarded by mu: handed over, not yet taken by the writer
	room    chan struct{} // guarded by mu: closed when pending is low again; nil when nobody waits
	err     error         // guarded by mu: why nothing can be written any more
	closing bool          // guarded by mu: Close was called

	wake chan struct{} // one element: a wake-up that is already on its way is enough
	done chan struct{} // closed when the writer has ended
}

// newStream returns the stream on conn, which is socket or TLS on it.
func newStream(conn, socket net.Conn) *stream {
	s := &stream{Conn: conn, socket: socket, reader: wire.NewReader(conn), wake: make(chan struct{}, 1), done: make(chan struct{})}
	go s.write()
	return s
}

// Read is for one goroutine at a time.
func (s *stream) Read(p []byte) (int, error) { return s.reader.Read(p) }

// Write takes over all of p and returns at once. An error is that of an earlier write or of a closed stream.
func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	if s.err == nil && s.closing {
		s.err = net.ErrClosed
	}
	if s.err != nil {
		defer s.mu.Unlock()
		return 0, s.err
	}
	s.pending = append(s.pending, p...)
	s.mu.Unlock()
	s.signal()
	return len(p), nil
}

// ready returns nil if there is room for another message, else a channel that is closed when it is worth asking again.
func (s *stream) ready() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) < streamHighWater || s.err != nil {
		return nil
	}
	if s.room == nil {
		s.room = make(chan struct{})
	}
	return s.room
}

// Close gives what is pending a last chance and returns without waiting for it.
func (s *stream) Close() error {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	// This also ends a write that is stuck: it must not outlive the stream for longer than that.
	err := s.SetWriteDeadline(time.Now().Add(streamLinger))
	s.signal()
	return err
}

// abort ends the stream at once, for a peer that is no longer trusted to answer.
func (s *stream) abort() {
	s.fail(net.ErrClosed)
	s.signal()
}

// failure is why nothing can be written any more; nil while it can.
func (s *stream) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *stream) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// write is the goroutine of the stream.
func (s *stream) write() {
	defer close(s.done)
	var spare []byte
	for range s.wake {
		for {
			batch, closing, err := s.swap(spare[:0])
			if err != nil {
				s.fail(err)
				return
			}
			if len(batch) == 0 {
				if closing {
					s.fail(net.ErrClosed)
					return
				}
				spare = batch
				break
			}
			if err := s.flush(batch); err != nil {
				s.fail(err)
				return
			}
			spare = batch
			if cap(spare) > streamKeep {
				spare = nil
			}
		}
	}
}

// swap exchanges what is pending for an empty buffer and wakes the writers that wait for room.
func (s *stream) swap(empty []byte) (batch []byte, closing bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	batch, s.pending = s.pending, empty
	if s.room != nil {
		close(s.room)
		s.room = nil
	}
	return batch, s.closing, s.err
}

// flush writes all of p as long as the socket takes something every now and then.
func (s *stream) flush(p []byte) error {
	most := len(p)
	if s.Conn != s.socket {
		most = tlsRecord // TLS does not continue after a time limit, whatever part it has written
	}
	for len(p) > 0 {
		if err := s.armWrite(); err != nil {
			return err
		}
		n, err := s.Conn.Write(p[:min(len(p), most)])
		p = p[n:]
		if err != nil && (n == 0 || !errors.Is(err, os.ErrDeadlineExceeded)) {
			return err
		}
	}
	return nil
}

// armWrite sets the limit of the next write unless Close has already set a closer one.
func (s *stream) armWrite() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil
	}
	return s.SetWriteDeadline(time.Now().Add(streamStall))
}

// fail ends the stream: reads return, writes are refused, nobody waits for room.
func (s *stream) fail(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	if s.room != nil {
		close(s.room)
		s.room = nil
	}
	s.mu.Unlock()
	// The socket is done with; what its closing says changes nothing.
	_ = s.socket.Close()
}
