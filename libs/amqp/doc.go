// Package rabbitmq keeps connections to RabbitMQ alive and publishes over them so that success means that the broker
// has taken responsibility.
//
// A [Link] owns one connection: it dials, watches and dials again for ever, with jitter. What lives on the connection
// belongs to a [Session]; when the connection is lost the session is over, its channels are dead, and whoever used it
// waits for the next one. Nothing is recovered behind the caller's back: the recovery that amqp091-go has built in
// starts the delivery tags of a channel again, so that the acknowledgement of an old delivery confirms a new one that
// nobody has processed (silent loss; seen with v1.16.0). Config.Recovery therefore stays nil.
//
// A [Publisher] sends every message with publisher confirms and mandatory, over several channels, and answers each
// with exactly what happened to it: confirmed, returned as unroutable ([ErrUnroutable]), refused by a full queue
// ([ErrRejected]), held up by an alarm of the broker ([ErrBlocked]), or unknown because the connection was lost or there
// is none ([ErrUnavailable]). Except after ErrUnroutable and ErrRejected, a message that was not confirmed may still
// have been accepted: publish it again under the same message id.
//
// A queue that does not answer, such as a quorum queue without a leader, takes everything down that shares a channel (when
// publishing) or a connection (when consuming) with it. [Publisher.WithProbeLink] and [Link.WithProbeLink] confine it.
//
// No call of this package waits for the network longer than its context. amqp091-go writes to the socket under locks
// that its callers share, so one connection that the broker no longer reads stops everyone, close included. Here writes
// go into a buffer that one goroutine of the connection empties (see stream); as a side effect many small frames become
// one system call.
package rabbitmq
