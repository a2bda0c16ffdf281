package contract_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

const tenantID = "6f1c2b1e-5a59-4a1b-9f5e-2f4f0e3f7a11"

// Services of two versions run side by side during an upgrade: a field that changes its name is lost to the other.
func TestGoldenJSON(t *testing.T) {
	for file, value := range map[string]any{
		"tenant_spec.json": contract.TenantSpec{TenantID: tenantID, State: contract.DesiredSuspended, Workers: 5, MaxAttempts: 7, Generation: 42},
		"tenant_spec_limits.json": contract.TenantSpec{
			TenantID: tenantID, State: contract.DesiredActive, Workers: 5, Generation: 43,
			Limits: contract.Limits{
				Weight: 1, PublishRate: 2, PublishBytes: 3, MaxPayload: 4, QueueMaxMessages: 5, QueueMaxBytes: 6, StoredMaxBytes: 7, RetentionSeconds: 8,
				RetentionBytes: 9, DeadLetterRetentionSeconds: 10, MaxSubscriptions: 11, MaxStreams: 12, ReadBytes: 13, ReplayRate: 14,
			},
		},
		"tenant_status.json": contract.TenantStatus{
			TenantID: tenantID, Instance: "ingest-1", ObservedGeneration: 41, State: contract.StatePaused, Workers: 5,
			QueueReady: 12, QueueUnacked: 3, Error: "the database is away", ObservedAt: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC),
		},
		"tenant_status_queue_limits.json": contract.TenantStatus{
			TenantID: tenantID, Instance: "ingest-1", ObservedGeneration: 41, State: contract.StateRunning, Workers: 5,
			ObservedAt:  time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC),
			QueueLimits: &contract.QueueLimits{Reason: contract.QueueLimitsArgument, MaxMessages: 1, MaxBytes: 2, Detail: "a lower argument"},
		},
	} {
		t.Run(file, func(t *testing.T) {
			golden, err := os.ReadFile(filepath.Join("testdata", file))
			require.NoError(t, err)
			body, err := json.Marshal(value)
			require.NoError(t, err)
			require.JSONEq(t, string(golden), string(body))
		})
	}
}

// Producers bind and publish to these names; they are part of the contract.
func TestNames(t *testing.T) {
	require.Equal(t, "messages", contract.MessagesExchange)
	require.Equal(t, "tenant."+tenantID, contract.QueueName(tenantID))
	require.Equal(t, "retry.5s", contract.RetryTierName(5*time.Second))
	require.Equal(t, "retry-return", contract.RetryReturnExchange)
	require.Equal(t, "tenants", contract.TenantsBucket)
	require.Equal(t, "tenant_status", contract.StatusBucket)

	id, ok := contract.TenantOfQueue(contract.QueueName(tenantID))
	require.True(t, ok)
	require.Equal(t, tenantID, id)
	_, ok = contract.TenantOfQueue("parking")
	require.False(t, ok)
}

func TestStatusKey(t *testing.T) {
	tenant, instance, ok := contract.ParseStatusKey(contract.StatusKey(tenantID, "ingest-1"))
	require.True(t, ok)
	require.Equal(t, tenantID, tenant)
	require.Equal(t, "ingest-1", instance)
	for _, key := range []string{"", "x", ".x", "x.", contract.InstanceKey("ingest-1")} {
		_, _, ok := contract.ParseStatusKey(key)
		require.False(t, ok, key)
	}
	instance, ok = contract.ParseInstanceKey(contract.InstanceKey("ingest-1"))
	require.True(t, ok)
	require.Equal(t, "ingest-1", instance)
	for _, key := range []string{"", "instance", "instance.", contract.StatusKey(tenantID, "ingest-1")} {
		_, ok := contract.ParseInstanceKey(key)
		require.False(t, ok, key)
	}
}

// An id that came out differently after an upgrade would store every redelivered message a second time.
func TestMessageID(t *testing.T) {
	tenant := uuid.MustParse(tenantID)
	id := uuid.MustParse("0190b5a2-7c3e-7d4f-8a9b-0c1d2e3f4a5b")
	require.Equal(t, id, uuid.UUID(contract.MessageID(tenant, id.String())))
	require.Equal(t, id, uuid.UUID(contract.MessageID(tenant, "0190B5A2-7C3E-7D4F-8A9B-0C1D2E3F4A5B")))
	for _, name := range []string{"order-1", "", "00000000-0000-0000-0000-000000000000", "{0190b5a2-7c3e-7d4f-8a9b-0c1d2e3f4a5b}", "0190b5a27c3e7d4f8a9b0c1d2e3f4a5b", "0190b5a2-7c3e-7d4f-8a9b-0c1d2e3f4a5g", "0190b5a2x7c3e-7d4f-8a9b-0c1d2e3f4a5b"} {
		require.Equal(t, uuid.NewSHA1(tenant, []byte(name)), uuid.UUID(contract.MessageID(tenant, name)), name)
	}
	require.NotEqual(t, contract.MessageID(tenant, "order-1"), contract.MessageID(uuid.New(), "order-1"), "tenants share no ids")
}
