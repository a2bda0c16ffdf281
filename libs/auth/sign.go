package auth

import (
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

// signedFor is how long a token without an expiry of its own is good.
const signedFor = time.Hour

// Claims are what Sign puts into a token.
type Claims struct {
	// Issuer and Audience must be what the verifier expects.
	Issuer, Audience string
	// Subject names the bearer.
	Subject string
	// TokenID is the claim jti, left out if it is empty.
	TokenID string
	// Scopes may be empty: such a token is refused everywhere.
	Scopes []Scope
	// TenantID binds the token, unless it is uuid.Nil.
	TenantID uuid.UUID
	// ExpiresAt is an hour from now if it is zero.
	ExpiresAt time.Time
}

// Sign makes an HS256 token, for development and for tests. The secret must be one that New accepts.
func Sign(secret string, c Claims) (string, error) {
	key, err := secretKey(secret)
	if err != nil {
		return "", err
	}
	now := time.Now()
	if c.ExpiresAt.IsZero() {
		c.ExpiresAt = now.Add(signedFor)
	}
	names := make([]string, len(c.Scopes))
	for i, s := range c.Scopes {
		names[i] = string(s)
	}
	claims := jwt.MapClaims{
		"iss":   c.Issuer,
		"aud":   c.Audience,
		"sub":   c.Subject,
		"scope": strings.Join(names, " "),
		"iat":   now.Unix(),
		"exp":   c.ExpiresAt.Unix(),
	}
	if c.TokenID != "" {
		claims["jti"] = c.TokenID
	}
	if c.TenantID != uuid.Nil {
		claims["tenant_id"] = c.TenantID.String()
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(key)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return token, nil
}
