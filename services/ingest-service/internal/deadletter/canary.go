package deadletter

import (
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// isCanary reports whether d is a test message of an instance that had gone when it came back. It is no dead letter. A producer
// cannot write one: what comes from a tenant's queue has the key of the parking queue.
func isCanary(d consume.Delivery) bool { return contract.IsCanary(d.RoutingKey) }
