package rabbitmq

import (
	"net"
	"syscall"
	"time"
)

// lowWaterSocket is a socket whose reader may prefer much later to little at once.
type lowWaterSocket struct {
	net.Conn
	raw syscall.RawConn // nil where what is read from is not the socket itself, as inside of TLS
	low int             // the low-water mark that is set
}

func newLowWaterSocket(conn net.Conn) *lowWaterSocket {
	s := &lowWaterSocket{Conn: conn, low: 1}
	if own, ok := conn.(syscall.Conn); ok {
		if raw, err := own.SyscallConn(); err == nil {
			s.raw = raw
		}
	}
	return s
}

// readNow waits until there is something.
func (s *lowWaterSocket) readNow(p []byte) (int, error) {
	s.setLow(1)
	return s.Read(p)
}

// readLater waits for [readPause] and returns what is there then, which may be nothing; what is wrong shows when it is read
// from the next time. Until then a few bytes wake nobody: Go has every socket watched all the time, so that a goroutine that
// sleeps alone would not spare the process from being woken.
//
// Inside of TLS it does nothing: a read there is one record, of a message or two, and a pause for each would hold them up.
func (s *lowWaterSocket) readLater(p []byte) (n int) {
	if s.raw == nil {
		return 0
	}
	s.setLow(readMost)
	time.Sleep(readPause) //nolint:forbidigo // far shorter than a read may take, which is not cancelled either but by closing the socket
	err := s.raw.Read(func(fd uintptr) (done bool) {
		n = readSocket(fd, p)
		return true // whatever it was: this is not the time to wait
	})
	if err != nil {
		return 0
	}
	return max(n, 0)
}

// setLow sets from how many bytes on somebody is woken. A socket that cannot do that wakes as ever.
func (s *lowWaterSocket) setLow(n int) {
	if s.raw == nil || s.low == n {
		return
	}
	s.low = n
	_ = s.raw.Control(func(fd uintptr) { setLowWater(fd, n) })
}
