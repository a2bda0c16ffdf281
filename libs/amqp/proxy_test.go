package rabbitmq_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// proxy stands between a client and the broker and does to them what networks and alarms do. It understands frames,
// so that it can insert and drop whole ones.
type proxy struct {
	t        *testing.T
	listener net.Listener
	target   string
	work     sync.WaitGroup

	mu       sync.Mutex
	cond     *sync.Cond
	conns    []net.Conn
	stalled  bool // what clients send is not read
	deaf     bool // what the broker sends is not read
	dropAcks bool // basic.ack of the broker is swallowed
	// silence swallows the next basic.ack, and from then on those of its channel, which is silent.
	silence bool
	silent  []byte
	// The same with channel.close-ok and basic.consume-ok.
	dropCloses, dropConsumes bool
	insert                   []byte // to be sent to clients at the next boundary of frames
	closed                   bool
}

// newProxy returns a proxy for the broker at amqpURL and the URL under which it is reached.
func newProxy(t *testing.T, amqpURL string) (*proxy, string) {
	t.Helper()
	p, u := startProxy(t, amqpURL, nil)
	return p, u.String()
}

// newTLSProxy is the address of a proxy that clients reach over TLS.
func newTLSProxy(t *testing.T, amqpURL string, secured *tls.Config) *url.URL {
	t.Helper()
	_, u := startProxy(t, amqpURL, secured)
	u.Scheme = "amqps"
	return u
}

func startProxy(t *testing.T, amqpURL string, secured *tls.Config) (*proxy, *url.URL) {
	t.Helper()
	u, err := url.Parse(amqpURL)
	require.NoError(t, err)
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	if secured != nil {
		listener = tls.NewListener(listener, secured)
	}
	p := &proxy{t: t, listener: listener, target: u.Host}
	p.cond = sync.NewCond(&p.mu)
	p.work.Go(p.accept)
	t.Cleanup(p.close)
	u.Host = listener.Addr().String()
	return p, u
}

func (p *proxy) set(change func(p *proxy)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
	p.cond.Broadcast()
}

// cut closes all connections through the proxy.
func (p *proxy) cut() {
	p.set(func(p *proxy) {
		for _, c := range p.conns {
			_ = c.Close()
		}
		p.conns = nil
	})
}

func (p *proxy) close() {
	_ = p.listener.Close()
	p.set(func(p *proxy) { p.closed = true })
	p.cut()
	p.work.Wait()
}

func (p *proxy) accept() {
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
		p.set(func(p *proxy) { p.conns = append(p.conns, client, server) })
		p.work.Go(func() { p.up(server, client) })
		p.work.Go(func() { p.down(client, server) })
	}
}

// up copies what the client sends.
func (p *proxy) up(server, client net.Conn) {
	defer func() { _ = server.Close() }()
	buf := make([]byte, 32<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		for p.stalled && !p.closed {
			p.cond.Wait()
		}
		p.mu.Unlock()
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// down copies the broker's frames.
func (p *proxy) down(client, server net.Conn) {
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
		for p.deaf && !p.closed {
			p.cond.Wait()
		}
		insert := p.insert
		p.insert = nil
		ack := isMethod(frame, 60, 80)
		if ack && p.silence {
			p.silence, p.silent = false, frame[1:3]
		}
		drop := ack && (p.dropAcks || bytes.Equal(frame[1:3], p.silent)) ||
			p.dropCloses && isMethod(frame, 20, 41) || p.dropConsumes && isMethod(frame, 60, 21)
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

// connectionBlocked is the frame with which a broker announces an alarm.
func connectionBlocked(reason string) []byte {
	payload := []byte{0, 10, 0, 60, byte(len(reason))}
	payload = append(payload, reason...)
	return frameOf(payload)
}

func connectionUnblocked() []byte { return frameOf([]byte{0, 10, 0, 61}) }

func frameOf(payload []byte) []byte {
	frame := []byte{1, 0, 0}
	frame = binary.BigEndian.AppendUint32(frame, uint32(len(payload)))
	frame = append(frame, payload...)
	return append(frame, 0xCE)
}
