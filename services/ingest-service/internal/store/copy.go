package store

import (
	"encoding/binary"
	"encoding/hex"
	"slices"
	"sync"

	"github.com/google/uuid"
)

// jsonbVersion begins a jsonb value in the binary format; the text follows (src/backend/utils/adt/jsonb.c, jsonb_recv).
const jsonbVersion = 1

// copyBuffers saves the allocation and the clearing of half a megabyte for every full batch.
var copyBuffers sync.Pool //nolint:gochecknoglobals // a pool is shared by its nature

// copyKeep is the largest buffer that is kept: twice what a batch of the default size holds.
const copyKeep = 8 << 20

func getBuffer() *[]byte {
	if buffer, ok := copyBuffers.Get().(*[]byte); ok {
		return buffer
	}
	return new([]byte)
}

func putBuffer(buffer *[]byte) {
	if cap(*buffer) <= copyKeep {
		copyBuffers.Put(buffer)
	}
}

// appendWrites writes the requests of a transaction that copies all of group: the query, which begins with settings, and
// what it copies into the partition of each of the tenants. PostgreSQL refuses COPY into a table under row-level security, as the
// parent is, and row-level security is not what keeps tenants apart here: the bound of the partition refuses every row of another
// tenant.
func appendWrites(buffer []byte, settings string, group []*write, epoch int32) []byte {
	const before, plain, after = "COPY messages_", " (tenant_id, id, payload, bytes, epoch, ord", ") FROM STDIN (FORMAT binary);"
	buffer = append(buffer, 'Q')
	start := len(buffer)
	buffer = append(buffer, 0, 0, 0, 0)
	buffer = append(buffer, settings...)
	for _, w := range group {
		buffer = append(buffer, before...)
		buffer = hex.AppendEncode(buffer, w.tenant[:])
		buffer = append(buffer, plain...)
		if hasEnvelopes(w.messages) {
			buffer = append(buffer, envelopeColumns...)
		}
		buffer = append(buffer, after...)
	}
	buffer = endMessage(append(buffer, 0), start)
	for _, w := range group {
		buffer = appendCopy(buffer, w.tenant, epoch, w.messages)
	}
	return buffer
}

// endMessage writes the length of a message of the protocol, which counts itself, to where the message starts.
func endMessage(buffer []byte, start int) []byte {
	binary.BigEndian.PutUint32(buffer[start:], uint32(len(buffer)-start))
	return buffer
}

const (
	// copyFrame is the size from which on a row begins another message of the protocol: the server takes messages in whole.
	copyFrame = 64 << 10
	// copyHeader is the size of the type and the length of a message of the protocol.
	copyHeader = 1 + 4
	// copyTuple is the size of a row without its payload.
	copyTuple = 2 + (4 + 16) + (4 + 16) + (4 + 1) + (4 + 4) + (4 + 4) + (4 + 4)
	// copySignature begins the format; the flags and the length of an extension, none of which there is, follow.
	copySignature = "PGCOPY\n\377\r\n\x00"
)

// copySize is how much [appendCopy] writes at most.
func copySize(messages []Row) int {
	size := copyHeader + len(copySignature) + 8 + 2 + copyHeader
	for i := range messages {
		size += copyTuple + len(messages[i].Payload) + envelopeSize(messages[i].Envelope)
	}
	return size + size/copyFrame*copyHeader
}

// appendCopy writes messages in the binary format of COPY (PostgreSQL documentation, COPY, "Binary Format"), in messages of
// the protocol.
func appendCopy(buffer []byte, tenant uuid.UUID, epoch int32, messages []Row) []byte {
	const plain, envelope = 6, 3
	columns, enveloped := uint16(plain), hasEnvelopes(messages)
	if enveloped {
		columns += envelope
	}
	buffer = slices.Grow(buffer, copySize(messages))
	begin := func() (start int) {
		buffer = append(buffer, 'd')
		start = len(buffer)
		buffer = append(buffer, 0, 0, 0, 0)
		return start
	}
	start := begin()
	buffer = append(buffer, copySignature...)
	buffer = binary.BigEndian.AppendUint64(buffer, 0) // no flags, no header extension
	for i := range messages {
		if len(buffer)-start > copyFrame {
			buffer = endMessage(buffer, start)
			start = begin()
		}
		m := &messages[i]
		buffer = binary.BigEndian.AppendUint16(buffer, columns)
		buffer = binary.BigEndian.AppendUint32(buffer, uint32(len(tenant)))
		buffer = append(buffer, tenant[:]...)
		buffer = binary.BigEndian.AppendUint32(buffer, uint32(len(m.ID)))
		buffer = append(buffer, m.ID[:]...)
		buffer = binary.BigEndian.AppendUint32(buffer, uint32(1+len(m.Payload)))
		buffer = append(buffer, jsonbVersion)
		buffer = append(buffer, m.Payload...)
		buffer = binary.BigEndian.AppendUint32(buffer, 4)
		buffer = binary.BigEndian.AppendUint32(buffer, uint32(m.Size()))
		buffer = binary.BigEndian.AppendUint32(buffer, 4)
		buffer = binary.BigEndian.AppendUint32(buffer, uint32(epoch))
		buffer = binary.BigEndian.AppendUint32(buffer, 4)
		buffer = binary.BigEndian.AppendUint32(buffer, uint32(i+1)) // as WITH ORDINALITY counts
		if enveloped {
			buffer = appendEnvelope(buffer, m.Envelope)
		}
	}
	const end = 0xFFFF // -1
	buffer = endMessage(binary.BigEndian.AppendUint16(buffer, end), start)
	buffer = append(buffer, 'c')
	return binary.BigEndian.AppendUint32(buffer, 4)
}
