package auth

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

// issuedSubject is what the claim sub of an issued token begins with; its jti follows. By that a service recognizes one, whichever
// of its keys has verified it.
const issuedSubject = "token:"

// Signer signs the tokens that the platform issues. It is safe for concurrent use.
type Signer struct {
	method           jwt.SigningMethod
	key              crypto.Signer
	public           publicKey
	issuer, audience string
}

// newSigner reads auth.signing_key_file; it is nil where there is none.
func newSigner(cfg Config) (*Signer, error) {
	if cfg.SigningKeyFile == "" {
		return nil, nil
	}
	text, err := os.ReadFile(filepath.Clean(cfg.SigningKeyFile))
	if err != nil {
		return nil, fmt.Errorf("auth.signing_key_file: %w", err)
	}
	key, err := parsePrivateKey(text)
	if err != nil {
		return nil, fmt.Errorf("auth.signing_key_file %s: %w", cfg.SigningKeyFile, err)
	}
	public, err := byThumbprint(key.Public())
	if err != nil {
		return nil, fmt.Errorf("auth.signing_key_file %s: %w", cfg.SigningKeyFile, err)
	}
	return &Signer{
		method: jwt.GetSigningMethod(public.alg), key: key, public: public, issuer: cfg.issuedIssuer(), audience: cfg.Audience,
	}, nil
}

// Sign makes the token with the id, which is its claim jti: of the claims c, issuer, audience, subject and id are set here. A token
// whose scopes and tenant no service accepts together is not refused.
func (s *Signer) Sign(id uuid.UUID, c Claims) (string, error) {
	c.Issuer, c.Audience, c.TokenID, c.Subject = s.issuer, s.audience, id.String(), issuedSubject+id.String()
	token := jwt.NewWithClaims(s.method, c.set())
	token.Header["kid"] = s.public.id
	signed, err := token.SignedString(s.key)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return signed, nil
}

// parsePrivateKey takes PKCS #8, PKCS #1 and SEC 1, unencrypted. Its errors never say what is in the text.
func parsePrivateKey(text []byte) (crypto.Signer, error) {
	block, rest := pem.Decode(text)
	if block != nil && block.Type == "EC PARAMETERS" { // openssl ecparam writes them in front of the key
		block, _ = pem.Decode(rest)
	}
	if block == nil {
		return nil, errors.New("it is not PEM")
	}
	if block.Headers["DEK-Info"] != "" || block.Type == "ENCRYPTED PRIVATE KEY" {
		return nil, errors.New("it is encrypted, which is not supported")
	}
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("it is a %s, a private key is needed", block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", block.Type, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("key of the type %T, which is not supported", key)
	}
	return signer, nil
}
