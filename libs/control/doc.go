// Package control is the control channel between the services: the desired state of every tenant and what the instances
// of ingest-service observed of it, in two JetStream key-value buckets of NATS (see package contract).
//
// What it guarantees:
//
//   - A connection that is never given up. NATS may be down when a service starts and may go away at any time.
//   - A [Bucket] that is missing, because NATS lost its data or somebody deleted it, is made again by the first that needs it.
//   - [Bucket.Watch] tells its handler the latest value of every key at least once, also across restarts of NATS, lost
//     connections, and wiped or recreated buckets. Values of one key arrive in the order in which they were written.
//     Values in between may be left out: a bucket keeps one value a key.
//
// What it does not: a bucket is no source of truth. A wiped bucket looks like the deletion of every key, and what that
// means is for the handler to decide; for [Tenants] it never means that tenants are gone (the registry puts them back).
//
// Why the watch is supervised: a plain watcher of the client library missed changes for 14 seconds after a restart of
// the server, and for good after its bucket had been recreated. A new watch right after the reconnect needs 0.2 s.
package control
