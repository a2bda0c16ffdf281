package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/header"
)

// chunks is a connection that gives what it has in pieces of the given sizes, the last of which is repeated.
type chunks struct {
	net.Conn // nil: nothing but reading is asked for
	content  []byte
	sizes    []int
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.content) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.content[:min(len(c.content), c.sizes[0])])
	c.content = c.content[n:]
	if len(c.sizes) > 1 {
		c.sizes = c.sizes[1:]
	}
	return n, nil
}

// The flags of those properties that are in these tests (AMQP 0-9-1, section 4.2.6.1).
const (
	hasContentType = 1 << 15
	hasHeaders     = 1 << 13
	hasMessageID   = 1 << 7
	hasClusterID   = 1 << 2
)

// inbox is a sink that keeps what it gets.
type inbox struct {
	mu         sync.Mutex
	deliveries []delivered // guarded by mu
	woken      bool        // guarded by mu
}

type delivered struct {
	amqp.Delivery
	Properties header.Properties
}

func open(r *Reader, tag string) *inbox {
	b := &inbox{}
	r.Open(tag, b)
	return b
}

func (b *inbox) Put(d amqp.Delivery, properties header.Properties) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.deliveries = append(b.deliveries, delivered{d, properties})
}

func (b *inbox) Wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.woken = true
}

func (b *inbox) drain() []delivered {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.deliveries
}

func short(s string) []byte { return append([]byte{byte(len(s))}, s...) }

func frame(kind byte, channel uint16, payload []byte) []byte {
	f := binary.BigEndian.AppendUint16([]byte{kind}, channel)
	f = binary.BigEndian.AppendUint32(f, uint32(len(payload)))
	return append(append(f, payload...), frameEnd)
}

// deliver are the frames of a delivery with a message id and a body, of which each frame has at most bodyFrame bytes.
func deliver(channel uint16, tag string, d amqp.Delivery, bodyFrame int) (frames [][]byte) {
	method := binary.BigEndian.AppendUint32(nil, basicDeliver)
	method = append(method, short(tag)...)
	method = binary.BigEndian.AppendUint64(method, d.DeliveryTag)
	method = append(method, 0)
	if d.Redelivered {
		method[len(method)-1] = 1
	}
	method = append(append(method, short(d.Exchange)...), short(d.RoutingKey)...)
	header := binary.BigEndian.AppendUint16(nil, classBasic)
	header = binary.BigEndian.AppendUint16(header, 0)
	header = binary.BigEndian.AppendUint64(header, uint64(len(d.Body)))
	header = binary.BigEndian.AppendUint16(header, hasContentType|hasMessageID)
	header = append(append(header, short(d.ContentType)...), short(d.MessageId)...)
	frames = [][]byte{frame(frameMethod, channel, method), frame(frameHeader, channel, header)}
	for body := d.Body; len(body) > 0; body = body[min(bodyFrame, len(body)):] {
		frames = append(frames, frame(frameBody, channel, body[:min(bodyFrame, len(body))]))
	}
	return frames
}

