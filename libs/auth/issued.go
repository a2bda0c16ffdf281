package auth

import (
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/zap"
)

// issuedKeys verify the tokens that the platform itself issues, beside whatever else is configured. There are several during a
// rotation, so such a token always names its key by kid, which is the key's thumbprint (RFC 7638).
type issuedKeys struct {
	fixed []publicKey // from files: the one that signs first
	set   *keySet     // nil unless there is a URL
}

// newIssuedKeys reads the keys for issued tokens, of which there may be none. signer may be nil.
func newIssuedKeys(cfg Config, signer *Signer, log *zap.Logger) (issuedKeys, error) {
	var keys issuedKeys
	if signer != nil {
		keys.fixed = append(keys.fixed, signer.public)
	}
	if cfg.IssuedKeysFile != "" {
		more, err := readIssuedKeys(cfg.IssuedKeysFile)
		if err != nil {
			return issuedKeys{}, err
		}
		for _, key := range more {
			if !slices.ContainsFunc(keys.fixed, func(have publicKey) bool { return have.id == key.id }) {
				keys.fixed = append(keys.fixed, key)
			}
		}
	}
	if cfg.IssuedJWKSURL != "" {
		if err := checkURL("auth.issued_jwks_url", cfg.IssuedJWKSURL); err != nil {
			return issuedKeys{}, err
		}
		keys.set = newKeySet(cfg.IssuedJWKSURL, log)
	}
	return keys, nil
}

// readIssuedKeys reads a file of one or several public keys.
func readIssuedKeys(path string) ([]publicKey, error) {
	text, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return nil, fmt.Errorf("auth.issued_keys_file: %w", err)
	}
	var keys []publicKey
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if len(keys) == 0 || strings.TrimSpace(string(rest)) != "" {
				return nil, fmt.Errorf("auth.issued_keys_file %s: behind %d keys there is something that is not PEM", path, len(keys))
			}
			return keys, nil
		}
		key, err := publicKeyOf(block)
		if err != nil {
			return nil, fmt.Errorf("auth.issued_keys_file %s: key %d: %w", path, len(keys)+1, err)
		}
		named, err := byThumbprint(key)
		if err != nil {
			return nil, fmt.Errorf("auth.issued_keys_file %s: key %d: %w", path, len(keys)+1, err)
		}
		keys = append(keys, named)
	}
}

// byThumbprint is a public key under its thumbprint.
func byThumbprint(key crypto.PublicKey) (publicKey, error) {
	alg, err := algorithm(key)
	if err != nil {
		return publicKey{}, err
	}
	id, err := thumbprint(key)
	return publicKey{id: id, alg: alg, key: key}, err
}

// thumbprint is the JWK SHA-256 thumbprint of a key (RFC 7638 section 3, RFC 8037 section 2): the hash of the members that every
// key of the type has, in lexicographic order and without white space, which is how a map is encoded.
func thumbprint(key crypto.PublicKey) (string, error) {
	jwk, err := jwkset.NewJWKFromKey(key, jwkset.JWKOptions{})
	if err != nil {
		return "", fmt.Errorf("thumbprint of the key: %w", err)
	}
	m := jwk.Marshal()
	members := map[string]string{"kty": m.KTY.String()}
	for name, value := range map[string]string{"crv": m.CRV.String(), "x": m.X, "y": m.Y, "n": m.N, "e": m.E} {
		if value != "" {
			members[name] = value
		}
	}
	canonical, err := json.Marshal(members)
	if err != nil {
		return "", fmt.Errorf("thumbprint of the key: %w", err)
	}
	hash := sha256.Sum256(canonical)
	return base64.RawURLEncoding.EncodeToString(hash[:]), nil
}

// none tells whether no issued token can ever be accepted.
func (k issuedKeys) none() bool { return len(k.fixed) == 0 && k.set == nil }

// errNotIssued stands for a token that no key for issued tokens is asked for.
var errNotIssued = fmt.Errorf("%w: it is not an issued one", errKey)

// keyfunc finds the key that a token names, if it is of the type that its algorithm needs.
func (k issuedKeys) keyfunc(token *jwt.Token) (any, error) {
	id, _ := token.Header["kid"].(string)
	alg := token.Method.Alg()
	asymmetric := []string{jwt.SigningMethodRS256.Alg(), jwt.SigningMethodES256.Alg(), jwt.SigningMethodEdDSA.Alg()}
	if id == "" || k.none() || !slices.Contains(asymmetric, alg) {
		return nil, errNotIssued
	}
	for _, key := range k.fixed {
		if key.id == id && key.alg == alg {
			return key.key, nil
		}
	}
	if k.set == nil {
		return nil, errNotIssued
	}
	return k.set.keyfunc(token)
}

// document is the keys from files as a JSON Web Key Set (RFC 7517 section 5).
func (k issuedKeys) document() ([]byte, error) {
	set := jwkset.JWKSMarshal{Keys: []jwkset.JWKMarshal{}}
	for _, key := range k.fixed {
		jwk, err := jwkset.NewJWKFromKey(key.key, jwkset.JWKOptions{
			Metadata: jwkset.JWKMetadataOptions{KID: key.id, ALG: jwkset.ALG(key.alg), USE: jwkset.UseSig},
		})
		if err != nil {
			return nil, fmt.Errorf("publish the keys for issued tokens: %w", err)
		}
		set.Keys = append(set.Keys, jwk.Marshal())
	}
	document, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("publish the keys for issued tokens: %w", err)
	}
	return document, nil
}
