package conn

import (
	"errors"
	"fmt"
)

// Why there is no connection, or it does not do what it is for. Test with errors.Is.
var (
	// ErrUnavailable: there is no connection, or it was lost before the answer came. In the second case a message may have been
	// accepted.
	ErrUnavailable = errors.New("broker unavailable")
	// ErrBlocked: the broker has an alarm (memory, disk) and takes no messages. A message that was already on its way
	// may be accepted when the alarm is over.
	ErrBlocked = errors.New("broker blocked")
	// ErrUnanswered: the queue does not answer, although the broker does, as a quorum queue without a leader. For a
	// publishing it comes with ErrUnavailable.
	ErrUnanswered = errors.New("queue does not answer")
)

// LostError says why a connection that was up is gone. It wraps [ErrUnavailable] and the cause.
type LostError struct {
	Cause error
	// Explained says that no delivery can be the cause: the broker shuts down or was told to close the connection (code 320,
	// CONNECTION_FORCED), has been silent for longer than its heartbeats allow, or reads nothing any more.
	Explained bool
	// Consumer is the tag of the consumer whose delivery could not be read; empty if the cause is another one. Tags are those of
	// [Session.ConsumerTag].
	Consumer string
}

func (e *LostError) Error() string {
	return fmt.Sprintf("%v: connection lost: %v", ErrUnavailable, e.Cause)
}

// Unwrap is for errors.Is and errors.As.
func (e *LostError) Unwrap() []error { return []error{ErrUnavailable, e.Cause} }