// A frame that goes to the wrong place is a lost message or a broken connection. However frames of several channels are
// mixed and cut to pieces: each delivery for a sink is in it, whole and in order, and all other bytes are the library's.
func TestReaderProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const mine, foreign = "mine", "the library's"
		unsent := map[uint16][][]byte{} // frames that are still to be sent, by channel
		var stream, library []byte
		want := map[uint16][]amqp.Delivery{}
		send := func(channel uint16, n int) {
			for range min(n, len(unsent[channel])) {
				next := unsent[channel][0]
				unsent[channel] = unsent[channel][1:]
				stream = append(stream, next...)
			}
		}
		finish := func(channel uint16) { send(channel, math.MaxInt) }
		begin := func(channel uint16, frames [][]byte) {
			finish(channel)
			unsent[channel] = frames
		}
		channels := rapid.Uint16Range(1, 4)
		tags := map[uint16]uint64{}
		// For the library the order of the frames counts, over all channels: they are sent at once.
		whole := func(frames ...[]byte) {
			for _, f := range frames {
				stream, library = append(stream, f...), append(library, f...)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"delivery": func(t *rapid.T) {
				channel := channels.Draw(t, "channel")
				tags[channel]++
				d := amqp.Delivery{
					DeliveryTag: tags[channel], Redelivered: rapid.Bool().Draw(t, "redelivered"), Exchange: "messages",
					RoutingKey:  rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "key"),
					ContentType: rapid.SampledFrom([]string{"", "application/json"}).Draw(t, "type"),
					MessageId:   rapid.StringMatching("[a-z]{0,40}").Draw(t, "id"),
					Body:        bytes.Repeat([]byte{byte(tags[channel])}, rapid.SampledFrom([]int{0, 1, 100, 3 * readFirst}).Draw(t, "size")),
				}
				begin(channel, deliver(channel, fmt.Sprint(mine, channel), d, rapid.SampledFrom([]int{1 << 7, 1 << 17}).Draw(t, "frame")))
				want[channel] = append(want[channel], d)
			},
			"more of it": func(t *rapid.T) { send(channels.Draw(t, "channel"), rapid.IntRange(1, 3).Draw(t, "frames")) },
			"another consumer's": func(t *rapid.T) {
				channel := channels.Draw(t, "channel")
				finish(channel)
				whole(deliver(channel, foreign, amqp.Delivery{Body: []byte("not yours")}, 4)...)
			},
			"heartbeat": func(*rapid.T) { whole(frame(frameHeartbeat, 0, nil)) },
			"method": func(t *rapid.T) {
				channel := channels.Draw(t, "channel")
				finish(channel)
				method := binary.BigEndian.AppendUint32(nil, 60<<16|80)
				whole(frame(frameMethod, channel, append(method, make([]byte, rapid.SampledFrom([]int{0, 9, readFirst}).Draw(t, "size"))...)))
			},
			"the end of a channel in the middle of a delivery": func(t *rapid.T) {
				channel := channels.Draw(t, "channel")
				if len(unsent[channel]) > 0 {
					want[channel] = want[channel][:len(want[channel])-1]
				}
				unsent[channel] = nil
				whole(frame(frameMethod, channel, binary.BigEndian.AppendUint32(nil, 20<<16|40)))
			},
		})
		for channel := range unsent {
			finish(channel)
		}
		sizes := rapid.SliceOfN(rapid.OneOf(rapid.IntRange(1, 20), rapid.IntRange(1, 2*readFirst)), 1, 40).Draw(t, "chunks")
		r := NewReader(&chunks{content: stream, sizes: append(sizes, readFirst)})
		r.passed = time.Now().Add(time.Hour) // no heartbeats of ours
		inboxes := map[uint16]*inbox{}
		for channel := range uint16(5) {
			inboxes[channel] = open(r, fmt.Sprint(mine, channel))
		}
		got, err := io.ReadAll(r)
		require.NoError(t, err)
		require.True(t, bytes.Equal(library, got), "%d and %d bytes for the library", len(library), len(got))
		for channel, b := range inboxes {
			taken := b.drain()
			require.Len(t, taken, len(want[channel]))
			for i, d := range taken {
				require.Equal(t, want[channel][i], d.Delivery)
				p, headers, err := d.Properties.Decode()
				require.NoError(t, err)
				require.Nil(t, headers)
				require.Equal(t, []string{d.MessageId, d.ContentType}, []string{p.MessageId, p.ContentType})
			}
			require.Equal(t, len(taken) > 0, b.woken, "a reader that has something is woken")
		}
	})
}

