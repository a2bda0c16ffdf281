// Package amqptest is for tests of what speaks AMQP 0-9-1.
//
// [Conn] is a small client that sends the properties of a message as bytes, so that a test can publish what no library would write:
// deep and doubled headers, tables that lie about their length, unknown field types. It checks nothing that it sends, and reads
// frames of any size and depth. [Proxy] stands between a client and the broker, and does what networks and alarms do. What starts
// with a test ends with it ([Run]).
package amqptest

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// FrameMax is the largest frame that is agreed upon with the broker, in bytes: the default of both sides.
	FrameMax = 131072
	// MaxProperties is the most that [Conn.Publish] can send as properties: a frame without what surrounds its payload (8
	// bytes), class, weight and size of the body (12).
	MaxProperties = FrameMax - 8 - 12
	// timeout bounds every wait for the broker.
	timeout = 30 * time.Second
)

var (
	// ErrReturned says that the broker could route a message to no queue.
	ErrReturned = errors.New("the message was returned")
	// ErrRefused says that the broker answered a message with a nack.
	ErrRefused = errors.New("the message was refused")
)

// ExceptionError says that the broker has closed the channel or the connection.
type ExceptionError struct {
	Code uint16
	Text string
	// Connection says that it was the connection. After a closed channel the next call opens a new one.
	Connection bool
}

func (e *ExceptionError) Error() string { return fmt.Sprintf("exception %d: %s", e.Code, e.Text) }

// Class and method of the methods that are used, as in the XML of the specification.
const (
	connectionStart     = 10<<16 | 10
	connectionStartOk   = 10<<16 | 11
	connectionTune      = 10<<16 | 30
	connectionTuneOk    = 10<<16 | 31
	connectionOpen      = 10<<16 | 40
	connectionOpenOk    = 10<<16 | 41
	connectionClose     = 10<<16 | 50
	connectionCloseOk   = 10<<16 | 51
	connectionBlocked   = 10<<16 | 60
	connectionUnblocked = 10<<16 | 61
	channelOpen         = 20<<16 | 10
	channelOpenOk       = 20<<16 | 11
	channelClose        = 20<<16 | 40
	channelCloseOk      = 20<<16 | 41
	confirmSelect       = 85<<16 | 10
	confirmSelectOk     = 85<<16 | 11
	basicPublish        = 60<<16 | 40
	basicReturn         = 60<<16 | 50
	basicGet            = 60<<16 | 70
	basicGetOk          = 60<<16 | 71
	basicGetEmpty       = 60<<16 | 72
	basicAck            = 60<<16 | 80
	basicNack           = 60<<16 | 120
)

const (
	frameMethod = 1
	frameHeader = 2
	frameBody   = 3
	frameEnd    = 0xCE
)

// Conn is a connection with one channel in confirm mode. It is for one goroutine at a time.
type Conn struct {
	socket net.Conn
	reader *bufio.Reader
	opened bool // the channel
}

// Dial connects to url, until ctx ends or [Conn.Close] is called.
func Dial(ctx context.Context, url string) (*Conn, error) {
	uri, err := amqp.ParseURI(url)
	if err != nil {
		return nil, fmt.Errorf("parse URL: %w", err)
	}
	var dialer net.Dialer
	socket, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port)))
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	c := &Conn{socket: socket, reader: bufio.NewReader(socket)}
	if err := c.shakeHands(uri); err != nil {
		return nil, errors.Join(fmt.Errorf("connect: %w", err), socket.Close())
	}
	return c, nil
}

func (c *Conn) shakeHands(uri amqp.URI) error {
	if err := c.send([]byte("AMQP\x00\x00\x09\x01")); err != nil {
		return err
	}
	if _, _, err := c.expect(connectionStart); err != nil {
		return err
	}
	answer := method(connectionStartOk, Long(nil), Short("PLAIN"), Long([]byte("\x00"+uri.Username+"\x00"+uri.Password)), Short("en_US"))
	if err := c.send(frame(frameMethod, 0, answer)); err != nil {
		return err
	}
	if _, _, err := c.expect(connectionTune); err != nil {
		return err
	}
	tune := binary.BigEndian.AppendUint16(nil, 16)       // channels; 0 is more than the broker allows
	tune = binary.BigEndian.AppendUint32(tune, FrameMax) // frame_max
	tune = binary.BigEndian.AppendUint16(tune, 0)        // no heartbeats
	open := method(connectionOpen, Short(uri.Vhost), []byte{0, 0})
	if err := c.send(append(frame(frameMethod, 0, method(connectionTuneOk, tune)), frame(frameMethod, 0, open)...)); err != nil {
		return err
	}
	_, _, err := c.expect(connectionOpenOk)
	return err
}

// open makes the channel unless there is one.
func (c *Conn) open() error {
	if c.opened {
		return nil
	}
	if err := c.send(frame(frameMethod, 1, method(channelOpen, []byte{0}))); err != nil {
		return err
	}
	if _, _, err := c.expect(channelOpenOk); err != nil {
		return err
	}
	if err := c.send(frame(frameMethod, 1, method(confirmSelect, []byte{0}))); err != nil {
		return err
	}
	_, _, err := c.expect(confirmSelectOk)
	c.opened = err == nil
	return err
}

