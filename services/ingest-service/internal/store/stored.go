package store

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"
)

// storedPage is how many tenants are asked for in one statement.
const storedPage = 1000

// StoredBytes tells observe, of each of tenants, the bytes of all its messages that are counted for its usage, and those of the messages
// that were removed since. It is a statement that only reads.
func (s *Store) StoredBytes(ctx context.Context, tenants []uuid.UUID, observe func(tenant uuid.UUID, counted, removed int64)) error {
	for page := range slices.Chunk(tenants, storedPage) {
		if err := s.storedBytes(ctx, page, observe); err != nil {
			return fmt.Errorf("read what is stored: %w", err)
		}
	}
	return nil
}

func (s *Store) storedBytes(ctx context.Context, tenants []uuid.UUID, observe func(tenant uuid.UUID, counted, removed int64)) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, `SELECT tenant, counted, removed FROM stored_bytes($1)`, tenants)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var tenant uuid.UUID
		var counted, removed int64
		if err := rows.Scan(&tenant, &counted, &removed); err != nil {
			return err
		}
		observe(tenant, counted, removed)
	}
	return rows.Err()
}