// What is no AMQP ends the connection, as it does with the library; whatever it is, it ends.
func TestReaderRefusesWhatIsMalformed(t *testing.T) {
	good := deliver(1, "mine", amqp.Delivery{DeliveryTag: 1, MessageId: "id", Body: []byte("body")}, 100)
	changed := func(n int, change func(f []byte) []byte) []byte {
		var all []byte
		for i, f := range good {
			if i == n {
				f = change(bytes.Clone(f))
			}
			all = append(all, f...)
		}
		return all
	}
	setSize := func(f []byte, n int) []byte { binary.BigEndian.PutUint32(f[3:], uint32(n)); return f }
	for name, stream := range map[string][]byte{
		"a method without its end":   changed(0, func(f []byte) []byte { f[len(f)-1] = 0; return f }),
		"a header without its end":   changed(1, func(f []byte) []byte { f[len(f)-1] = 0; return f }),
		"a body without its end":     changed(2, func(f []byte) []byte { f[len(f)-1] = 0; return f }),
		"a method that is too long":  changed(0, func(f []byte) []byte { return append(setSize(f, len(f)-frameSides+1)[:len(f)-1], 0, frameEnd) }),
		"a method that is cut":       changed(0, func(f []byte) []byte { return append(setSize(f, 10)[:frameStart+10], frameEnd) }),
		"a header that is cut":       changed(1, func(f []byte) []byte { return append(setSize(f, 15)[:frameStart+15], frameEnd) }),
		"a header of another class":  changed(1, func(f []byte) []byte { f[frameStart+1] = 61; return f }),
		"a body larger than it said": changed(1, func(f []byte) []byte { binary.BigEndian.PutUint64(f[frameStart+4:], 3); return f }),
		"a body before the header":   changed(1, func([]byte) []byte { return nil }),
		"a second header":            changed(1, func(f []byte) []byte { return append(f, f...) }),
		"a huge header":              changed(1, func(f []byte) []byte { return setSize(f, maxWhole+1) }),
	} {
		t.Run(name, func(t *testing.T) {
			r := NewReader(&chunks{content: stream, sizes: []int{10}})
			open(r, "another")
			b := open(r, "mine")
			_, err := io.ReadAll(r)
			require.ErrorIs(t, err, errMalformed)
			require.Empty(t, b.drain())
			consumer, err := r.Failure()
			require.ErrorIs(t, err, errMalformed)
			require.Equal(t, "mine", consumer, "others would be tried for it")
		})
	}
	for name, stream := range map[string][]byte{
		"not AMQP": []byte("HTTP/1.1 400 Bad Request\r\n\r\nAMQP\x00\x00\x09\x01"), "a frame of another type": frame(9, 0, []byte("what")),
		"a frame that is too large": append(setSize(frame(frameBody, 0, nil), math.MaxUint32), "and so on"...),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := io.ReadAll(NewReader(&chunks{content: stream, sizes: []int{3, 100}}))
			require.NoError(t, err)
			require.Equal(t, stream, got, "the library says what is wrong with it")
		})
	}
}

