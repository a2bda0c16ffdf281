package contract

import (
	"strconv"
	"strings"
	"time"
)

// Exchanges. All are durable.
const (
	// MessagesExchange is where producers publish; a topic exchange, because RabbitMQ can then limit a user to routing
	// keys. The routing key is the tenant id.
	MessagesExchange = "messages"
	// TenantsExchange leads to tenants' queues (topic, routing key = tenant id). The platform publishes here itself; what
	// producers publish comes through [ScreenExchange] where that is in use.
	TenantsExchange = "tenants"
	// ScreenExchange stands between [MessagesExchange] and [TenantsExchange] where the broker cannot bear every header of a
	// producer (headers, with TenantsExchange as alternate exchange): what has a header x-death goes to [RefusedExchange].
	ScreenExchange = "screen"
	// RefusedExchange (fanout) leads to queues that refuse every publish, so that its publisher is told: basic.nack.
	RefusedExchange = "refused"
	// RetryReturnExchange brings messages back from the retry tiers into their tenant's queue (topic, routing key =
	// tenant id). What it cannot route (the tenant is gone) goes to [ParkingExchange], its alternate exchange.
	RetryReturnExchange = "retry-return"
	// DeadLettersExchange takes what cannot be stored, published by workers (fanout into [DeadLettersQueue]).
	DeadLettersExchange = "dead-letters"
	// LargeDeadLettersExchange leads to [LargeDeadLettersQueue] (fanout).
	LargeDeadLettersExchange = "dead-letters.large"
	// QuarantineExchange leads to [QuarantineQueue] (fanout).
	QuarantineExchange = "quarantine"
	// ParkingExchange takes what the broker itself gives up on: the delivery limit of a tenant queue, and returns of
	// deleted tenants (fanout into [ParkingQueue]).
	ParkingExchange = "parking"
)

// Queues that all tenants share.
const (
	DeadLettersQueue = "dead-letters"
	ParkingQueue     = "parking"
	// LargeDeadLettersQueue has large dead letters of the two others, so that the small ones do not wait until those are written.
	LargeDeadLettersQueue = "dead-letters.large"
	// QuarantineQueue keeps what was delivered too often from the others, since its delivery ends the connection of whichever consumer
	// consumes it, and what is so large that the database never writes it in time. Nobody consumes this one: an operator looks at it
	// and empties it.
	QuarantineQueue = "quarantine"
)

// RefusedQueue is the name of the n-th queue that refuses every publish, counted from 0.
func RefusedQueue(n int) string {
	if n == 0 {
		return "refused"
	}
	return "refused." + strconv.Itoa(n)
}

const canaryPrefix = "canary."

// CanaryName is the routing key of the messages with which an instance tests that the broker dead-letters, and the name of its
// queue for that.
func CanaryName(instance string) string { return canaryPrefix + instance }

// IsCanary reports whether a routing key is one of [CanaryName].
func IsCanary(key string) bool { return strings.HasPrefix(key, canaryPrefix) }

// ParkingRoutingKey is the fixed routing key with which a tenant queue dead-letters into [ParkingExchange].
const ParkingRoutingKey = "parking"

const queuePrefix = "tenant."

// QueueName is the name of a tenant's queue.
func QueueName(tenantID string) string { return queuePrefix + tenantID }

// TenantOfQueue is the reverse of [QueueName]. It reports false for the name of another queue.
func TenantOfQueue(queue string) (tenantID string, ok bool) {
	return strings.CutPrefix(queue, queuePrefix)
}

// TenantExchangeName is the name of the exchange of a tenant's own (topic, routing key = tenant id), to which alone its AMQP credentials
// may publish. It leads to the tenant's queue and nowhere else, whatever further keys a message names in CC and BCC.
func TenantExchangeName(tenantID string) string { return queuePrefix + tenantID }

// TenantScreenName is the name of the exchange that stands behind [TenantExchangeName] where [ScreenExchange] is in use, and does the
// same (headers, internal, with [TenantScreenedName] as alternate exchange).
func TenantScreenName(tenantID string) string { return queuePrefix + tenantID + ".screen" }

// TenantScreenedName is the name of the exchange that takes what has passed [TenantScreenName] to the tenant's queue (fanout, internal).
func TenantScreenedName(tenantID string) string { return queuePrefix + tenantID + ".screened" }

// RetryTierName is the name of the exchange (fanout) and of the queue that hold messages back for delay: "retry.5s".
func RetryTierName(delay time.Duration) string { return "retry." + delay.String() }

// HeaderPrefix begins the names of the headers that workers write.
const HeaderPrefix = "x-mtm-"

// Headers that workers write. A producer may send them, too: they count only on what comes back through
// [RetryReturnExchange].
const (
	// HeaderProperties has the properties of the message as its producer gave them, encoded as in a content header of AMQP
	// 0-9-1: in place (byte array), or how many bytes they take at the end of the body (int64), where they are too large.
	HeaderProperties = "x-mtm-properties"
	// HeaderAttempt (int32) is how many times the message has been tried.
	HeaderAttempt = "x-mtm-attempt"
	// HeaderFirstFailedAt (int64) is the time of the first failure in Unix milliseconds.
	HeaderFirstFailedAt = "x-mtm-first-failed-at"
	// HeaderTenant (string) is the tenant through whose queue a dead letter came.
	HeaderTenant = "x-mtm-tenant"
	// HeaderReason (string) is the [Reason] of a dead letter.
	HeaderReason = "x-mtm-reason"
	// HeaderError (string) is the error that made a message a dead letter, at most [MaxErrorBytes] long.
	HeaderError = "x-mtm-error"
	// HeaderDeadLetterID (string) is the UUID of a dead letter. It follows from tenant, message id, reason and content,
	// so that a message that is dead-lettered twice, because a worker died in between, is one dead letter.
	HeaderDeadLetterID = "x-mtm-dead-letter-id"
	// HeaderRecordTries (int32) is how many times a large dead letter could not be recorded in time.
	HeaderRecordTries = "x-mtm-record-tries"
)

// MaxErrorBytes is how much of an error a dead letter keeps.
const MaxErrorBytes = 1024

// Reason says why a message is a dead letter.
type Reason string

// The reasons of dead letters.
const (
	ReasonNotJSON       Reason = "not_json"       // the body is not one JSON value in UTF-8
	ReasonUnstorable    Reason = "unstorable"     // JSON that cannot be kept: \u0000, a lone surrogate, a number over the limit
	ReasonTooDeep       Reason = "too_deep"       // nested over MaxDepth
	ReasonTooLarge      Reason = "too_large"      // over the limit of a body
	ReasonForeignKey    Reason = "foreign_key"    // the routing key is not the tenant of the queue
	ReasonBadEnvelope   Reason = "bad_envelope"   // type, key or attributes are outside of the limits of an Envelope
	ReasonRejected      Reason = "rejected"       // the database refuses the content of this message
	ReasonMaxAttempts   Reason = "max_attempts"   // tried too often
	ReasonDeliveryLimit Reason = "delivery_limit" // the broker gave up after too many deliveries
)

// Reasons are all reasons, in the order of their declaration.
func Reasons() []Reason {
	return []Reason{
		ReasonNotJSON, ReasonUnstorable, ReasonTooDeep, ReasonTooLarge, ReasonForeignKey, ReasonBadEnvelope,
		ReasonRejected, ReasonMaxAttempts, ReasonDeliveryLimit,
	}
}
