package wire

import (
	"net"
	"syscall"
	"time"
)

const (
	// readPause is how long the socket is left alone between two reads while deliveries come at more than highRate a second. The
	// broker sends a message or two at a time, and to be woken for each costs more than all that is done with them.
	readPause = 2 * time.Millisecond
	highRate  = 2000
	// rateWindow is how long deliveries are counted for that.
	rateWindow = 10 * time.Millisecond
	// lowWater is how many bytes wake the reader during a pause: as many as it reads at a time.
	lowWater = 256 << 10
)

// lowWaterSocket is a socket whose reader prefers much later to little at once while deliveries come at a high rate. The reader
// would work as well on the socket itself: all of that, SO_RCVLOWAT included, is in here and in the two files beside this one.
type lowWaterSocket struct {
	conn net.Conn
	raw  syscall.RawConn // nil where what is read from is not the socket itself, as inside of TLS
	low  int             // the low-water mark that is set
	rate rate
}

func newLowWaterSocket(conn net.Conn) *lowWaterSocket {
	s := &lowWaterSocket{conn: conn, low: 1}
	if own, ok := conn.(syscall.Conn); ok {
		if raw, err := own.SyscallConn(); err == nil {
			s.raw = raw
		}
	}
	return s
}

// delivered counts a delivery.
func (s *lowWaterSocket) delivered() { s.rate.count++ }

// read waits until there is something, and at a high rate until much is there, unless the last read has left something behind.
func (s *lowWaterSocket) read(p []byte, now time.Time, behind bool) (n int, err error) {
	if high := s.rate.high(now); high && !behind {
		n = s.readLater(p)
	}
	if n > 0 {
		return n, nil
	}
	return s.readNow(p)
}

// readNow waits until there is something.
func (s *lowWaterSocket) readNow(p []byte) (int, error) {
	s.setLow(1)
	return s.conn.Read(p)
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
	s.setLow(lowWater)
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

// rate tells whether deliveries come at a high rate.
type rate struct {
	count int // since began
	began time.Time
	was   bool // in the window before
}

func (r *rate) high(now time.Time) bool {
	if lasted := now.Sub(r.began); lasted >= rateWindow {
		r.was = float64(r.count) >= highRate*lasted.Seconds()
		r.count, r.began = 0, now
	}
	return r.was
}
