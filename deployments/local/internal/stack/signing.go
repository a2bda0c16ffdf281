package stack

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// The files with the key that tenant-service signs issued tokens with, and with its public half.
const (
	signingKeyFile = "auth.signing.pem"
	issuedKeysFile = "auth.issued.pem"
)

// signingKeys are the settings for issued tokens, by the name of the service: tenant-service signs, and the others verify. The key
// is made at random once. Nothing is set where the environment has a key of its own.
func (s *Stack) signingKeys() (map[string]map[string]string, error) {
	for _, name := range []string{"AUTH_SIGNING_KEY_FILE", "AUTH_ISSUED_KEYS_FILE", "AUTH_ISSUED_JWKS_URL"} {
		if s.setting(name, "") != "" {
			return nil, nil
		}
	}
	private, public := filepath.Join(s.dir, signingKeyFile), filepath.Join(s.dir, issuedKeysFile)
	_, privateErr := os.Stat(private)
	_, publicErr := os.Stat(public)
	if err := errors.Join(privateErr, publicErr); errors.Is(err, os.ErrNotExist) {
		if err := makeSigningKey(private, public); err != nil {
			return nil, fmt.Errorf("make the key that signs issued tokens: %w", err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("the key that signs issued tokens: %w", err)
	}
	verifying := map[string]string{"AUTH_ISSUED_KEYS_FILE": public}
	return map[string]map[string]string{
		"tenant-service": {"AUTH_SIGNING_KEY_FILE": private}, "ingest-service": verifying, "query-service": verifying,
	}, nil
}

// makeSigningKey writes a new key for its owner alone, and its public half.
func makeSigningKey(private, public string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	whole, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	half, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := os.WriteFile(private, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: whole}), 0o600); err != nil {
		return err
	}
	return os.WriteFile(public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: half}), 0o600)
}
