package consume

import (
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/header"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/wire"
)

// reader brings the deliveries of a session's consumers into their inboxes: from the frames ([conn.ReaderWire]) or from the library
// ([conn.ReaderLibrary]).
type reader interface {
	// open comes before the consumer with this tag exists.
	open(tag string, b *inbox)
	// started returns what is closed when the consumer has ended. deliveries is what the library gives for it.
	started(b *inbox, deliveries <-chan amqp.Delivery) (ended <-chan amqp.Delivery, err error)
	// discard has what still comes for the consumer dropped.
	discard(tag string)
	// close forgets the consumer, for which nothing can come any more.
	close(tag string)
}

func readerOf(session *conn.Session) reader {
	if frames := session.Wire(); frames != nil {
		return wireReader{frames}
	}
	return libraryReader{session}
}

// wireReader has deliveries taken out of the frames, before the library sees them: it gives none.
type wireReader struct{ frames *wire.Reader }

func (r wireReader) open(tag string, b *inbox) { r.frames.Open(tag, b) }

func (wireReader) started(_ *inbox, deliveries <-chan amqp.Delivery) (<-chan amqp.Delivery, error) {
	return deliveries, nil
}

func (r wireReader) discard(tag string) { r.frames.Discard(tag) }

func (r wireReader) close(tag string) { r.frames.Close(tag) }

// libraryReader puts the deliveries of the library into the inbox, as if they had been read from their frames.
type libraryReader struct{ session *conn.Session }

func (libraryReader) open(string, *inbox) {}

func (r libraryReader) started(b *inbox, deliveries <-chan amqp.Delivery) (<-chan amqp.Delivery, error) {
	ended := make(chan amqp.Delivery)
	// The library closes its channel when the consumer, its channel or the connection ends.
	pass := func() {
		defer close(ended)
		for d := range deliveries {
			b.Put(fromLibrary(d))
			b.Wake()
		}
	}
	if !r.session.Spawn(pass) {
		return nil, r.session.Err()
	}
	return ended, nil
}

func (libraryReader) discard(string) {}

func (libraryReader) close(string) {}

// fromLibrary is a delivery of amqp091-go as it would have come from its frames. What the library does not tell, such as the order of
// headers, names that occur twice and properties that were sent empty, is lost.
func fromLibrary(d amqp.Delivery) (amqp.Delivery, header.Properties) {
	p := header.Encode(&d)
	d.Headers, d.Acknowledger, d.ConsumerTag = nil, nil, ""
	return d, p
}
