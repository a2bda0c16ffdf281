// Package platform starts what a chaos run or a soak stands on: PostgreSQL, RabbitMQ and NATS of its own, the built
// binaries of the three services, and a proxy on every way between a service and a server.
//
// The services reach their servers through the proxies alone, so that latency, a slow line, a half-open or a cut
// connection can be put between them. Whoever tests them (producers, readers, an operator) talks to the servers directly:
// what it knows must not depend on what it breaks. The addresses of servers, proxies and services stay the same for the
// whole life of a [Platform], across restarts.
//
// The servers are always our own, since they are killed, and durable, since they must not lose what they have confirmed.
// They come from Docker or from programs of this machine, as BACKING asks; BACKING=external is refused.
package platform
