package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/header"
)

const (
	// readFirst and readMost are how much is read from the socket at a time, at first and once that was not enough. amqp091-go
	// reads 4 KB at a time, a system call for every three messages of a kilobyte.
	readFirst, readMost = 32 << 10, 256 << 10
	// maxBodyPrealloc is how much memory a message gets before its bytes have come, at most: a size is easily said.
	maxBodyPrealloc = 1 << 20
	// feedEvery is how often the library gets to see something while there are only deliveries: without it the library takes a
	// broker for dead after three heartbeats, of a second at the least.
	feedEvery = 500 * time.Millisecond
	// maxPayload is far above any frame that is agreed upon (128 KB is the default of both sides).
	maxPayload = 1 << 30
	// maxWhole is the largest frame of a method or a header that is read in one piece. A broker whose frame_max is raised sends
	// headers that are larger than what this side has agreed to, if another client has published them.
	maxWhole = 16 << 20
)

// Sink receives the deliveries of one consumer. The goroutine that reads calls it.
type Sink interface {
	// Put adds a delivery. Its headers are not decoded: properties has all of its properties as they came, in memory that it shares
	// with the body.
	Put(d amqp.Delivery, properties header.Properties)
	// Wake follows one or more calls of Put, once everything that had arrived has been read.
	Wake()
}

// Reader is what amqp091-go reads a connection from. It takes out the deliveries of those consumers that have a [Sink], and
// leaves everything else to the library.
//
// The library makes 36 allocations and wakes three goroutines for each delivery: one for the deadline of each of its frames, one
// that passes it on, and the consumer. Here it is read where it lies, its body copied once, and the consumer woken when
// nothing more is there to be read.
type Reader struct {
	socket *lowWaterSocket

	// All of these are owned by the goroutine that reads.
	buffer   []byte
	from, to int  // what of buffer has been read and not yet been used
	filled   bool // the last read has filled buffer: there is more
	// through is what the library gets next: a part of buffer before from, or a frame of ours.
	through []byte
	// passing is how many bytes of the current frame, behind those of through, are for the library, too.
	passing  int
	contents map[uint16]*content // by channel: deliveries of which a part has come
	spare    *content            // emptied, for the next one
	current  *content            // the one of which a part of the body begins at from
	missing  int                 // how much of that part, and the end of its frame, has not come
	touched  []*consumer
	passed   time.Time // when the library got something the last time
	hidden   bool      // something has been kept from it since

	mu        sync.Mutex
	consumers map[string]*consumer // guarded by mu: by tag; nil: what comes is dropped
	err       error                // guarded by mu: what ended reading
	broken    string               // guarded by mu: the tag of the consumer whose delivery that was, if it was one
}

// consumer is a consumer whose deliveries are taken out. All of it is owned by the goroutine that reads.
type consumer struct {
	sink Sink // nil if nobody wants what comes
	// last has the texts of the delivery that came last. They hardly ever change.
	last amqp.Delivery
	// touched says that something has come since the last wake-up.
	touched bool
}

// content is a delivery of which a part has come.
type content struct {
	channel    uint16
	consumer   *consumer
	delivery   amqp.Delivery
	properties header.Properties
	headed     bool   // its header has come
	left       uint64 // bytes of its body that have not
}

// NewReader returns the reader of a socket, or of TLS on one.
func NewReader(socket net.Conn) *Reader {
	return &Reader{socket: newLowWaterSocket(socket), buffer: make([]byte, readFirst), contents: map[uint16]*content{}, consumers: map[string]*consumer{}}
}

// Open has what comes for the consumer with this tag put into sink. Call it before the consumer exists.
func (r *Reader) Open(tag string, sink Sink) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.consumers[tag] = &consumer{sink: sink}
}

// Discard has what still comes for the consumer dropped. The library, which would drop it as well, reads its headers first, and
// ends the connection over those of some producers.
func (r *Reader) Discard(tag string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, open := r.consumers[tag]; open {
		r.consumers[tag] = nil
	}
}

// Close forgets the consumer, for which nothing can come any more.
func (r *Reader) Close(tag string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.consumers, tag)
}

// consumerOf is the consumer with that tag, one without a sink if its deliveries are dropped, and nil for consumers of the library.
func (r *Reader) consumerOf(tag []byte) *consumer {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ours := r.consumers[string(tag)]
	if ours && c == nil {
		return &consumer{}
	}
	return c
}

// Read gives the library what is its. It is for one goroutine at a time.
func (r *Reader) Read(p []byte) (int, error) {
	for {
		if len(r.through) > 0 {
			n := copy(p, r.through)
			r.through = r.through[n:]
			return n, nil
		}
		if err := r.next(); err != nil {
			r.wake() // what has come whole is good
			r.fail(err)
			return 0, err
		}
	}
}

