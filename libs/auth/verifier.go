package auth

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/zap"
)

// Config is the section "auth". Exactly one source of keys must be given.
type Config struct {
	// Issuer is compared with iss, Audience must be among aud.
	Issuer   string `koanf:"issuer" validate:"required" usage:"required value of the claim iss"`
	Audience string `koanf:"audience" validate:"required" usage:"required value of the claim aud"`
	// Secret is for HS256. It has at least 32 bytes.
	Secret string `koanf:"secret" secret:"true" usage:"HS256 secret of at least 32 bytes"`
	// PublicKey is a PEM text, PublicKeyFile the path of one.
	PublicKey     string `koanf:"public_key" usage:"PEM public key: RSA (RS256), P-256 (ES256) or Ed25519 (EdDSA)"`
	PublicKeyFile string `koanf:"public_key_file" usage:"file with a PEM public key"`
	// JWKSURL is where a JSON Web Key Set is fetched from, again and again.
	JWKSURL string `koanf:"jwks_url" usage:"URL of a JSON Web Key Set"`
}

// DefaultConfig has an issuer and an audience, but no key: without one a service does not start.
func DefaultConfig() Config {
	return Config{Issuer: "multi-tenant-messaging", Audience: "multi-tenant-messaging"}
}

// Verifier checks tokens against one configuration. It is safe for concurrent use.
type Verifier struct {
	key       jwt.Keyfunc
	set       *keySet // nil unless the keys come from a URL
	validator *jwt.Validator
	known     memory
}

// generation rises whenever the keys change.
func (v *Verifier) generation() uint64 {
	if v.set == nil {
		return 0
	}
	return v.set.generation.Load()
}

// New makes a verifier. With a key set it tries to load it, for up to 3 seconds; should that fail, the
// failure is logged, tokens are answered with 503, and Run tries on. ctx bounds that attempt only.
func New(ctx context.Context, cfg Config, log *zap.Logger) (*Verifier, error) {
	if cfg.Issuer == "" || cfg.Audience == "" {
		return nil, errors.New("auth.issuer and auth.audience are required")
	}
	v := &Verifier{validator: jwt.NewValidator(
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithIssuer(cfg.Issuer),
		jwt.WithAudience(cfg.Audience),
		jwt.WithLeeway(leeway),
	)}
	nameEd25519()
	if err := v.useKey(cfg, log); err != nil {
		return nil, err
	}
	if v.set != nil {
		if err := v.set.refresh(ctx); err != nil {
			log.Warn("key set could not be loaded, requests are refused until it can be", zap.Error(err))
		}
	}
	return v, nil
}

// useKey takes the one source of keys that is configured.
func (v *Verifier) useKey(cfg Config, log *zap.Logger) error {
	var given []string
	for _, source := range []struct{ key, value string }{
		{"auth.secret", cfg.Secret},
		{"auth.public_key", cfg.PublicKey},
		{"auth.public_key_file", cfg.PublicKeyFile},
		{"auth.jwks_url", cfg.JWKSURL},
	} {
		if source.value != "" {
			given = append(given, source.key)
		}
	}
	switch {
	case len(given) == 0:
		return errors.New("no key for tokens: set auth.secret, auth.public_key, auth.public_key_file or auth.jwks_url")
	case len(given) > 1:
		return fmt.Errorf("%s are set, only one may be", strings.Join(given, " and "))
	}

	var key any
	var err error
	switch {
	case cfg.Secret != "":
		key, err = secretKey(cfg.Secret)
	case cfg.PublicKey != "":
		if key, err = parsePublicKey(cfg.PublicKey); err != nil {
			err = fmt.Errorf("auth.public_key: %w", err)
		}
	case cfg.PublicKeyFile != "":
		key, err = readPublicKey(cfg.PublicKeyFile)
	default:
		u, err := url.Parse(cfg.JWKSURL)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return errors.New("auth.jwks_url must be an http or https URL")
		}
		v.set = newKeySet(cfg.JWKSURL, log)
		v.key = v.set.keyfunc
		return nil
	}
	if err != nil {
		return err
	}
	v.key, err = one(key)
	return err
}

// Run keeps the key set up to date until ctx ends. With any other key it only waits for that.
func (v *Verifier) Run(ctx context.Context) error {
	if v.set == nil {
		<-ctx.Done()
		return nil
	}
	return v.set.run(ctx)
}

// check decides about the claims of a token whose signature is good.
func (v *Verifier) check(claims claimSet) (Identity, error) {
	if err := v.validator.Validate(claims); err != nil {
		return Identity{}, fmt.Errorf("check claims: %w", err)
	}
	return identity(claims)
}
