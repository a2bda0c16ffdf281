package store

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// reader takes a value in the binary format of COPY to pieces.
type reader struct {
	require.TestingT
	left []byte
}

func (r *reader) bytes(n int) []byte {
	require.LessOrEqual(r, n, len(r.left), "the message ends in the middle of a value")
	taken := r.left[:n]
	r.left = r.left[n:]
	return taken
}

func (r *reader) int16() int16 { return int16(binary.BigEndian.Uint16(r.bytes(2))) }
func (r *reader) int32() int32 { return int32(binary.BigEndian.Uint32(r.bytes(4))) }
func (r *reader) field() []byte {
	return r.bytes(int(r.int32()))
}

// text is nil for NULL.
func (r *reader) text() []byte {
	n := r.int32()
	if n == -1 {
		return nil
	}
	return r.bytes(int(n))
}

// envelope reads the columns of one; nil if all are NULL.
func (r *reader) envelope() *contract.Envelope {
	e := contract.Envelope{Type: string(r.text()), Key: string(r.text())}
	if attributes := r.text(); attributes != nil {
		require.EqualValues(r, jsonbVersion, attributes[0])
		require.NoError(r, json.Unmarshal(attributes[1:], &e.Attributes))
	}
	if e.IsZero() {
		return nil
	}
	return &e
}

// envelopes are such as the contract allows, and not empty.
func envelopes() *rapid.Generator[*contract.Envelope] {
	text := rapid.StringMatching(`[ -~äß€😀"\\]{0,40}`)
	return rapid.Custom(func(r *rapid.T) *contract.Envelope {
		e := &contract.Envelope{Type: text.Draw(r, "type"), Key: text.Draw(r, "key")}
		if n := rapid.IntRange(0, contract.MaxAttributes).Draw(r, "attributes"); n > 0 {
			e.Attributes = rapid.MapOfN(rapid.StringMatching(`[a-z0-9_.-]{1,64}`), text, n, n).Draw(r, "attributes")
		}
		return e
	}).Filter(func(e *contract.Envelope) bool { return !e.IsZero() })
}

// sizes are of the payloads of a write: small ones, such as end a message of the protocol near its border, larger than one,
// and as many messages of the protocol as so many bytes can be.
func sizes() *rapid.Generator[[]int] {
	const border = copyFrame - copyTuple
	size := rapid.OneOf(
		rapid.IntRange(0, 300), rapid.IntRange(border/2-40, border/2+40), rapid.IntRange(border-60, border+60), rapid.IntRange(copyFrame, 3*copyFrame),
	)
	return rapid.OneOf(rapid.SliceOfN(size, 0, 12), rapid.SliceOfN(rapid.Just(border-3), 1, 12))
}

// A byte in the wrong place stores a payload under another id, or another tenant, or nothing at all. What the server will
// read is read here, by the words of its documentation, wherever a row ends.
func TestRequestsProperty(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var group []*write
		for range rapid.IntRange(1, 4).Draw(r, "writes") {
			w := &write{tenant: uuid.New()}
			for _, size := range sizes().Draw(r, "sizes") {
				m := Row{ID: uuid.New(), Payload: bytes.Repeat([]byte{byte(size)}, size)}
				if rapid.IntRange(0, 3).Draw(r, "envelope") == 0 {
					m.Envelope = envelopes().Draw(r, "of it")
				}
				w.messages = append(w.messages, m)
			}
			group = append(group, w)
		}
		epoch := rapid.Int32().Draw(r, "epoch")
		before := []byte("what was there")
		settings := rapid.SampledFrom([]string{"", sharedTimeouts}).Draw(r, "settings")
		requests, kept := bytes.CutPrefix(appendWrites(slices.Clone(before), settings, group, epoch), before)
		require.True(r, kept)

		server := pgproto3.NewBackend(bytes.NewReader(requests), io.Discard)
		message, err := server.Receive()
		require.NoError(r, err)
		query, ok := message.(*pgproto3.Query)
		require.True(r, ok)
		statements := strings.SplitAfter(query.String, ";")
		require.Equal(r, settings, strings.Join(statements[:strings.Count(settings, ";")], ""))
		statements = statements[strings.Count(settings, ";"):]
		require.Len(r, statements, len(group)+1)
		for i, w := range group {
			columns := ""
			if hasEnvelopes(w.messages) {
				columns = envelopeColumns
			}
			require.Equal(r, "COPY messages_"+strings.ReplaceAll(w.tenant.String(), "-", "")+
				" (tenant_id, id, payload, bytes, epoch, ord"+columns+") FROM STDIN (FORMAT binary);", statements[i])
			requireCopy(r, server, w, epoch)
		}
		_, err = server.Receive()
		require.True(r, errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF), "%v", err)
		for _, w := range group {
			require.LessOrEqual(r, len(appendCopy(nil, w.tenant, epoch, w.messages)), copySize(w.messages))
		}
	})
}

// requireCopy reads what was copied by one write.
func requireCopy(r *rapid.T, server *pgproto3.Backend, w *write, epoch int32) {
	var frames [][]byte
	for {
		message, err := server.Receive()
		require.NoError(r, err)
		if _, ended := message.(*pgproto3.CopyDone); ended {
			break
		}
		data, ok := message.(*pgproto3.CopyData)
		require.True(r, ok, "%T", message)
		frames = append(frames, slices.Clone(data.Data))
	}
	in := &reader{TestingT: r, left: frames[0]}
	require.Equal(r, "5047434f50590aff0d0a00", hex.EncodeToString(in.bytes(11)))
	require.Zero(r, in.int32(), "flags")
	require.Zero(r, in.int32(), "the length of the extension")
	for i, m := range w.messages {
		if len(in.left) == 0 { // only ever between two rows
			require.Greater(r, len(frames[0]), copyFrame-copyHeader)
			frames = frames[1:]
			require.NotEmpty(r, frames)
			in.left = frames[0]
		}
		require.LessOrEqual(r, len(frames[0])-len(in.left), copyFrame-4, "the server takes it in whole")
		enveloped := hasEnvelopes(w.messages)
		require.EqualValues(r, map[bool]int{false: 6, true: 9}[enveloped], in.int16(), "columns")
		require.Equal(r, w.tenant[:], in.field())
		require.Equal(r, m.ID[:], in.field())
		payload := in.field()
		require.EqualValues(r, jsonbVersion, payload[0])
		require.True(r, bytes.Equal(m.Payload, payload[1:]))
		require.EqualValues(r, 4, in.int32())
		require.EqualValues(r, len(m.Payload)+m.Envelope.Size(), in.int32(), "bytes")
		require.EqualValues(r, 4, in.int32())
		require.Equal(r, epoch, in.int32())
		require.EqualValues(r, 4, in.int32())
		require.EqualValues(r, i+1, in.int32(), "ord")
		if enveloped {
			require.Equal(r, m.Envelope, in.envelope())
		}
	}
	require.EqualValues(r, -1, in.int16(), "the trailer")
	require.Empty(r, in.left)
	require.Len(r, frames, 1)
}
