package rest

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// lingerTimeout and lingerBytes bound what is read from a client after it was refused.
	lingerTimeout = 3 * time.Second
	lingerBytes   = 64 << 20
)

// listener may be closed more than once: by Run, to stop accepting, and by fasthttp's Shutdown, which
// takes an error of that for a reason not to wait for the requests in flight.
type listener struct {
	net.Listener
	once sync.Once
	err  error
}

// Close closes the listener once.
func (l *listener) Close() error {
	l.once.Do(func() { l.err = l.Listener.Close() })
	return l.err
}

// Accept wraps what it accepts in a conn.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err //nolint:wrapcheck // fasthttp looks at the text
	}
	return &conn{Conn: c}, nil
}

// conn can be closed so that the client still gets the answer. A server that closes while the client is
// sending makes the kernel answer with a reset, upon which the client's kernel throws away what it has
// received: the client sees "connection reset" and not the 413. RFC 9112 section 9.6 describes the
// remedy: close for writing, read on for a while, then close.
type conn struct {
	net.Conn
	refused atomic.Bool // whatever comes behind the answer is not read
}

// Close lingers if the request was refused.
func (c *conn) Close() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok && c.refused.Swap(false) {
		if half.CloseWrite() == nil && c.SetReadDeadline(time.Now().Add(lingerTimeout)) == nil {
			_, _ = io.Copy(io.Discard, io.LimitReader(c.Conn, lingerBytes)) // ends when the client closes, or by the bounds
		}
	}
	return c.Conn.Close() //nolint:wrapcheck // a net.Conn
}
