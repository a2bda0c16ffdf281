// Package publish publishes over the connections of package conn so that success means that the broker has taken responsibility.
//
// A [Publisher] sends every message with publisher confirms and mandatory, over several channels, and answers each
// with exactly what happened to it: confirmed, returned as unroutable ([ErrUnroutable]), refused by a full queue
// ([ErrRejected]), held up by an alarm of the broker ([conn.ErrBlocked]), or unknown because the connection was lost or there
// is none ([conn.ErrUnavailable]). Except after ErrUnroutable and ErrRejected, a message that was not confirmed may still
// have been accepted: publish it again under the same message id.
//
// A queue that does not answer, such as a quorum queue without a leader, takes everything down that shares a channel with it.
// [NewWithTrials] confines it.
package publish
