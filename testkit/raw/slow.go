package raw

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"
)

// dripPause is how long a slow client waits between two bytes.
const dripPause = 5 * time.Millisecond

// Slow is a client that sends what is at addr as slowly as it can: nothing at all, a header and a body that never end, and with TLS
// half a handshake. Each is a subtest, and has to be given up by the server, whose timeouts should be short for that. The path has
// to accept a POST, or to refuse one. secured is nil for a listener without TLS.
func Slow(t *testing.T, addr, path string, secured *tls.Config) {
	t.Helper()
	forms := map[string]string{
		"nothing":                "",
		"a header that drips":    "POST " + path + " HTTP/1.1\r\nHost: x\r\nX: ",
		"lines that drip":        "POST " + path + " HTTP/1.1\r\nHost: x\r\n",
		"a request line":         "P",
		"a body that drips":      "POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n",
		"a chunk that drips":     "POST " + path + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n",
		"the line of a chunk":    "POST " + path + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
		"a second, after a good": "GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\nGET " + path + " HTTP/1.1\r\nX: ",
	}
	for name, start := range forms {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, addr)
			if secured != nil {
				conn = tls.Client(conn, secured)
			}
			dripping(t, conn, start, name != "nothing")
		})
	}
	if secured != nil {
		for name, start := range map[string]string{"half a handshake": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "no handshake": ""} {
			t.Run(name, func(t *testing.T) { dripping(t, dial(t, addr), start, start != "") })
		}
	}
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// dripping sends start and then, if it drips, one byte after the other until the server has closed the connection.
func dripping(t *testing.T, conn net.Conn, start string, drips bool) {
	t.Helper()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_, _ = io.Copy(io.Discard, conn)
	}()
	give := time.After(answerTimeout)
	tick := time.NewTicker(dripPause)
	defer tick.Stop()
	// What the server says meanwhile, and with which error the connection ends, is not what is tested.
	_, err := io.WriteString(conn, start)
	for {
		select {
		case <-closed:
			return
		case <-give:
			_ = conn.Close()
			<-closed
			t.Fatal("the server still waits")
		case <-tick.C:
			if drips && err == nil {
				_, err = io.WriteString(conn, "a")
			}
		}
	}
}
