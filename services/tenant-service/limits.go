package main

import (
	"errors"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

// Limits are the limits of a tenant that has none of its own.
type Limits struct {
	MaxAttempts int `koanf:"max_attempts" usage:"attempts at a message before it is a dead letter; 0: what ingest-service is configured with"`
	LimitDefaults
}

// LimitDefaults are [contract.Limits], with their keys.
type LimitDefaults struct {
	Weight                     int64 `koanf:"weight" usage:"share of what is scarce, relative to the other tenants, 1 to 100"`
	PublishRate                int64 `koanf:"publish_rate" usage:"messages a second that are accepted; 0: no limit"`
	PublishBytes               int64 `koanf:"publish_bytes" usage:"bytes a second that are accepted; 0: no limit"`
	MaxPayload                 int64 `koanf:"max_payload" usage:"bytes of the largest payload; 0: that of ingest-service alone"`
	QueueMaxMessages           int64 `koanf:"queue_max_messages" usage:"messages that may wait in the queue; 0: no limit"`
	QueueMaxBytes              int64 `koanf:"queue_max_bytes" usage:"bytes that may wait in the queue; 0: that of ingest-service alone"`
	StoredMaxBytes             int64 `koanf:"stored_max_bytes" usage:"bytes that may be stored, more is refused; 0: no limit"`
	RetentionSeconds           int64 `koanf:"retention_seconds" usage:"seconds that a message is kept; 0: for ever"`
	RetentionBytes             int64 `koanf:"retention_bytes" usage:"bytes that are kept, beyond them the oldest messages are removed; 0: no limit"`
	DeadLetterRetentionSeconds int64 `koanf:"dead_letter_retention_seconds" usage:"seconds that a dead letter is kept; 0: for ever"`
	MaxSubscriptions           int64 `koanf:"max_subscriptions" usage:"subscriptions at a time; 0: the 100 of the platform"`
	MaxStreams                 int64 `koanf:"max_streams" usage:"live tails at a time; 0: the 100 of the platform"`
	ReadBytes                  int64 `koanf:"read_bytes" usage:"bytes a second that are read; 0: no limit"`
	ReplayRate                 int64 `koanf:"replay_rate" usage:"dead letters a second that are replayed; 0: no limit"`
}

// policy is what the operator allows, and what tenants have that do not say.
func (c Config) policy() tenant.Policy {
	return tenant.Policy{
		DefaultWorkers: c.Workers, MaxWorkers: c.MaxWorkers,
		DefaultMaxAttempts: c.Limits.MaxAttempts, DefaultLimits: contract.Limits(c.Limits.LimitDefaults),
		ManagesBroker: c.RabbitMQ.ManagementURL != "",
	}
}

// Check says which limits are out of their range, or contradict each other.
func (c Config) Check() map[string]string {
	values, found := errors.AsType[*tenant.ValidationError](c.policy().Check())
	if !found {
		return nil
	}
	wrong := make(map[string]string, len(values.Fields))
	for _, field := range values.Fields {
		wrong["limits."+field.Field] = field.Detail
	}
	return wrong
}
