// Package traffic uses a platform while things go wrong in it, and finds out whether it has kept its promises.
//
// Producers publish to many tenants, over HTTP and AMQP, and repeat whatever they got no clear answer to, under the same
// id, until it is confirmed. Followers read each tenant with one cursor, through every restart. A ledger keeps what was
// offered and what was confirmed. At the end a judge holds every row of the database, every dead letter and everything
// that was read against the ledger: see [Verdict] for what it counts.
//
// An operator, if asked to, changes the limits of tenants meanwhile, and issues and revokes tokens and AMQP credentials, which go on
// being tried: what a limit declines must not be stored, and what is accepted after a revocation is noted.
// Some tenants keep their messages for seconds: a trigger notes what is removed from them, and nothing else may be gone.
//
// The ledger is compact, so that a run of millions of messages fits: a message is its tenant and a sequence number, from
// which its id, its content and, if it is poison, its fault follow. A set of messages is a bitset.
//
// It trusts nothing that the platform says but the one thing that producers rely on: that a confirmed message is stored.
package traffic
