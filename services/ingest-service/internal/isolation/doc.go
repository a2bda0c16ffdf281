// Package isolation decides over which connection each tenant is consumed, and finds the tenant whose deliveries break it.
//
// Consumers share a few connections. There are messages that the broker, or the client, cannot deliver without losing the
// connection: RabbitMQ 3.10 crashes at each delivery of an AMQP 1.0 message whose id is an unsigned long. Such a message is never
// seen, and comes again on every new connection, for every consumer that shares it. So its queue is found by experiment:
//
//	shared ──lost twice in a minute──▶ candidates, in at most 8 groups, each with a connection of its own
//	candidates ──their connection is lost──▶ smaller groups
//	candidates ──their connection holds──▶ shared
//	a candidate alone ──its connection is lost twice──▶ failed: a connection of its own, used for one probe at a time
//	failed ──a probe, with a prefetch of 1, holds──▶ catching up, on its own connection ──nothing waits any more──▶ shared
//
// A thousand tenants are four rounds; fewer, since a queue in which nothing waits is grouped apart from those with messages. A
// delivery that our own reader could not read names its tenant, which skips all rounds.
//
// Only losses without another explanation count: see [conn.LostError], and a loss explains itself by others at the same
// time (a connection that no tenant is consumed on was lost within a second) and by a broker that cannot be dialled either. What
// is wrong all the same, because a network cuts single connections, clears again: at most 16 connections are
// used for groups and probes at a time, further groups wait for their turn.
//
// The plan is a state machine without clock, connections or goroutines; [Connections] gives it these. On the way of a message
// there is nothing of either, and no tenant costs memory unless it is a candidate or failed.
package isolation
