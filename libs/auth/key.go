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

	"filippo.io/edwards25519"
	"github.com/golang-jwt/jwt/v5"
)

const (
	// minSecret is in bytes: RFC 7518 section 3.2 demands a key of at least the hash's size.
	minSecret = 32
	// minRSA is in bits (RFC 7518 section 3.3).
	minRSA = 2048
	// maxRSA is in bits, as for certificates in crypto/tls: the time that a verification takes grows with the square.
	maxRSA = 8192
	// ed25519Alg is the name that RFC 9864 gives to EdDSA with an Ed25519 key.
	ed25519Alg = "Ed25519"
)

// errKey is why a token does not fit the keys; the client learns no more than "signature".
var errKey = errors.New("the token does not fit the key")

// algorithm is the only one that a key is good for. That RSA keys could also do PS256, or RS512, is what
// an attacker would like to choose; nobody else needs to. Keys for which anybody could sign are an error.
func algorithm(key any) (string, error) {
	switch key := key.(type) {
	case []byte:
		return jwt.SigningMethodHS256.Alg(), nil
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSA || bits > maxRSA {
			return "", fmt.Errorf("RSA key of %d bits, at least %d and at most %d are needed", bits, minRSA, maxRSA)
		}
		if key.E < 3 || key.E&1 == 0 || key.N.Bit(0) == 0 { // with the exponent 1 a signature is its own message
			return "", errors.New("RSA key with an exponent or a modulus that no RSA key has")
		}
		return jwt.SigningMethodRS256.Alg(), nil
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() {
			return "", fmt.Errorf("key on the curve %s, only P-256 (ES256) is supported", key.Curve.Params().Name)
		}
		return jwt.SigningMethodES256.Alg(), nil
	case ed25519.PublicKey:
		// RFC 8032 lets a verifier take a point of small order for a key; one signature then fits many messages.
		point, err := new(edwards25519.Point).SetBytes(key)
		if err != nil || new(edwards25519.Point).MultByCofactor(point).Equal(edwards25519.NewIdentityPoint()) == 1 {
			return "", errors.New("Ed25519 key that is no point of the curve, or one of small order")
		}
		return jwt.SigningMethodEdDSA.Alg(), nil
	default:
		return "", fmt.Errorf("key of the type %T, which is not supported", key)
	}
}

// nameEd25519 makes the parser know EdDSA by its other name as well. The list of algorithms belongs to the whole process.
func nameEd25519() {
	jwt.RegisterSigningMethod(ed25519Alg, func() jwt.SigningMethod { return jwt.SigningMethodEdDSA })
}

// one is the key function of a secret or a single public key, which is used whatever kid says.
func one(key any) (jwt.Keyfunc, error) {
	want, err := algorithm(key)
	if err != nil {
		return nil, err
	}
	return func(token *jwt.Token) (any, error) {
		if got := token.Method.Alg(); got != want {
			return nil, fmt.Errorf("%w: algorithm %s, not %s", errKey, got, want)
		}
		return key, nil
	}, nil
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
	return publicKeyOf(block)
}

// publicKeyOf is the key of a PEM block, if it is one that can be used.
func publicKeyOf(block *pem.Block) (any, error) {
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
