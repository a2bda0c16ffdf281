package platform

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

// issuing makes a signing key, and returns the settings with which the services issue and accept tokens and make AMQP credentials.
// What producers reach the broker by, and tenant-service its management, is no proxy.
func (p *Platform) issuing() (map[string]map[string]string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a signing key: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the signing key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("encode the signing key: %w", err)
	}
	if p.keys, err = os.MkdirTemp("", "mtm-keys-"); err != nil {
		return nil, fmt.Errorf("make a folder for the signing key: %w", err)
	}
	signing, keys := filepath.Join(p.keys, "signing.pem"), filepath.Join(p.keys, "keys.pem")
	err = errors.Join(
		os.WriteFile(signing, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600),
		os.WriteFile(keys, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o600))
	if err != nil {
		return nil, fmt.Errorf("write the signing key: %w", err)
	}
	broker, err := url.Parse(p.Backing.RabbitMQURL)
	if err != nil {
		return nil, errors.New("the URL of the broker is not valid") // the error would quote it, and its password
	}
	broker.User = nil
	return map[string]map[string]string{
		stack.TenantService: {
			"AUTH_SIGNING_KEY_FILE": signing, "RABBITMQ_MANAGEMENT_URL": p.Backing.RabbitMQManagementURL, "RABBITMQ_PUBLIC_URL": broker.String(),
		},
		stack.IngestService: {"AUTH_ISSUED_KEYS_FILE": keys},
		stack.QueryService:  {"AUTH_ISSUED_KEYS_FILE": keys},
	}, nil
}
