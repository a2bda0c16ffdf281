package certificate_test

import (
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/srireskianita/multi-tenant-messaging/libs/certificate"
	made "github.com/srireskianita/multi-tenant-messaging/testkit/certificate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server serves nothing but handshakes with the certificate in files.
type server struct {
	addr, certFile, keyFile string
	logs                    *observer.ObservedLogs
}

func serve(t *testing.T, pair tls.Certificate) *server {
	t.Helper()
	s := &server{}
	s.certFile, s.keyFile = made.Files(t, pair)
	core, logs := observer.New(zap.ErrorLevel)
	s.logs = logs
	plain, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ln, err := certificate.Listener(plain, s.certFile, s.keyFile, zap.New(core))
	require.NoError(t, err)
	s.addr = ln.Addr().String()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			if secured, ok := conn.(*tls.Conn); ok {
				_ = secured.HandshakeContext(t.Context()) // the client tells how it went
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		require.NoError(t, ln.Close())
		<-done
	})
	return s
}

// handshake returns the certificate that a client is given.
func (s *server) handshake(t *testing.T, cfg *tls.Config) (*tls.ConnectionState, error) {
	t.Helper()
	conn, err := (&tls.Dialer{Config: cfg}).DialContext(t.Context(), "tcp", s.addr)
	if err != nil {
		return nil, err
	}
	secured, ok := conn.(*tls.Conn)
	require.True(t, ok)
	state := secured.ConnectionState()
	return &state, conn.Close()
}

// replace writes another certificate; the times of the files are set, as two writes may be closer than a clock's tick.
func (s *server) replace(t *testing.T, cert, key []byte) {
	t.Helper()
	later := time.Now().Add(time.Minute)
	for file, content := range map[string][]byte{s.certFile: cert, s.keyFile: key} {
		if content != nil {
			require.NoError(t, os.WriteFile(file, content, 0o600))
			require.NoError(t, os.Chtimes(file, later, later))
		}
	}
}

// Certificates live for weeks now; a service that has to be restarted for each would be stopped when nobody thinks of it.
func TestCertificateIsReplaced(t *testing.T) {
	authority := made.NewAuthority(t)
	first, second := authority.Issue(t, "a.example"), authority.Issue(t, "a.example")
	s := serve(t, first)
	client := &tls.Config{RootCAs: authority.Pool, ServerName: "a.example", MinVersion: tls.VersionTLS12}
	given := func() []byte {
		state, err := s.handshake(t, client)
		require.NoError(t, err)
		return state.PeerCertificates[0].Raw
	}
	require.Equal(t, first.Certificate[0], given())

	cert, key := made.PEM(t, second)
	s.replace(t, cert, nil)
	require.Equal(t, first.Certificate[0], given(), "without its key the new one does not count")
	require.NotZero(t, s.logs.Len())
	s.replace(t, nil, key)
	require.Equal(t, second.Certificate[0], given())

	s.replace(t, []byte("nothing"), nil)
	require.Equal(t, second.Certificate[0], given())
	require.NoError(t, os.Remove(s.keyFile))
	require.Equal(t, second.Certificate[0], given())
	for _, entry := range s.logs.All() {
		require.NotContains(t, entry.ContextMap()["error"], "PRIVATE KEY")
	}
}

// A service that starts without the encryption that it was told to have is worse than one that does not start.
func TestPairsThatAreNone(t *testing.T) {
	authority := made.NewAuthority(t)
	cert, key := made.Files(t, authority.Issue(t, "a.example"))
	_, other := made.Files(t, authority.Issue(t, "a.example"))
	missing := filepath.Join(t.TempDir(), "none")
	for name, files := range map[string][2]string{
		"another key": {cert, other}, "no certificate": {missing, key}, "no key": {cert, missing}, "exchanged": {key, cert},
		"a certificate alone": {cert, ""}, "a key alone": {"", key},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := certificate.Listener(nil, files[0], files[1], zap.NewNop())
			require.ErrorContains(t, err, "read the certificate")
		})
	}
}

func TestVersionsOfTLS(t *testing.T) {
	authority := made.NewAuthority(t)
	s := serve(t, authority.Issue(t, "a.example"))
	for version, good := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		_, err := s.handshake(t, &tls.Config{RootCAs: authority.Pool, ServerName: "a.example", MinVersion: version, MaxVersion: version})
		require.Equal(t, good, err == nil, "%s: %v", tls.VersionName(version), err)
	}
}

// A health check that takes any certificate would call a stranger on the port healthy.
func TestPinned(t *testing.T) {
	authority := made.NewAuthority(t)
	s := serve(t, authority.Issue(t, "a.example"))
	_, err := s.handshake(t, certificate.Pinned(s.certFile))
	require.NoError(t, err, "whatever its name")
	other, _ := made.Files(t, authority.Issue(t, "a.example"))
	_, err = s.handshake(t, certificate.Pinned(other))
	require.ErrorContains(t, err, "not the one in the file")
	_, err = s.handshake(t, certificate.Pinned(filepath.Join(t.TempDir(), "none")))
	require.ErrorContains(t, err, "no such file")
}
