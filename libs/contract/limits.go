package contract

// Limits are what a tenant may send, keep and read. Zero means no limit, and for Weight the default of 1. Each of them holds for
// the sum of all instances. Their ranges, and which of them contradict each other, are checked by the registry of tenants.
type Limits struct {
	// Weight is the tenant's share of what is scarce, relative to the other tenants: 1 to 100.
	Weight int64 `json:"weight,omitempty"`
	// PublishRate is in messages a second, PublishBytes in bytes of payload and envelope a second.
	PublishRate  int64 `json:"publish_rate,omitempty"`
	PublishBytes int64 `json:"publish_bytes,omitempty"`
	// MaxPayload is the size of the largest payload, in bytes. That of the installation holds as well.
	MaxPayload int64 `json:"max_payload,omitempty"`
	// QueueMaxMessages and QueueMaxBytes bound what waits in the tenant's queue; a full queue refuses.
	QueueMaxMessages int64 `json:"queue_max_messages,omitempty"`
	QueueMaxBytes    int64 `json:"queue_max_bytes,omitempty"`
	// StoredMaxBytes bounds what is stored, in bytes of payload and envelope; a full store refuses.
	StoredMaxBytes int64 `json:"stored_max_bytes,omitempty"`
	// RetentionSeconds and RetentionBytes bound what is kept: the oldest messages are removed.
	RetentionSeconds int64 `json:"retention_seconds,omitempty"`
	RetentionBytes   int64 `json:"retention_bytes,omitempty"`
	// DeadLetterRetentionSeconds is the same for dead letters, counted from their last failure.
	DeadLetterRetentionSeconds int64 `json:"dead_letter_retention_seconds,omitempty"`
	// MaxSubscriptions and MaxStreams bound how many subscriptions and live tails there are at a time.
	MaxSubscriptions int64 `json:"max_subscriptions,omitempty"`
	MaxStreams       int64 `json:"max_streams,omitempty"`
	// ReadBytes is in bytes a second, over pages, exports, tails and receivers together.
	ReadBytes int64 `json:"read_bytes,omitempty"`
	// ReplayRate is in dead letters a second.
	ReplayRate int64 `json:"replay_rate,omitempty"`
}

// QueueLimitsReason says why the broker does not hold a queue to the limits of its tenant.
type QueueLimitsReason string

// The reasons of [QueueLimits].
const (
	// QueueLimitsNotManaged: the installation has no management API of the broker, by which alone limits of queues are enforced.
	QueueLimitsNotManaged QueueLimitsReason = "not_managed"
	// QueueLimitsUnavailable: the management API cannot be reached. It is tried again.
	QueueLimitsUnavailable QueueLimitsReason = "unavailable"
	// QueueLimitsRefused: the management API refuses the login, which needs the tag policymaker.
	QueueLimitsRefused QueueLimitsReason = "refused"
	// QueueLimitsArgument: an argument of the queue is lower, and counts until the queue is made again.
	QueueLimitsArgument QueueLimitsReason = "argument"
	// QueueLimitsForeignPolicy: a policy that is none of the platform's applies to the queue.
	QueueLimitsForeignPolicy QueueLimitsReason = "foreign_policy"
	// QueueLimitsRounded: there are more different limits than there may be policies, so that this one is rounded down.
	QueueLimitsRounded QueueLimitsReason = "rounded"
)

// QueueLimitsReasons are all of them, in the order of their declaration.
func QueueLimitsReasons() []QueueLimitsReason {
	return []QueueLimitsReason{
		QueueLimitsNotManaged, QueueLimitsUnavailable, QueueLimitsRefused, QueueLimitsArgument, QueueLimitsForeignPolicy, QueueLimitsRounded,
	}
}

// QueueLimits is what the broker holds a tenant's queue to, while that is not what its [Limits] say.
type QueueLimits struct {
	Reason QueueLimitsReason `json:"reason"`
	// MaxMessages and MaxBytes are in force. 0 is no limit, or not known.
	MaxMessages int64 `json:"max_messages,omitempty"`
	MaxBytes    int64 `json:"max_bytes,omitempty"`
	// Detail is the reason for people.
	Detail string `json:"detail,omitempty"`
}

// Negative reports whether a limit is below 0, which none may be.
func (l Limits) Negative() bool {
	return min(l.Weight, l.PublishRate, l.PublishBytes, l.MaxPayload, l.QueueMaxMessages, l.QueueMaxBytes, l.StoredMaxBytes, l.RetentionSeconds,
		l.RetentionBytes, l.DeadLetterRetentionSeconds, l.MaxSubscriptions, l.MaxStreams, l.ReadBytes, l.ReplayRate) < 0
}
