// Package certificate makes certificates for tests: an authority, and what it issues.
package certificate

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Authority signs certificates of its own.
type Authority struct {
	// File is its certificate in PEM.
	File string
	// Pool is its certificate alone.
	Pool *x509.CertPool

	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes an authority. Its file goes with the test.
func NewAuthority(tb testing.TB) *Authority {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(tb, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of a test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(tb, err)
	a := &Authority{File: filepath.Join(tb.TempDir(), "ca.pem"), Pool: x509.NewCertPool(), key: key}
	a.cert, err = x509.ParseCertificate(der)
	require.NoError(tb, err)
	a.Pool.AddCert(a.cert)
	require.NoError(tb, os.WriteFile(a.File, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return a
}

// Issue makes a certificate for a server or a client, whose names are host names or IP addresses. It is good for an hour.
func (a *Authority) Issue(tb testing.TB, names ...string) tls.Certificate {
	tb.Helper()
	return a.issue(tb, time.Now().Add(time.Hour), names)
}

// IssueExpired makes a certificate that has expired.
func (a *Authority) IssueExpired(tb testing.TB, names ...string) tls.Certificate {
	tb.Helper()
	return a.issue(tb, time.Now().Add(-time.Hour), names)
}

func (a *Authority) issue(tb testing.TB, end time.Time, names []string) tls.Certificate {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(tb, err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	require.NoError(tb, err)
	template := &x509.Certificate{
		SerialNumber: serial, NotBefore: end.Add(-2 * time.Hour), NotAfter: end, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
			continue
		}
		template.DNSNames = append(template.DNSNames, name)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	require.NoError(tb, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// PEM is a certificate, and its key, in the form of files.
func PEM(tb testing.TB, pair tls.Certificate) (cert, key []byte) {
	tb.Helper()
	private, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	require.NoError(tb, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}

// Files writes a certificate and its key into files of a new folder, which goes with the test.
func Files(tb testing.TB, pair tls.Certificate) (certFile, keyFile string) {
	tb.Helper()
	dir := tb.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	cert, key := PEM(tb, pair)
	require.NoError(tb, os.WriteFile(certFile, cert, 0o600))
	require.NoError(tb, os.WriteFile(keyFile, key, 0o600))
	return certFile, keyFile
}
