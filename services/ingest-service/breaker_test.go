package main

import (
	"bytes"
	"encoding/binary"
	"io"
	"maps"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/consumer"
)

// breaker stands between the service and the broker. A delivery whose body contains the mark breaks its connection, as one does
// that the broker, or the client, has no way to deal with.
type breaker struct {
	t        *testing.T
	listener net.Listener
	target   string
	mark     []byte
	work     sync.WaitGroup

	mu      sync.Mutex
	conns   map[net.Conn]*broken // guarded by mu: by the side of the service
	losses  map[uuid.UUID]int    // guarded by mu: connections that were broken with a consumer of the tenant on them
	spoil   bool                 // guarded by mu: the delivery arrives without its end, in place of none
	stopped bool                 // guarded by mu
}

// broken is one connection.
type broken struct {
	server  net.Conn
	tenants map[uuid.UUID]bool // that have had a consumer on it
}

// newBreaker returns a breaker before the broker at amqpURL, and its own URL.
func newBreaker(t *testing.T, amqpURL, mark string) (*breaker, string) {
	t.Helper()
	u, err := url.Parse(amqpURL)
	require.NoError(t, err)
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b := &breaker{
		t: t, listener: listener, target: u.Host, mark: []byte(mark),
		conns: make(map[net.Conn]*broken), losses: make(map[uuid.UUID]int),
	}
	b.work.Go(b.accept)
	t.Cleanup(b.close)
	u.Host = listener.Addr().String()
	return b, u.String()
}

func (b *breaker) close() {
	_ = b.listener.Close() // the test is over
	b.mu.Lock()
	b.stopped = true
	for client, c := range b.conns {
		_, _ = client.Close(), c.server.Close()
	}
	b.mu.Unlock()
	b.work.Wait()
}

func (b *breaker) lossesOf(tenant uuid.UUID) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.losses[tenant]
}

func (b *breaker) allLosses() map[uuid.UUID]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.losses)
}

func (b *breaker) accept() {
	for {
		client, err := b.listener.Accept()
		if err != nil {
			return
		}
		var dialer net.Dialer
		server, err := dialer.DialContext(b.t.Context(), "tcp", b.target)
		if err != nil {
			_ = client.Close() // as the broker refuses
			continue
		}
		c := &broken{server: server, tenants: make(map[uuid.UUID]bool)}
		b.mu.Lock()
		b.conns[client] = c
		stopped := b.stopped
		b.mu.Unlock()
		if stopped {
			b.hangUp(client)
		}
		b.work.Go(func() { b.up(client, c) })
		b.work.Go(func() { b.down(client, c) })
	}
}

func (b *breaker) hangUp(client net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.conns[client]; c != nil {
		_, _ = client.Close(), c.server.Close()
		delete(b.conns, client)
	}
}

// up passes on what the service sends, and notes whose consumers it starts.
func (b *breaker) up(client net.Conn, c *broken) {
	defer b.hangUp(client)
	greeting := make([]byte, 8)
	if _, err := io.ReadFull(client, greeting); err != nil {
		return
	}
	if _, err := c.server.Write(greeting); err != nil {
		return
	}
	for {
		frame, err := readFrame(client)
		if err != nil {
			return
		}
		if tenant, ok := consumerIn(frame); ok {
			b.mu.Lock()
			c.tenants[tenant] = true
			b.mu.Unlock()
		}
		if _, err := c.server.Write(frame); err != nil {
			return
		}
	}
}

// down passes on what the broker sends, up to a delivery with the mark.
func (b *breaker) down(client net.Conn, c *broken) {
	defer b.hangUp(client)
	const body = 3
	for {
		frame, err := readFrame(c.server)
		if err != nil {
			return
		}
		if frame[0] == body && bytes.Contains(frame, b.mark) {
			b.mu.Lock()
			for tenant := range c.tenants {
				b.losses[tenant]++
			}
			spoil := b.spoil
			b.mu.Unlock()
			if !spoil {
				return
			}
			frame[len(frame)-1] = 0
		}
		if _, err := client.Write(frame); err != nil {
			return
		}
	}
}

func readFrame(r io.Reader) ([]byte, error) {
	head := make([]byte, 7)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	frame := make([]byte, len(head)+int(binary.BigEndian.Uint32(head[3:]))+1)
	copy(frame, head)
	_, err := io.ReadFull(r, frame[len(head):])
	return frame, err
}

// consumerIn is the tenant of which a frame of the client starts a consumer (basic.consume, class 60, method 20).
func consumerIn(frame []byte) (uuid.UUID, bool) {
	if !bytes.HasPrefix(frame[7:], []byte{0, 60, 0, 20}) {
		return uuid.Nil, false
	}
	rest := frame[7+4+2:] // behind two reserved bytes: queue and tag
	queue := int(rest[0])
	tag := string(rest[1+queue+1:][:rest[1+queue]])
	id, ours := strings.CutPrefix(tag, consumer.TagPrefix)
	if !ours || len(id) < len(uuid.Nil.String()) {
		return uuid.Nil, false
	}
	tenant, err := uuid.Parse(id[:len(uuid.Nil.String())])
	return tenant, err == nil
}
