package contract

import (
	"strings"
	"time"
)

// Buckets of the control channel (JetStream key-value).
const (
	// TenantsBucket maps a tenant id to its [TenantSpec]. A missing key never means deletion; deletion is a state.
	TenantsBucket = "tenants"
	// StatusBucket maps a [StatusKey] to a [TenantStatus], and an [InstanceKey] to the heartbeat of an instance, a
	// [TenantStatus] without tenant. A status counts while the heartbeat of its instance is alive and of the same run, so
	// a dead instance does not stay running. A status is written when it changes: ten thousand idle tenants cost as much
	// as one.
	StatusBucket = "tenant_status"
)

// Timing of the control channel.
const (
	// HeartbeatTTL is the lifetime of a heartbeat: how long an instance that has died counts as alive.
	HeartbeatTTL = 30 * time.Second
	// HeartbeatInterval is how often an instance repeats its heartbeat. Three fit in one lifetime, so that one lost write
	// does not make a living instance disappear.
	HeartbeatInterval = 10 * time.Second
	// StatusTTL is the lifetime of a status in [StatusBucket], whichever instance has written it: nothing stays there for ever.
	StatusTTL = time.Hour
	// StatusRefresh is how often an instance repeats a status that has not changed.
	StatusRefresh = 20 * time.Minute
)

// Bounds of a tenant that its registry enforces.
const (
	// MaxNameLength is the longest name of a tenant, in characters.
	MaxNameLength = 200
	// DefaultMaxWorkers is the highest number of workers of one tenant unless it is configured otherwise.
	DefaultMaxWorkers = 64
)

// DesiredState is what the operator wants of a tenant.
type DesiredState string

// The desired states of a tenant.
const (
	// DesiredActive: queue, partition and a running consumer.
	DesiredActive DesiredState = "active"
	// DesiredSuspended: messages are accepted and kept in the queue, none is consumed.
	DesiredSuspended DesiredState = "suspended"
	// DesiredDeleting: consumer, queue and partition are to disappear. It ends when every living instance has reported
	// [StateDeleted]; the registry then retires the id for ever.
	DesiredDeleting DesiredState = "deleting"
)

// TenantSpec is the desired state of one tenant, the value in [TenantsBucket].
type TenantSpec struct {
	TenantID string       `json:"tenant_id"`
	State    DesiredState `json:"state"`
	// Workers is the number of concurrent writers of the tenant, at least 1.
	Workers int `json:"workers"`
	// MaxAttempts is how often a message is tried before it becomes a dead letter. 0 means the default of the instance.
	MaxAttempts int `json:"max_attempts,omitempty"`
	// Limits are those in force for the tenant: its own, and the defaults of the installation where it has none.
	Limits Limits `json:"limits,omitzero"`
	// Generation rises by one with every change of the tenant. A spec with a lower generation than one already seen is
	// stale and ignored.
	Generation int64 `json:"generation"`
}

// ConsumerState is what an instance observed of a tenant.
type ConsumerState string

// The observed states of a tenant's consumer.
const (
	// StateProvisioning: queue or partition are being made, or the consumer is starting.
	StateProvisioning ConsumerState = "provisioning"
	// StateRunning: deliveries are consumed and stored.
	StateRunning ConsumerState = "running"
	// StatePaused: the tenant is to run, but the infrastructure does not allow it; the error says what is missing.
	StatePaused ConsumerState = "paused"
	// StateStorageFull: as desired, but the tenant has stored as much as it may ([Limits.StoredMaxBytes]): messages wait in its queue.
	// It continues without intervention once there is room.
	StateStorageFull ConsumerState = "storage_full"
	// StateSuspended: queue and partition are there, nothing is consumed, as desired.
	StateSuspended ConsumerState = "suspended"
	// StateDeleting: the teardown is under way.
	StateDeleting ConsumerState = "deleting"
	// StateDeleted: consumer, queue, partition and metric series are gone.
	StateDeleted ConsumerState = "deleted"
	// StateFailed: the last attempt to reach the desired state failed and is being repeated; the error says why.
	StateFailed ConsumerState = "failed"
)

// TenantStatus is what one instance of ingest-service observed of one tenant, the value in [StatusBucket].
type TenantStatus struct {
	TenantID string `json:"tenant_id"`
	Instance string `json:"instance"`
	// Run names the process: an instance that was started again does not vouch for what it said before.
	Run string `json:"run,omitempty"`
	// ObservedGeneration is the generation of the spec that State describes.
	ObservedGeneration int64         `json:"observed_generation"`
	State              ConsumerState `json:"state"`
	Workers            int           `json:"workers"`
	// QueueReady and QueueUnacked count the messages in the tenant's queue that wait and that are being worked on.
	// -1 means not known yet.
	QueueReady   int64     `json:"queue_ready"`
	QueueUnacked int64     `json:"queue_unacked"`
	Error        string    `json:"error,omitempty"`
	ObservedAt   time.Time `json:"observed_at"`
	// QueueLimits is nil while the queue is held to the limits of the tenant, and from the instances that do not look.
	QueueLimits *QueueLimits `json:"queue_limits,omitempty"`
}

// StatusKey is the key of what instance observed of tenant: "<tenant id>.<instance>".
func StatusKey(tenantID, instance string) string { return tenantID + "." + instance }

// instancePrefix is what the key of a heartbeat begins with; no tenant id is like that.
const instancePrefix = "instance."

// InstanceKey is the key of the heartbeat of instance: "instance.<instance>".
func InstanceKey(instance string) string { return instancePrefix + instance }

// ParseInstanceKey is the reverse of [InstanceKey]. It reports false for a key of another form.
func ParseInstanceKey(key string) (instance string, ok bool) {
	instance, ok = strings.CutPrefix(key, instancePrefix)
	return instance, ok && instance != ""
}

// ParseStatusKey is the reverse of [StatusKey]. It reports false for a key of another form.
func ParseStatusKey(key string) (tenantID, instance string, ok bool) {
	tenantID, instance, ok = strings.Cut(key, ".")
	return tenantID, instance, ok && tenantID != "" && instance != "" && !strings.HasPrefix(key, instancePrefix)
}