// fail keeps what ended reading, and whose delivery could not be read.
func (r *Reader) fail(err error) {
	broken := ""
	if errors.Is(err, errMalformed) {
		broken = r.consumerAt()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err, r.broken = err, broken
}

// consumerAt is the tag of the consumer to which the frame at from belongs; empty if that cannot be told.
func (r *Reader) consumerAt() string {
	if r.current != nil {
		return r.tagOf(r.current.consumer)
	}
	if r.to-r.from < frameStart {
		return ""
	}
	frame := r.buffer[r.from:r.to]
	if content := r.contents[binary.BigEndian.Uint16(frame[1:])]; content != nil {
		return r.tagOf(content.consumer)
	}
	c := header.Cursor{Left: frame[frameStart:]}
	if frame[0] != frameMethod || c.Uint32() != basicDeliver {
		return ""
	}
	return r.tagOf(r.consumerOf(c.Short()))
}

func (r *Reader) tagOf(c *consumer) string {
	if c == nil {
		return "" // its consumer has ended
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for tag, known := range r.consumers {
		if known == c {
			return tag
		}
	}
	return ""
}

// Failure is what ended reading, nil while it continues, and the tag of the consumer whose delivery could not be read, if it was
// that.
func (r *Reader) Failure() (consumer string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.broken, r.err
}

// next deals with what lies at from: a frame, or more of the one that was begun.
func (r *Reader) next() error {
	switch {
	case r.passing > 0:
		return r.pass()
	case r.missing > 0:
		return r.goOn()
	}
	start, err := r.need(frameStart)
	if err != nil || start == nil {
		return err
	}
	channel, size := binary.BigEndian.Uint16(start[1:]), binary.BigEndian.Uint32(start[3:])
	payload := int(size)
	switch {
	case size > maxPayload:
		// No broker sends that. From here on the library says what it makes of it.
		r.passing = math.MaxInt
	case start[0] == frameMethod:
		return r.method(channel, payload)
	case start[0] == frameHeader:
		return r.contentHeader(channel, payload)
	case start[0] == frameBody:
		return r.body(channel, payload)
	case start[0] == frameHeartbeat:
		r.passing = payload + frameSides
	default: // not even AMQP
		r.passing = math.MaxInt
	}
	return nil
}

// pass hands the library what is there of the current frame.
func (r *Reader) pass() error {
	if r.from == r.to {
		return r.fill()
	}
	n := min(r.passing, r.to-r.from)
	r.through = r.buffer[r.from : r.from+n]
	r.from, r.passing = r.from+n, r.passing-n
	r.hidden = false
	return nil
}

// whole is a frame with all that surrounds it, once it is there; nil before.
func (r *Reader) whole(payload int) ([]byte, error) {
	frame, err := r.need(payload + frameSides)
	if frame != nil && frame[len(frame)-1] != frameEnd {
		return nil, errMalformed
	}
	return frame, err
}

// method looks for deliveries.
func (r *Reader) method(channel uint16, payload int) error {
	const ids = 4
	delete(r.contents, channel) // any other method ends a content that is not complete
	start, err := r.need(frameStart + ids)
	if err != nil || start == nil {
		return err
	}
	if payload < ids || binary.BigEndian.Uint32(start[frameStart:]) != basicDeliver {
		r.passing = payload + frameSides
		return nil
	}
	frame, err := r.whole(payload)
	if err != nil || frame == nil {
		return err
	}
	c := header.Cursor{Left: frame[frameStart+ids : len(frame)-1]}
	consumer := r.consumerOf(c.Short())
	if consumer == nil {
		r.passing = len(frame)
		return nil
	}
	delivery := consumer.last
	delivery.DeliveryTag = c.Uint64()
	delivery.Redelivered = c.Uint8()&1 != 0
	delivery.Exchange = header.Same(delivery.Exchange, c.Short())
	delivery.RoutingKey = header.Same(delivery.RoutingKey, c.Short())
	if c.Failed || len(c.Left) > 0 {
		return errMalformed
	}
	begun := r.spare
	if begun == nil {
		begun = &content{}
	}
	r.spare = nil
	*begun = content{channel: channel, consumer: consumer, delivery: delivery}
	r.contents[channel] = begun
	r.skip(len(frame))
	return nil
}

// contentHeader takes the properties of a delivery.
func (r *Reader) contentHeader(channel uint16, payload int) error {
	content := r.contents[channel]
	if content == nil {
		r.passing = payload + frameSides
		return nil
	}
	frame, err := r.whole(payload)
	if err != nil || frame == nil {
		return err
	}
	c := header.Cursor{Left: frame[frameStart : len(frame)-1]}
	class, _ := c.Uint16(), c.Uint16() // the second one is the weight, which is not used
	content.left = c.Uint64()
	encoded := c.Left
	c.ReadProperties(&content.delivery)
	if c.Failed || class != classBasic || content.headed {
		return errMalformed
	}
	// What may be left is padding, with which other implementations fill it up.
	content.headed = true
	content.consumer.last = amqp.Delivery{
		Exchange: content.delivery.Exchange, RoutingKey: content.delivery.RoutingKey, UserId: content.delivery.UserId,
		ContentType: content.delivery.ContentType, ContentEncoding: content.delivery.ContentEncoding,
		Type: content.delivery.Type, AppId: content.delivery.AppId,
	}
	// Properties and body share their memory: one allocation for both.
	n := len(encoded) - len(c.Left)
	memory := append(make([]byte, 0, n+int(min(content.left, maxBodyPrealloc))), encoded[:n]...)
	content.properties, content.delivery.Body = header.Properties(memory[:n:n]), memory[n:]
	r.skip(len(frame))
	r.shrink()
	if content.left == 0 {
		r.complete(content)
	}
	return nil
}

// shrink lets go of a buffer that has grown for one large header.
func (r *Reader) shrink() {
	if rest := r.to - r.from; len(r.buffer) > 2*readMost && rest <= readMost {
		smaller := make([]byte, readMost)
		r.from, r.to, r.buffer = 0, copy(smaller, r.buffer[r.from:r.to]), smaller
	}
}

// body begins a part of the body of a delivery.
func (r *Reader) body(channel uint16, payload int) error {
	content := r.contents[channel]
	if content == nil {
		r.passing = payload + frameSides
		return nil
	}
	if !content.headed || uint64(payload) > content.left {
		return errMalformed
	}
	r.current, r.missing = content, payload+1 // and the end of the frame
	r.skip(frameStart)
	return nil
}

// reserve makes room in the body for n more bytes: twice as much as there was, and never more than will come. append would make room
// for a quarter more, which copies a large body four times, and may leave a quarter of it empty.
func (c *content) reserve(n int) {
	body := c.delivery.Body
	if len(body)+n <= cap(body) {
		return
	}
	grown := make([]byte, len(body), min(uint64(len(body))+c.left, uint64(max(2*cap(body), len(body)+n))))
	copy(grown, body)
	c.delivery.Body = grown
}

// goOn takes what is there of a part of a body.
func (r *Reader) goOn() error {
	if r.from == r.to {
		return r.fill()
	}
	content := r.current
	n := min(r.missing-1, r.to-r.from)
	content.reserve(n)
	content.delivery.Body = append(content.delivery.Body, r.buffer[r.from:r.from+n]...)
	content.left -= uint64(n)
	r.skip(n)
	if r.missing -= n; r.missing > 1 || r.from == r.to {
		return nil
	}
	if r.buffer[r.from] != frameEnd {
		return errMalformed
	}
	r.skip(1)
	r.current, r.missing = nil, 0
	if content.left == 0 {
		r.complete(content)
	}
	return nil
}

func (r *Reader) complete(c *content) {
	delete(r.contents, c.channel)
	r.socket.delivered()
	if c.consumer.sink != nil {
		c.consumer.sink.Put(c.delivery, c.properties)
		if !c.consumer.touched {
			c.consumer.touched = true
			r.touched = append(r.touched, c.consumer)
		}
	}
	*c = content{} // it would keep the body
	r.spare = c
}

// skip uses n bytes that are there, which the library does not get to see.
func (r *Reader) skip(n int) {
	r.from += n
	r.hidden = true
}

// need is the next n bytes, or nil when there is something to be done before.
func (r *Reader) need(n int) ([]byte, error) {
	if r.to-r.from >= n {
		return r.buffer[r.from : r.from+n], nil
	}
	if n > len(r.buffer) {
		if n > maxWhole {
			return nil, fmt.Errorf("%w: a method or header of %d bytes", errMalformed, n)
		}
		grown := make([]byte, n)
		r.from, r.to, r.buffer = 0, copy(grown, r.buffer[r.from:r.to]), grown
	}
	return nil, r.fill()
}

// fill reads what there is, but first tells everybody what has come.
func (r *Reader) fill() error {
	r.wake()
	now := time.Now()
	if r.feed(now) {
		return nil
	}
	r.makeRoom()
	n, err := r.socket.read(r.buffer[r.to:], now, r.filled)
	r.to += n
	r.filled = r.to == len(r.buffer)
	if n > 0 {
		return nil
	}
	return err
}

// makeRoom moves what has not been used to the front of buffer, which grows when it was full.
func (r *Reader) makeRoom() {
	rest := r.buffer[r.from:r.to]
	if r.to == len(r.buffer) && len(r.buffer) < readMost {
		r.buffer = make([]byte, 2*len(r.buffer))
	}
	r.from, r.to = 0, copy(r.buffer, rest)
}

// wake tells the consumers that something has come.
func (r *Reader) wake() {
	for _, c := range r.touched {
		c.touched = false
		c.sink.Wake()
	}
	clear(r.touched)
	r.touched = r.touched[:0]
}

// heartbeat is a whole frame: on channel 0, without a payload.
var heartbeat = []byte{frameHeartbeat, 0, 0, 0, 0, 0, 0, frameEnd} //nolint:gochecknoglobals // a constant, if Go had such

// feed lets the library know, every now and then, that the broker is alive, when all that it sends are deliveries.
func (r *Reader) feed(now time.Time) bool {
	if !r.hidden || r.passing > 0 {
		r.passed = now
		return false
	}
	if now.Sub(r.passed) < feedEvery {
		return false
	}
	r.through, r.passed, r.hidden = heartbeat, now, false
	return true
}
