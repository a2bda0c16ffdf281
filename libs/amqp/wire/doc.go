// Package wire reads deliveries from the frames of a connection, below amqp091-go, which reads all the rest of it through the
// [Reader]: ten times as fast, and whatever headers a producer has written
// (docs/adr/0010-deliveries-are-read-below-the-library.md). Nothing outside of it knows of frames: a consumer's deliveries go to its
// [Sink]. A connection works without it as well, since the library can read deliveries, too (rabbitmq.reader: library).
package wire
