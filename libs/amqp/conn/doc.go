// Package conn keeps connections to RabbitMQ alive.
//
// A [Link] owns one connection: it dials, watches and dials again for ever, with jitter. What lives on the connection
// belongs to a [Session]; when the connection is lost the session is over, its channels are dead, and the code that used it
// waits for the next one. Nothing is recovered behind the caller's back: the recovery that amqp091-go has built in
// starts the delivery tags of a channel again, so that the acknowledgement of an old delivery confirms a new one that
// nobody has processed (silent loss; seen with v1.16.0). Config.Recovery therefore stays nil.
//
// No call of this package, nor of publish and consume above it, waits for the network longer than its context. amqp091-go writes to
// the socket under locks that its callers share, so one connection that the broker no longer reads stops everyone, close included.
// Here writes go into a buffer that one goroutine of the connection empties (see stream); as a side effect many small frames become
// one system call.
package conn
