package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// minSecret is in bytes: RFC 7518 section 3.2 demands a key of at least the hash's size.
	minSecret = 32
	// minRSA is in bits (RFC 7518 section 3.3).
	minRSA = 2048
)

// errKey is why a token does not fit the keys; the client learns no more than "signature".
var errKey = errors.New("the token does not fit the key")

// algorithm is the only one that a key is good for. That RSA keys could also do PS256, or RS512, is what
// an attacker would like to choose; nobody else needs to.
func algorithm(key any) (string, error) {
	switch key := key.(type) {
	case []byte:
		return jwt.SigningMethodHS256.Alg(), nil
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSA {
			return "", fmt.Errorf("RSA key of %d bits, at least %d are needed", bits, minRSA)
		}
		return jwt.SigningMethodRS256.Alg(), nil
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() {
			return "", fmt.Errorf("key on the curve %s, only P-256 (ES256) is supported", key.Curve.Params().Name)
		}
		return jwt.SigningMethodES256.Alg(), nil
	case ed25519.PublicKey:
		return jwt.SigningMethodEdDSA.Alg(), nil
	default:
		return "", fmt.Errorf("key of the type %T, which is not supported", key)
	}
}

// fits returns the key if the token was signed the way that the key is for. It also refuses tokens with
// "crit": RFC 7515 section 4.1.11 demands it of whoever does not know the extensions named there.
func fits(token *jwt.Token, key any) (any, error) {
	want, err := algorithm(key)
	if err != nil {
		return nil, err
	}
	if got := token.Method.Alg(); got != want {
		return nil, fmt.Errorf("%w: algorithm %s, not %s", errKey, got, want)
	}
	if _, ok := token.Header["crit"]; ok {
		return nil, fmt.Errorf("%w: critical header fields", errKey)
	}
	return key, nil
}

// one is the key function of a secret or a single public key.
func one(key any) jwt.Keyfunc {
	return func(token *jwt.Token) (any, error) { return fits(token, key) }
}

// secretKey checks an HS256 secret.
func secretKey(secret string) ([]byte, error) {
	switch {
	case strings.HasPrefix(strings.TrimSpace(secret), "-----BEGIN"):
		// With a public key as the secret everybody could sign.
		return nil, errors.New("auth.secret is a PEM key: use auth.public_key")
	case len(secret) < minSecret:
		return nil, fmt.Errorf("auth.secret has %d bytes, at least %d are needed", len(secret), minSecret)
	}
	return []byte(secret), nil
}

// readPublicKey reads a file that holds a PEM key.
func readPublicKey(path string) (any, error) {
	text, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return nil, fmt.Errorf("auth.public_key_file: %w", err)
	}
	key, err := parsePublicKey(string(text))
	if err != nil {
		return nil, fmt.Errorf("auth.public_key_file %s: %w", path, err)
	}
	return key, nil
}

// parsePublicKey takes PKIX, PKCS #1 and certificates. Where an environment variable can't hold line
// breaks they may be written as \n.
func parsePublicKey(text string) (any, error) {
	if !strings.Contains(text, "\n") {
		text = strings.ReplaceAll(text, `\n`, "\n")
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("it is not PEM")
	}
	var key any
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		var cert *x509.Certificate
		if cert, err = x509.ParseCertificate(block.Bytes); err == nil {
			key = cert.PublicKey
		}
	default:
		return nil, fmt.Errorf("it is a %s, a public key is needed", block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", block.Type, err)
	}
	if _, err := algorithm(key); err != nil {
		return nil, err
	}
	return key, nil
}
