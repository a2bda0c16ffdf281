package auth

import (
	"encoding/json"
	"math"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// claimError is a claim of the wrong type, or one that is missing. It never says what the claim is.
type claimError struct {
	claim  string
	detail string // completes a sentence in the log and in WWW-Authenticate
	must   string // completes the entry of errors[]
}

func (e *claimError) Error() string { return "the claim " + e.claim + " " + e.detail }

func wrongType(claim, want string) *claimError {
	return &claimError{claim: claim, detail: "is not " + want, must: "must be " + want}
}

// claimSet is the claims of a token. It reads them for jwt.Validator more exactly than jwt.MapClaims, which takes some claims of
// a wrong type for absent ones and lets times wrap around (golang-jwt/jwt#526).
type claimSet map[string]any

// GetExpirationTime is the claim exp, nil if there is none.
func (c claimSet) GetExpirationTime() (*jwt.NumericDate, error) { return c.date("exp") }

// GetIssuedAt is the claim iat, nil if there is none.
func (c claimSet) GetIssuedAt() (*jwt.NumericDate, error) { return c.date("iat") }

// GetNotBefore is the claim nbf, nil if there is none.
func (c claimSet) GetNotBefore() (*jwt.NumericDate, error) { return c.date("nbf") }

// GetIssuer is the claim iss, "" if there is none.
func (c claimSet) GetIssuer() (string, error) { return c.text("iss") }

// GetSubject is the claim sub, "" if there is none.
func (c claimSet) GetSubject() (string, error) { return c.text("sub") }

// GetAudience is the claim aud, which is a string or a list of strings; nil if there is none.
func (c claimSet) GetAudience() (jwt.ClaimStrings, error) {
	wrong := wrongType("aud", "a string or a list of strings")
	claim, ok := c["aud"]
	if !ok {
		return nil, nil
	}
	switch claim := claim.(type) {
	case string:
		return jwt.ClaimStrings{claim}, nil
	case []any:
		audiences := make(jwt.ClaimStrings, len(claim))
		for i, item := range claim {
			if audiences[i], ok = item.(string); !ok {
				return nil, wrong
			}
		}
		return audiences, nil
	default:
		return nil, wrong
	}
}

func (c claimSet) text(name string) (string, error) {
	claim, ok := c[name]
	if !ok {
		return "", nil
	}
	s, ok := claim.(string)
	if !ok {
		return "", wrongType(name, "a string")
	}
	return s, nil
}

// The times between which a NumericDate is told apart: the years 1 and 9999. What is earlier or later counts as that.
const (
	firstSecond = -62135596800
	lastSecond  = 253402300799
)

// date reads a NumericDate (RFC 7519 section 2): any JSON number, fractions included. One that no clock will ever show is in the
// far future or in the far past, and is not an error.
func (c claimSet) date(name string) (*jwt.NumericDate, error) {
	claim, ok := c[name]
	if !ok {
		return nil, nil
	}
	number, ok := claim.(json.Number)
	if !ok {
		return nil, wrongType(name, "a number")
	}
	seconds, err := number.Float64() // out of range it is an infinity, and an error that says so
	if err != nil && !math.IsInf(seconds, 0) {
		return nil, wrongType(name, "a number")
	}
	whole, fraction := math.Modf(min(max(seconds, firstSecond), lastSecond))
	return &jwt.NumericDate{Time: time.Unix(int64(whole), int64(fraction*float64(time.Second)))}, nil
}

// payload is the claims of a token, between the check of the signature and that of the claims.
//
// It claims nothing to the parser inside contrib/jwt, which can't be given options: that one accepts
// tokens without exp and from any issuer, and knows no leeway. The claims are checked by Verifier.check.
type payload struct {
	claims claimSet
	// issued: a key for issued tokens was chosen to verify it.
	issued bool
}

// UnmarshalJSON keeps the claims as a map.
func (p *payload) UnmarshalJSON(b []byte) error {
	claims, err := object(b)
	p.claims = claims
	return err
}

// GetExpirationTime gives nothing: see payload.
func (*payload) GetExpirationTime() (*jwt.NumericDate, error) { return nil, nil }

// GetIssuedAt gives nothing: see payload.
func (*payload) GetIssuedAt() (*jwt.NumericDate, error) { return nil, nil }

// GetNotBefore gives nothing: see payload.
func (*payload) GetNotBefore() (*jwt.NumericDate, error) { return nil, nil }

// GetIssuer gives nothing: see payload.
func (*payload) GetIssuer() (string, error) { return "", nil }

// GetSubject gives nothing: see payload.
func (*payload) GetSubject() (string, error) { return "", nil }

// GetAudience gives nothing: see payload.
func (*payload) GetAudience() (jwt.ClaimStrings, error) { return nil, nil }
