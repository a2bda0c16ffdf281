package conn

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"

	amqp "github.com/rabbitmq/amqp091-go"
)

// secure turns an amqps:// URL into the amqp:// URL that is spoken inside, and the configuration of TLS around it. The library
// would do so above [stream], which then saw nothing but secrets. For any other URL the configuration is nil.
//
// As with the library, cacertfile, certfile, keyfile and server_name_indication are parameters of the URL, the certificates
// of the system count where no others are named, and TLS is 1.2 at the least.
func secure(address string) (inside string, config *tls.Config, err error) {
	uri, err := amqp.ParseURI(address)
	if err != nil {
		return "", nil, withoutURL(err)
	}
	if uri.Scheme != "amqps" {
		return address, nil, nil
	}
	config = &tls.Config{ServerName: cmp.Or(uri.ServerName, uri.Host), MinVersion: tls.VersionTLS12}
	if uri.CACertFile != "" {
		authorities, err := os.ReadFile(uri.CACertFile)
		if err != nil {
			return "", nil, fmt.Errorf("read the certificates of cacertfile: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(authorities) {
			return "", nil, errors.New("cacertfile has no certificate")
		}
	}
	if uri.CertFile != "" && uri.KeyFile != "" {
		own, err := tls.LoadX509KeyPair(uri.CertFile, uri.KeyFile)
		if err != nil {
			return "", nil, fmt.Errorf("read the certificate of certfile and keyfile: %w", err)
		}
		config.Certificates = []tls.Certificate{own}
	}
	parsed, err := url.Parse(address)
	if err != nil {
		return "", nil, withoutURL(err)
	}
	parsed.Scheme = "amqp"
	parsed.Host = net.JoinHostPort(uri.Host, fmt.Sprint(uri.Port))
	return parsed.String(), config, nil
}

// encrypt returns TLS on socket after its handshake, or socket itself if config is nil. After an error socket is closed.
//
// The handshake comes before the library has the connection: reading and writing run side by side there, and which of
// the two errors of a failed handshake is told would be up to chance.
func encrypt(ctx context.Context, socket net.Conn, config *tls.Config) (net.Conn, error) {
	if config == nil {
		return socket, nil
	}
	conn := tls.Client(socket, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	return conn, nil
}

// withoutURL replaces an error of parsing the URL: it quotes the URL, and with it the password.
func withoutURL(err error) error {
	if _, ok := errors.AsType[*url.Error](err); ok {
		return errors.New("not a valid URL (special characters of a password must be percent-encoded)")
	}
	return err
}
