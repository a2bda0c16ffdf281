package amqptest

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
)

// Proxy stands between a client and the broker and does to them what networks and alarms do. It understands frames,
// so that it can insert and drop whole ones.
type Proxy struct {
	t        *testing.T
	listener net.Listener
	target   string
	work     sync.WaitGroup

	mu     sync.Mutex
	cond   *sync.Cond
	conns  []net.Conn
	faults Faults // guarded by mu
	silent []byte // guarded by mu: the channel that [Faults.Silence] has found
	closed bool   // guarded by mu
}

// Faults are what a proxy does to a connection.
type Faults struct {
	Stalled  bool // what clients send is not read
	Deaf     bool // what the broker sends is not read
	DropAcks bool // basic.ack of the broker is swallowed
	// Silence swallows the next basic.ack, and from then on those of its channel, which is silent.
	Silence bool
	// The same with channel.close-ok and basic.consume-ok.
	DropCloses, DropConsumes bool
	// Insert is sent to clients at the next boundary of frames.
	Insert []byte
}

// NewProxy returns a proxy, until the end of the test, for the broker at amqpURL and the URL under which it is reached.
func NewProxy(t *testing.T, amqpURL string) (*Proxy, string) {
	t.Helper()
	p, u := startProxy(t, amqpURL, nil)
	return p, u.String()
}

// NewTLSProxy is the address of a proxy that clients reach over TLS.
func NewTLSProxy(t *testing.T, amqpURL string, secured *tls.Config) *url.URL {
	t.Helper()
	_, u := startProxy(t, amqpURL, secured)
	u.Scheme = "amqps"
	return u
}

func startProxy(t *testing.T, amqpURL string, secured *tls.Config) (*Proxy, *url.URL) {
	t.Helper()
	u, err := url.Parse(amqpURL)
	if err != nil {
		t.Fatal(err)
	}
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if secured != nil {
		listener = tls.NewListener(listener, secured)
	}
	p := &Proxy{t: t, listener: listener, target: u.Host}
	p.cond = sync.NewCond(&p.mu)
	p.work.Go(p.accept)
	t.Cleanup(p.close)
	u.Host = listener.Addr().String()
	return p, u
}

// Set changes what the proxy does from now on.
func (p *Proxy) Set(change func(f *Faults)) {
	p.set(func() { change(&p.faults) })
}

func (p *Proxy) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	p.cond.Broadcast()
}

// Cut closes all connections through the proxy.
func (p *Proxy) Cut() {
	p.set(func() {
		for _, c := range p.conns {
			_ = c.Close()
		}
		p.conns = nil
	})
}

func (p *Proxy) close() {
	_ = p.listener.Close()
	p.set(func() { p.closed = true })
	p.Cut()
	p.work.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		var dialer net.Dialer
		server, err := dialer.DialContext(p.t.Context(), "tcp", p.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.set(func() { p.conns = append(p.conns, client, server) })
		p.work.Go(func() { p.up(server, client) })
		p.work.Go(func() { p.down(client, server) })
	}
}

// up copies what the client sends.
func (p *Proxy) up(server, client net.Conn) {
	defer func() { _ = server.Close() }()
	buf := make([]byte, 32<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		for p.faults.Stalled && !p.closed {
			p.cond.Wait()
		}
		p.mu.Unlock()
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// down copies the broker's frames.
func (p *Proxy) down(client, server net.Conn) {
	defer func() { _ = client.Close() }()
	frames := make(chan []byte)
	stop := make(chan struct{})
	defer close(stop)
	p.work.Go(func() {
		defer close(frames)
		for {
			frame, err := readFrame(server)
			if err != nil {
				return
			}
			select {
			case frames <- frame:
			case <-stop:
				return
			}
		}
	})
	for frame := range frames {
		p.mu.Lock()
		for p.faults.Deaf && !p.closed {
			p.cond.Wait()
		}
		insert := p.faults.Insert
		p.faults.Insert = nil
		ack := isMethod(frame, 60, 80)
		if ack && p.faults.Silence {
			p.faults.Silence, p.silent = false, frame[1:3]
		}
		drop := ack && (p.faults.DropAcks || bytes.Equal(frame[1:3], p.silent)) ||
			p.faults.DropCloses && isMethod(frame, 20, 41) || p.faults.DropConsumes && isMethod(frame, 60, 21)
		p.mu.Unlock()
		if drop {
			frame = nil
		}
		if _, err := client.Write(append(insert, frame...)); err != nil {
			_ = server.Close()
			return
		}
	}
}

func readFrame(r io.Reader) ([]byte, error) {
	head := make([]byte, 7)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	frame := make([]byte, 7+int(binary.BigEndian.Uint32(head[3:]))+1)
	copy(frame, head)
	_, err := io.ReadFull(r, frame[7:])
	return frame, err
}

func isMethod(frame []byte, class, method uint16) bool {
	return frame[0] == 1 && binary.BigEndian.Uint16(frame[7:]) == class && binary.BigEndian.Uint16(frame[9:]) == method
}

// ConnectionBlocked is the frame with which a broker announces an alarm.
func ConnectionBlocked(reason string) []byte {
	return frame(frameMethod, 0, method(connectionBlocked, Short(reason)))
}

// ConnectionUnblocked is the frame with which a broker ends an alarm.
func ConnectionUnblocked() []byte { return frame(frameMethod, 0, method(connectionUnblocked)) }

// ConnectionClose is the frame with which a broker ends a connection.
func ConnectionClose(code uint16) []byte {
	return frame(frameMethod, 0, method(connectionClose, binary.BigEndian.AppendUint16(nil, code), Short("INTERNAL_ERROR"), []byte{0, 0, 0, 0}))
}
