package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"sync"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
)

// jsonbVersion begins a jsonb value in the binary format; the text follows (src/backend/utils/adt/jsonb.c, jsonb_recv).
const jsonbVersion = 1

// copyIn commits messages with COPY into the partition of tenant itself. PostgreSQL refuses COPY into a table under
// row-level security, as the parent is, and row-level security is not what keeps tenants apart here: the bound of the
// partition refuses every row of another tenant. The protocol sends all of it and waits once.
func copyIn(ctx context.Context, connection *pgx.Conn, tenant uuid.UUID, messages []Message) error {
	epoch, err := postgres.ReadingEpoch(ctx, connection)
	if err != nil {
		return err
	}
	buffer, _ := copyBuffers.Get().(*[]byte)
	if buffer == nil {
		buffer = new([]byte)
	}
	*buffer = appendCopy((*buffer)[:0], tenant, epoch, messages)
	_, err = connection.PgConn().CopyFrom(ctx, bytes.NewReader(*buffer), copySQL(tenant))
	// After an error pgx may still be reading the buffer.
	if err == nil && cap(*buffer) <= copyKeep {
		copyBuffers.Put(buffer)
	}
	return err
}

// copyBuffers saves the allocation and the clearing of half a megabyte for every full batch.
var copyBuffers sync.Pool //nolint:gochecknoglobals // a pool is shared by its nature

// copyKeep is the largest buffer that is kept: twice what a batch of the default size holds.
const copyKeep = 8 << 20

func copySQL(tenant uuid.UUID) string {
	const before, after = "COPY messages_", " (tenant_id, id, payload, epoch, ord) FROM STDIN (FORMAT binary)"
	sql := make([]byte, 0, len(before)+2*len(tenant)+len(after))
	sql = append(sql, before...)
	sql = hex.AppendEncode(sql, tenant[:])
	return string(append(sql, after...))
}

// appendCopy writes messages in the binary format of COPY (PostgreSQL documentation, COPY, "Binary Format").
func appendCopy(buffer []byte, tenant uuid.UUID, epoch int32, messages []Message) []byte {
	const (
		signature = "PGCOPY\n\377\r\n\x00"
		columns   = 5
		fixed     = 2 + (4 + 16) + (4 + 16) + (4 + 1) + (4 + 4) + (4 + 4) // of a tuple, without the payload
	)
	size := len(signature) + 8 + 2
	for i := range messages {
		size += fixed + len(messages[i].Payload)
	}
	if cap(buffer) < size {
		buffer = make([]byte, 0, size)
	}
	buffer = append(buffer, signature...)
	buffer = binary.BigEndian.AppendUint64(buffer, 0) // no flags, no header extension
	for i := range messages {
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
		buffer = binary.BigEndian.AppendUint32(buffer, uint32(epoch))
		buffer = binary.BigEndian.AppendUint32(buffer, 4)
		buffer = binary.BigEndian.AppendUint32(buffer, uint32(i+1)) // as WITH ORDINALITY counts
	}
	const end = 0xFFFF // -1
	return binary.BigEndian.AppendUint16(buffer, end)
}
