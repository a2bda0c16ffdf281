package auth

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/zap"
)

// Config is the section "auth". Of secret, public key and key set one may be given, for the tokens of auth.issuer; beside it, or
// alone, keys for the tokens that the platform itself issues.
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
	// SigningKeyFile is the path of a PEM private key; tokens that it has signed are accepted as well.
	SigningKeyFile string `koanf:"signing_key_file" usage:"file with the PEM private key (RSA, P-256 or Ed25519) that tenant-service signs issued tokens with"`
	// IssuedKeysFile holds public keys, IssuedJWKSURL is where they are fetched from. Each is used beside SigningKeyFile.
	IssuedKeysFile string `koanf:"issued_keys_file" usage:"file with PEM public keys of issued tokens; beside auth.signing_key_file, those of a rotation"`
	IssuedJWKSURL  string `koanf:"issued_jwks_url" usage:"URL of the keys of issued tokens: /.well-known/jwks.json of tenant-service"`
	// IssuedIssuer is compared with iss of issued tokens. It is Issuer if it is empty.
	IssuedIssuer string `koanf:"issued_issuer" usage:"claim iss of issued tokens, where auth.issuer is another issuer; without it, auth.issuer"`
}

// issuedIssuer is the claim iss of issued tokens.
func (c Config) issuedIssuer() string {
	if c.IssuedIssuer == "" {
		return c.Issuer
	}
	return c.IssuedIssuer
}

// DefaultConfig has an issuer and an audience, but no key: without one a service does not start.
func DefaultConfig() Config {
	return Config{Issuer: "multi-tenant-messaging", Audience: "multi-tenant-messaging"}
}

// Verifier checks tokens against one configuration. It is safe for concurrent use.
type Verifier struct {
	outside         jwt.Keyfunc // for the tokens of auth.issuer; nil where issued ones alone are accepted
	issued          issuedKeys
	sets            []*keySet // the key sets of both, if they come from URLs
	signer          *Signer   // nil without a signing key
	published       []byte
	validator       *jwt.Validator
	issuedValidator *jwt.Validator
	revocations     Revocations
	known           memory
}

// generation rises whenever the keys change.
func (v *Verifier) generation() uint64 {
	var sum uint64
	for _, set := range v.sets {
		sum += set.generation.Load()
	}
	return sum
}

// New makes a verifier. With a key set it tries to load it, for up to 3 seconds; should that fail, the
// failure is logged, tokens are answered with 503, and Run tries on. ctx bounds that attempt only.
func New(ctx context.Context, cfg Config, log *zap.Logger) (*Verifier, error) {
	if cfg.Issuer == "" || cfg.Audience == "" {
		return nil, errors.New("auth.issuer and auth.audience are required")
	}
	v := &Verifier{validator: newValidator(cfg.Issuer, cfg.Audience), issuedValidator: newValidator(cfg.issuedIssuer(), cfg.Audience)}
	nameEd25519()
	var err error
	if v.signer, err = newSigner(cfg); err != nil {
		return nil, err
	}
	if v.issued, err = newIssuedKeys(cfg, v.signer, log); err != nil {
		return nil, err
	}
	if v.published, err = v.issued.document(); err != nil {
		return nil, err
	}
	if err := v.useKey(cfg, log); err != nil {
		return nil, err
	}
	if v.issued.set != nil {
		v.sets = append(v.sets, v.issued.set)
	}
	for _, set := range v.sets {
		if err := set.refresh(ctx); err != nil {
			log.Warn("key set could not be loaded, requests are refused until it can be", zap.Error(err))
		}
	}
	return v, nil
}

func newValidator(issuer, audience string) *jwt.Validator {
	return jwt.NewValidator(
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithIssuer(issuer),
		jwt.WithAudience(audience),
		jwt.WithLeeway(leeway),
	)
}

// useKey takes the one source of keys for the tokens of auth.issuer that is configured.
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
	case len(given) == 0 && !v.issued.none():
		return nil
	case len(given) == 0:
		return errors.New("no key for tokens: set auth.secret, auth.public_key, auth.public_key_file or auth.jwks_url, " +
			"or, if issued tokens alone are to be accepted, auth.signing_key_file, auth.issued_keys_file or auth.issued_jwks_url")
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
		if err := checkURL("auth.jwks_url", cfg.JWKSURL); err != nil {
			return err
		}
		set := newKeySet(cfg.JWKSURL, log)
		v.sets, v.outside = append(v.sets, set), set.keyfunc
		return nil
	}
	if err != nil {
		return err
	}
	v.outside, err = one(key)
	return err
}

// checkURL refuses what no key set can be fetched from.
func checkURL(setting, address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return errors.New(setting + " must be an http or https URL")
	}
	return nil
}

// Signer signs issued tokens; nil where there is no signing key.
func (v *Verifier) Signer() *Signer { return v.signer }

// PublicKeys is the JSON Web Key Set (RFC 7517) of the keys that verify issued tokens, as far as they come from files: that of
// the signing key first, then those of a rotation. It is not to be changed.
func (v *Verifier) PublicKeys() []byte { return v.published }

// Revocations are the revoked tokens that the verifier asks for, for whoever keeps them up to date.
func (v *Verifier) Revocations() *Revocations { return &v.revocations }

// keyfunc finds the keys that a token may be signed with: the one for issued tokens that it names, else what is configured for the
// tokens of auth.issuer.
func (v *Verifier) keyfunc(token *jwt.Token) (any, error) {
	key, err := v.issued.keyfunc(token)
	if err == nil {
		if p, ok := token.Claims.(*payload); ok {
			p.issued = true
		}
		return key, nil
	}
	if v.outside == nil {
		return nil, err
	}
	key, outsideErr := v.outside(token)
	if outsideErr != nil {
		return nil, errors.Join(outsideErr, err) // either of the two may be cured by newer keys
	}
	return key, nil
}

// renewed asks for a refresh of the key sets and waits for it, unless there has just been one. It tells whether the keys are others
// than those of the generation that a token did not fit.
func (v *Verifier) renewed(generation uint64) bool {
	enough := time.After(askWait)
	var refreshes []<-chan struct{}
	for _, set := range v.sets {
		if refreshed := set.ask(); refreshed != nil {
			refreshes = append(refreshes, refreshed)
		}
	}
	for _, refreshed := range refreshes {
		select {
		case <-refreshed:
		case <-enough:
			return v.generation() != generation
		}
	}
	return v.generation() != generation
}

// Run keeps the key sets up to date until ctx ends. With other keys it only waits for that.
func (v *Verifier) Run(ctx context.Context) error {
	var running sync.WaitGroup
	for _, set := range v.sets {
		running.Go(func() { set.run(ctx) })
	}
	<-ctx.Done()
	running.Wait()
	return nil
}

// check decides about the claims of a token whose signature is good.
func (v *Verifier) check(p *payload) (Identity, error) {
	validator := v.validator
	if p.issued {
		validator = v.issuedValidator
	}
	if err := validator.Validate(p.claims); err != nil {
		return Identity{}, fmt.Errorf("check claims: %w", err)
	}
	id, err := identity(p.claims)
	if err != nil {
		return Identity{}, err
	}
	return id, v.revocations.check(id, p.issued)
}
