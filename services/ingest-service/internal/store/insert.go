package store

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
)

// insertSQL tolerates a message that is there already, and nothing else: a collision in the reading order is an error.
const insertSQL = `
INSERT INTO messages (tenant_id, id, payload, bytes, type, key, attributes, epoch, ord)
SELECT $1, id, payload, bytes, type, key, attributes, (SELECT reading_epoch()), ord
FROM unnest($2::uuid[], $3::jsonb[], $4::integer[], $5::text[], $6::text[], $7::jsonb[])
    WITH ORDINALITY AS batch (id, payload, bytes, type, key, attributes, ord)
ON CONFLICT (tenant_id, id) DO NOTHING`

// insert sends both statements before one Sync, so that they are one transaction and one round trip. The arrays are
// written in the binary format of PostgreSQL right away: building them from Go values through the type map of pgx
// costs several allocations a message.
func insert(ctx context.Context, pool *pgxpool.Pool, tenant uuid.UUID, messages []Row) (int, error) {
	acquired, err := pool.Acquire(ctx)
	if err != nil {
		return 0, fmt.Errorf("acquire a database connection: %w", err)
	}
	defer acquired.Release()
	connection := acquired.Conn()
	// The statement reads the epoch; whether it is to be advanced has to be known before.
	if _, err := postgres.ReadingEpoch(ctx, connection); err != nil {
		return 0, err
	}
	statement, err := connection.Prepare(ctx, "insert_messages", insertSQL)
	if err != nil {
		return 0, err
	}
	var batch pgconn.Batch
	batch.ExecParams(postgres.SetTenant, [][]byte{[]byte(tenant.String())}, []uint32{pgtype.TextOID}, nil, nil)
	const binaryFormat = 1
	batch.ExecPrepared(statement.Name,
		[][]byte{
			tenant[:], idArray(messages), payloadArray(messages), sizeArray(messages),
			envelopeArray(messages, pgtype.TextOID, appendType), envelopeArray(messages, pgtype.TextOID, appendKey),
			envelopeArray(messages, pgtype.JSONBOID, appendAttributes),
		},
		[]int16{binaryFormat}, nil)
	results := connection.PgConn().ExecBatch(ctx, &batch)
	var inserted int64
	for results.NextResult() {
		tag, err := results.ResultReader().Close()
		if err == nil && tag.Insert() {
			inserted = tag.RowsAffected()
		}
	}
	// Close reports the first error of the batch, the one of the commit at its end included.
	if err := results.Close(); err != nil {
		return 0, err
	}
	return int(inserted), nil
}

// arrayHeader begins a one-dimensional array without NULLs in the binary format: dimensions, flags, element type, length
// and lower bound (src/backend/utils/adt/arrayfuncs.c, array_recv).
func arrayHeader(buffer []byte, elementType uint32, length int) []byte {
	for _, field := range [...]uint32{1, 0, elementType, uint32(length), 1} {
		buffer = binary.BigEndian.AppendUint32(buffer, field)
	}
	return buffer
}

const arrayHeaderSize = 20

func idArray(messages []Row) []byte {
	const size = 16
	buffer := make([]byte, 0, arrayHeaderSize+len(messages)*(4+size))
	buffer = arrayHeader(buffer, pgtype.UUIDOID, len(messages))
	for i := range messages {
		buffer = binary.BigEndian.AppendUint32(buffer, size)
		buffer = append(buffer, messages[i].ID[:]...)
	}
	return buffer
}

func payloadArray(messages []Row) []byte {
	size := arrayHeaderSize
	for i := range messages {
		size += 4 + 1 + len(messages[i].Payload)
	}
	buffer := make([]byte, 0, size)
	buffer = arrayHeader(buffer, pgtype.JSONBOID, len(messages))
	for i := range messages {
		buffer = binary.BigEndian.AppendUint32(buffer, uint32(1+len(messages[i].Payload)))
		buffer = append(buffer, jsonbVersion)
		buffer = append(buffer, messages[i].Payload...)
	}
	return buffer
}

func sizeArray(messages []Row) []byte {
	const size = 4
	buffer := make([]byte, 0, arrayHeaderSize+len(messages)*(4+size))
	buffer = arrayHeader(buffer, pgtype.Int4OID, len(messages))
	for i := range messages {
		buffer = binary.BigEndian.AppendUint32(buffer, size)
		buffer = binary.BigEndian.AppendUint32(buffer, uint32(messages[i].Size()))
	}
	return buffer
}
