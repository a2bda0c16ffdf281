// Package rate holds limits per second that apply to the sum of all instances of a service.
//
// Each limit of each tenant has one token bucket, a quarter of a second deep, on the instance that owns the tenant: the first one in
// a ranking that every instance computes for itself. The others borrow from it ([Limiter]), at most one request for each pair of
// instances every 20 ms, which names all tenants that need tokens at that time. A limit that nobody comes near costs a request a
// tenth of a second; a tenant without a limit costs nothing at all.
//
// What is guaranteed: as long as the instances reach each other, no more passes in any window than the limit allows for it, what the
// bucket holds, one message, and what each instance has borrowed and not used (20 ms of the limit). A bucket begins empty on an
// instance that has become the owner. An instance that cannot reach the owner takes the limit divided by the number of instances that
// it knew of last, from a bucket of its own: never too much in sum while all are alive, too little where the load is uneven. One that
// alone is cut off, while the others go on, adds that share to the limit. An owner that has died counts as alive until its heartbeat
// runs out, and its tenants have those shares until then. One of a version without this package is like one that has died, and
// limits nothing itself.
//
// A cost may be larger than what a bucket holds, a large payload under a small limit: it passes once there is a token, and the bucket
// is in debt for as long as the limit needs for it. What is borrowed and lost with an instance is not lent again. Fairness between
// the instances is kept to this: while a bucket is short, each of those that asked within a second gets an equal part of what is there.
//
// An instance that lends has to be one of those that are alive. One that only borrows need not be: it has to know them.
package rate
