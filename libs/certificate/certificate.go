// Package certificate serves TLS with a certificate from files, which may be replaced while it is served.
//
// Files are looked at in every handshake, which costs two system calls beside a signature. A pair that cannot be read, or does not
// fit together, because one of its files has been replaced and the other not yet, does not count: the last good one does.
package certificate

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
)

// errOther says that a server has another certificate than the one in the file.
var errOther = errors.New("the certificate of the server is not the one in the file")

// Listener returns ln with TLS 1.2 or newer in front of it, or ln itself if neither file is given. An error means that the files
// are no good pair. The protocol is HTTP/1.1; a handshake is a part of the first read of a connection, and so bound by its deadline.
func Listener(ln net.Listener, certFile, keyFile string, log *zap.Logger) (net.Listener, error) {
	if certFile == "" && keyFile == "" {
		return ln, nil
	}
	p := &pair{certFile: certFile, keyFile: keyFile, log: log}
	if err := p.refresh(); err != nil {
		return nil, err
	}
	return tls.NewListener(ln, &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.current(), nil },
	}), nil
}

// Pinned is for a client on the same machine, which has the file: the server must have its certificate, whatever names are in it.
func Pinned(certFile string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection compares the whole certificate instead of its name
		VerifyConnection: func(state tls.ConnectionState) error {
			content, err := os.ReadFile(certFile) //nolint:gosec // a setting of the operator
			if err != nil {
				return fmt.Errorf("read the certificate: %w", err)
			}
			block, _ := pem.Decode(content) // the server's own comes first in the file, and in the handshake
			if block == nil || !bytes.Equal(block.Bytes, state.PeerCertificates[0].Raw) {
				return errOther
			}
			return nil
		},
	}
}

// pair is a certificate and its key in files.
type pair struct {
	certFile, keyFile string
	log               *zap.Logger

	mu   sync.Mutex
	seen [2]stamp         // of the files when they were read last, good or not
	last *tls.Certificate // the last good one
}

// stamp tells whether a file has changed.
type stamp struct {
	modified time.Time
	size     int64
}

// current is the certificate for a handshake.
func (p *pair) current() *tls.Certificate {
	if err := p.refresh(); err != nil {
		p.log.Error("the new certificate is not used, the last one is", zap.Error(err))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// refresh reads the files if they have changed.
func (p *pair) refresh() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var now [2]stamp
	for i, file := range []string{p.certFile, p.keyFile} {
		if info, err := os.Stat(file); err == nil {
			now[i] = stamp{info.ModTime(), info.Size()}
		}
	}
	if now == p.seen && p.last != nil {
		return nil
	}
	p.seen = now
	cert, err := tls.LoadX509KeyPair(p.certFile, p.keyFile)
	if err != nil {
		return fmt.Errorf("read the certificate %s and its key %s: %w", p.certFile, p.keyFile, err)
	}
	p.last = &cert
	return nil
}
