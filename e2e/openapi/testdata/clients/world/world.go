// Package world is what clients are told by the environment.
package world

import (
	"os"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// WaitLimit is how long something may take that the platform does in the background, Poll how often it is looked for.
const (
	WaitLimit = 90 * time.Second
	Poll      = 50 * time.Millisecond
)

// World is what a client is told.
type World struct {
	TenantURL, IngestURL, QueryURL string
	Admin                          string
	// Tenant is to be created; the tenant Letters is there and has two dead letters.
	Tenant, Letters           uuid.UUID
	TenantToken, LettersToken string
}

// FromEnvironment reads the world.
func FromEnvironment(t *testing.T) World {
	t.Helper()
	get := func(name string) string {
		value := os.Getenv(name)
		require.NotEmpty(t, value, name)
		return value
	}
	return World{
		TenantURL: get("TENANT_URL"), IngestURL: get("INGEST_URL"), QueryURL: get("QUERY_URL"), Admin: get("ADMIN_TOKEN"),
		Tenant: uuid.MustParse(get("TENANT_ID")), TenantToken: get("TENANT_TOKEN"),
		Letters: uuid.MustParse(get("LETTERS_ID")), LettersToken: get("LETTERS_TOKEN"),
	}
}