// What a producer may have written into the header of a message costs nobody the connection, which other tenants share, and no
// more memory than it is long. It is kept to the byte.
func TestReaderTakesAnyHeader(t *testing.T) {
	field := func(name string, kind byte, value ...byte) []byte { return append(append(short(name), kind), value...) }
	long := func(b []byte) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }
	deep := []byte{} // from the outside: each table is as long as those inside of it
	for inside := 19_999; inside >= 0; inside-- {
		deep = append(deep, field("deeper", 'F', binary.BigEndian.AppendUint32(nil, uint32(inside*len(field("deeper", 'F', 0, 0, 0, 0))))...)...)
	}
	for name, test := range map[string]struct{ headers, behind []byte }{
		"the id of a cluster":      {field("a", 't', 1), nil},
		"padding":                  {nil, []byte{0, 0, 0}},
		"a type that nobody knows": {append(field("a", 't', 1), field("b", '?', 1)...), nil},
		"a value beyond the table": {append(field("a", 't', 1), field("b", 'S', 0, 0, 1, 0)...), nil},
		"tables in tables":         {deep, nil},
		"many fields":              {bytes.Repeat(field("", 'V'), 65_000), nil},
		"larger than a frame":      {field("a", 'S', long(bytes.Repeat([]byte("x"), 2<<20))...), nil},
	} {
		t.Run(name, func(t *testing.T) {
			frames := deliver(1, "mine", amqp.Delivery{DeliveryTag: 1, Body: []byte("body")}, 100)
			header := bytes.Clone(frames[1][frameStart : frameStart+12])
			header = binary.BigEndian.AppendUint16(header, hasHeaders|hasMessageID|hasClusterID)
			header = append(append(append(header, long(test.headers)...), short("id")...), short("cluster")...)
			properties := bytes.Clone(header[12:])
			frames[1] = frame(frameHeader, 1, append(header, test.behind...))
			next := deliver(1, "mine", amqp.Delivery{DeliveryTag: 2, MessageId: "next"}, 100)
			r := NewReader(&chunks{content: bytes.Join(append(frames, next...), nil), sizes: []int{1000}})
			b := open(r, "mine")
			_, err := io.ReadAll(r)
			require.NoError(t, err)
			taken := b.drain()
			require.Len(t, taken, 2)
			require.Equal(t, "id", taken[0].MessageId)
			require.Equal(t, []byte("body"), taken[0].Body)
			require.True(t, bytes.Equal(properties, taken[0].Properties))
			require.True(t, bytes.Equal(test.headers, taken[0].Properties.Headers()))
			require.Equal(t, "next", taken[1].MessageId)
			require.LessOrEqual(t, len(r.buffer), 2*readMost, "the buffer does not stay as large")
		})
	}
}

// A large body takes as much memory as it has bytes, and no more is given to what only says that it is large.
func TestReaderGivesABodyTheMemoryThatItTakes(t *testing.T) {
	const size = 3*maxBodyPrealloc + 1
	frames := bytes.Join(deliver(1, "mine", amqp.Delivery{DeliveryTag: 1, Body: bytes.Repeat([]byte("x"), size)}, 100_000), nil)
	r := NewReader(&chunks{content: frames[:maxBodyPrealloc+maxBodyPrealloc/2], sizes: []int{math.MaxInt}})
	b := open(r, "mine")
	_, err := io.ReadAll(r)
	require.NoError(t, err)
	require.LessOrEqual(t, cap(r.contents[1].delivery.Body), 2*maxBodyPrealloc)
	r.socket = newLowWaterSocket(&chunks{content: frames[maxBodyPrealloc+maxBodyPrealloc/2:], sizes: []int{math.MaxInt}})
	_, err = io.ReadAll(r)
	require.NoError(t, err)
	got := b.drain()
	require.Len(t, got, 1)
	require.Len(t, got[0].Body, size)
	require.Equal(t, size, cap(got[0].Body))
}

// What still comes for a consumer that has ended is not for the library, which ends the connection over some headers.
func TestReaderDiscardsWhatComesForAnEndedConsumer(t *testing.T) {
	method := frame(frameMethod, 1, binary.BigEndian.AppendUint32(nil, 60<<16|30))
	late := bytes.Join(deliver(1, "mine", amqp.Delivery{DeliveryTag: 1, Body: []byte("late")}, 2), nil)
	r := NewReader(&chunks{content: slices.Concat(late, method, late), sizes: []int{7}})
	b := open(r, "mine")
	r.Discard("mine")
	for len(r.through) == 0 {
		require.NoError(t, r.next())
	}
	require.Equal(t, method[:len(r.through)], r.through, "the late delivery is not there")
	r.Close("mine")
	r.Discard("mine")
	require.Empty(t, r.consumers, "an ended consumer leaves nothing behind")
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, append(method, late...), got, "nobody's deliveries are the library's")
	require.Empty(t, b.drain())
}

