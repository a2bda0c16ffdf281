// Package attempt reads and writes what the platform notes in the headers of a message that has failed: how often, and
// since when.
//
// A producer can send such headers, too. They count only where nobody but us can have written them: on what comes back
// from our own retry exchange ([Of]) and among the dead letters ([Read]).
package attempt

import (
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/header"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// most is the highest count that is written or believed.
const most = 1 << 20

// History is what is known of the attempts to store a message.
type History struct {
	// Attempts is how many have failed, from 0 to 1,048,576.
	Attempts int
	// FirstFailedAt is the time of the first failure, in milliseconds. It is never in the future: clocks of instances
	// differ.
	FirstFailedAt time.Time
}

// Of is the history of a delivery from a tenant's queue. One that does not come back from a retry has none, and fails at
// now for the first time if it does.
func Of(d consume.Delivery, now time.Time) History {
	if d.Exchange != contract.RetryReturnExchange {
		return History{FirstFailedAt: now}
	}
	return Read(d.Properties.Headers(), now)
}

// Read is the history in headers that are known to be ours. What is missing or cannot be is 0 attempts, and now.
func Read(headers header.Table, now time.Time) History {
	attempts, _ := headers.Lookup(contract.HeaderAttempt).Int()
	millis, _ := headers.Lookup(contract.HeaderFirstFailedAt).Int()
	first := time.UnixMilli(millis)
	if millis <= 0 || first.After(now) {
		first = now
	}
	return History{Attempts: int(min(max(attempts, 0), most)), FirstFailedAt: first}
}

// Headers are those that [Read] reads.
func (h History) Headers() amqp.Table {
	return amqp.Table{
		contract.HeaderAttempt:       int32(min(max(h.Attempts, 0), most)),
		contract.HeaderFirstFailedAt: h.FirstFailedAt.UnixMilli(),
	}
}