// Publish sends a mandatory message and waits for its confirmation. properties are what follows the size of the body in a
// content header: flags and values, as [Properties.Encode] has them. The error is [ErrReturned], [ErrRefused], an
// [*ExceptionError], or that of the socket.
func (c *Conn) Publish(exchange, key string, properties, body []byte) error {
	if err := c.open(); err != nil {
		return err
	}
	const mandatory = 1
	message := frame(frameMethod, 1, method(basicPublish, []byte{0, 0}, Short(exchange), Short(key), []byte{mandatory}))
	header := binary.BigEndian.AppendUint64([]byte{0, 60, 0, 0}, uint64(len(body)))
	message = append(message, frame(frameHeader, 1, append(header, properties...))...)
	for len(body) > 0 {
		n := min(len(body), FrameMax-8)
		message = append(message, frame(frameBody, 1, body[:n])...)
		body = body[n:]
	}
	if err := c.send(message); err != nil {
		return err
	}
	returned := false
	for {
		id, _, err := c.expect(basicAck, basicNack, basicReturn)
		switch {
		case err != nil:
			return err
		case id == basicReturn:
			if _, err := c.content(); err != nil {
				return err
			}
			returned = true
		case id == basicNack:
			return ErrRefused
		case returned:
			return ErrReturned
		default:
			return nil
		}
	}
}

// Message is what [Conn.Get] has received.
type Message struct {
	Exchange, Key string
	// Properties are flags and values as on the wire.
	Properties, Body []byte
}

// Get takes a message from queue, without acknowledgement; nil if there is none.
func (c *Conn) Get(queue string) (*Message, error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	const noAck = 1
	if err := c.send(frame(frameMethod, 1, method(basicGet, []byte{0, 0}, Short(queue), []byte{noAck}))); err != nil {
		return nil, err
	}
	id, arguments, err := c.expect(basicGetOk, basicGetEmpty)
	if err != nil || id == basicGetEmpty {
		return nil, err
	}
	const tagAndRedelivered = 9
	exchange, rest := short(arguments[tagAndRedelivered:])
	key, _ := short(rest)
	m, err := c.content()
	if err != nil {
		return nil, err
	}
	m.Exchange, m.Key = exchange, key
	return m, nil
}

// content reads header and body of a message.
func (c *Conn) content() (*Message, error) {
	kind, header, err := c.receive()
	if err != nil {
		return nil, err
	}
	if kind != frameHeader || len(header) < 14 {
		return nil, fmt.Errorf("a frame of type %d in place of a header", kind)
	}
	m := &Message{Properties: header[12:], Body: []byte{}}
	for size := binary.BigEndian.Uint64(header[4:]); uint64(len(m.Body)) < size; {
		kind, part, err := c.receive()
		if err != nil {
			return nil, err
		}
		if kind != frameBody {
			return nil, fmt.Errorf("a frame of type %d in place of a body", kind)
		}
		m.Body = append(m.Body, part...)
	}
	return m, nil
}

// Close ends the connection without a word to the broker.
func (c *Conn) Close() error { return c.socket.Close() }

func (c *Conn) send(b []byte) error {
	if err := c.socket.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	_, err := c.socket.Write(b)
	return err
}

// receive reads a frame.
func (c *Conn) receive() (kind byte, payload []byte, err error) {
	var start [7]byte
	if _, err := io.ReadFull(c.reader, start[:]); err != nil {
		return 0, nil, err
	}
	payload = make([]byte, int(binary.BigEndian.Uint32(start[3:]))+1)
	if _, err := io.ReadFull(c.reader, payload); err != nil {
		return 0, nil, err
	}
	if payload[len(payload)-1] != frameEnd {
		return 0, nil, errors.New("a frame without its end")
	}
	return start[0], payload[:len(payload)-1], nil
}

// expect waits for one of some methods.
func (c *Conn) expect(methods ...uint32) (id uint32, arguments []byte, err error) {
	kind, payload, err := c.receive()
	if err != nil {
		return 0, nil, err
	}
	if kind != frameMethod || len(payload) < 4 {
		return 0, nil, fmt.Errorf("a frame of type %d in place of a method", kind)
	}
	id, arguments = binary.BigEndian.Uint32(payload), payload[4:]
	if slices.Contains(methods, id) {
		return id, arguments, nil
	}
	if id != connectionClose && id != channelClose {
		return 0, nil, fmt.Errorf("unexpected method %d.%d", id>>16, id&0xffff)
	}
	text, _ := short(arguments[2:])
	exception := &ExceptionError{Code: binary.BigEndian.Uint16(arguments), Text: text, Connection: id == connectionClose}
	c.opened = false
	channel, answer := uint16(1), uint32(channelCloseOk)
	if exception.Connection {
		channel, answer = 0, connectionCloseOk
	}
	return 0, nil, errors.Join(exception, c.send(frame(frameMethod, channel, method(answer))))
}