func FuzzReader(f *testing.F) {
	delivery := amqp.Delivery{DeliveryTag: 1, MessageId: "id", ContentType: "text/plain", Body: []byte("body")}
	f.Add(bytes.Join(deliver(1, "mine", delivery, 2), nil), 3)
	f.Add(bytes.Join(deliver(1, "other", delivery, 100), nil), 100)
	f.Add([]byte("AMQP\x00\x00\x09\x01"), 1)
	f.Fuzz(func(t *testing.T, stream []byte, size int) {
		r := NewReader(&chunks{content: stream, sizes: []int{max(size, 1)}})
		b := open(r, "mine")
		got, err := io.ReadAll(r)
		if err != nil && !errors.Is(err, errMalformed) {
			t.Errorf("it ends with %v", err)
		}
		if len(got) > len(stream)+len(heartbeat) {
			t.Error("it gives more than it was given")
		}
		for _, d := range b.drain() {
			if len(d.Body)+len(d.Properties) > len(stream) {
				t.Error("a message is larger than all")
			}
			_ = d.Properties.Headers().Decode()
		}
	})
}

// amqp091-go gives a broker up that it has not seen anything of for three heartbeats.
func TestTheLibraryHearsOfABrokerThatOnlyDelivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		r := NewReader(near)
		b := open(r, "mine")
		seen := make(chan []byte)
		go func() {
			defer close(seen)
			for p := make([]byte, 100); ; {
				n, err := r.Read(p)
				if err != nil {
					return
				}
				seen <- bytes.Clone(p[:n])
			}
		}()
		for i := range 100 { // ten seconds
			go func() {
				<-time.After(time.Duration(i) * 100 * time.Millisecond)
				for _, f := range deliver(1, "mine", amqp.Delivery{DeliveryTag: uint64(i)}, 1) {
					if _, err := far.Write(f); err != nil {
						t.Error(err)
					}
				}
			}()
		}
		beats := 0
		for end := time.After(10 * time.Second); ; {
			select {
			case frame := <-seen:
				require.Equal(t, heartbeat, frame)
				beats++
				continue
			case <-end:
			}
			break
		}
		require.GreaterOrEqual(t, beats, 10)
		require.LessOrEqual(t, beats, 20)
		require.NoError(t, far.Close())
		<-seen
		require.Len(t, b.drain(), 100)
	})
}

// A reader that has been idle for a while must be woken by a single byte, or a lone message stays in the socket for ever.
func TestALoneByteIsReadAfterTheSocketWasLeftAlone(t *testing.T) {
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	far, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", listener.Addr().String())
	require.NoError(t, err)
	near, err := listener.Accept()
	require.NoError(t, err)
	defer func() { require.NoError(t, errors.Join(listener.Close(), far.Close(), near.Close())) }()
	require.NoError(t, near.SetReadDeadline(time.Now().Add(time.Minute)))
	s, p := newLowWaterSocket(near), make([]byte, 10)
	for range 3 {
		require.Zero(t, s.readLater(p), "there is nothing, and it does not wait for it")
		_, err = far.Write([]byte("a"))
		require.NoError(t, err)
		n, err := s.readNow(p)
		require.NoError(t, err)
		require.Equal(t, "a", string(p[:n]))
	}
}

func TestRate(t *testing.T) {
	var r rate
	now := time.Unix(1, 0)
	at := func(perSecond int) (high bool) {
		for range 3 {
			now = now.Add(rateWindow)
			r.count = int(float64(perSecond) * rateWindow.Seconds())
			high = r.high(now)
		}
		return high
	}
	require.False(t, at(0))
	require.False(t, at(highRate/2))
	require.True(t, at(highRate))
	r.count = 0
	require.True(t, r.high(now.Add(rateWindow/2)), "until there is something new to be said")
	require.False(t, at(highRate/2))
	now = now.Add(time.Hour)
	r.count = highRate
	require.False(t, r.high(now), "an hour's messages")
}
