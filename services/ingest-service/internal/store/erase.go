package store

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
)

// Erased is what there was of a message that was to be erased. All of it is gone, unless it is Uncounted.
type Erased struct {
	// Stored says that the message was stored.
	Stored bool
	// DeadLetters is how many dead letters of it there were.
	DeadLetters int64
	// Uncounted says that the message is stored and is not counted for the usage of its tenant yet, see [Store.RollUp]. Nothing was
	// erased.
	Uncounted bool
}

// audited is what the audit log tells of an erased message: nothing of what was in it.
type audited struct {
	Stored      bool  `json:"stored"`
	DeadLetters int64 `json:"dead_letters"`
}

// Erase removes a message of tenant with its dead letters, as by asked for it, and counts it as removed. What there was of it is in
// the audit log; if there was nothing, it is no event.
func (s *Store) Erase(ctx context.Context, tenant, id uuid.UUID, by audit.Origin) (Erased, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var erased Erased
	err := postgres.InTenant(ctx, s.pool, tenant, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `SELECT erased, letters, uncounted FROM erase_message($1, $2)`, tenant, id).
			Scan(&erased.Stored, &erased.DeadLetters, &erased.Uncounted)
		if err != nil || !erased.Stored && erased.DeadLetters == 0 {
			return err
		}
		arguments, err := audit.Event{
			Origin: by, Action: audit.MessageErased, TenantID: tenant, Target: "/messages/" + id.String(),
			Before: audited{erased.Stored, erased.DeadLetters},
		}.Arguments()
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, audit.Insert, arguments...)
		return err
	})
	if err != nil {
		return Erased{}, fmt.Errorf("erase a message: %w", err)
	}
	return erased, nil
}
