// Package contract holds what the services agree on: the desired state and the observed status of a tenant as they
// travel over NATS, the names of exchanges, queues and headers in RabbitMQ, and the limits of a payload.
//
// It depends on the standard library alone, so that a client may import it without taking anything else along. The
// JSON of every type here is pinned by golden files in testdata: a change that would break a running peer fails a test.
package contract
