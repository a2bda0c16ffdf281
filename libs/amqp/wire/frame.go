package wire

import "errors"

// The frames of AMQP 0-9-1 (section 4.2.3 of the specification), as far as a delivery is made of them.
const (
	frameMethod    = 1
	frameHeader    = 2
	frameBody      = 3
	frameHeartbeat = 8
	frameEnd       = 0xCE

	// frameStart is the length of type, channel and size; frameSides of all that surrounds a payload.
	frameStart = 1 + 2 + 4
	frameSides = frameStart + 1

	// basicDeliver are class and method of basic.deliver.
	basicDeliver = 60<<16 | 60
	classBasic   = 60
)

// errMalformed says that the broker has sent what is not AMQP. The connection cannot be trusted any more.
var errMalformed = errors.New("malformed AMQP frame")
