package deadletter

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
)

// target is where dead letters are shown.
const target = "/dead-letters"

// audited is what the audit log tells of a dead letter. Its payload, its headers and its error, which quotes from them, are not for it.
type audited struct {
	MessageID *uuid.UUID      `json:"message_id,omitempty"`
	Reason    contract.Reason `json:"reason"`
	Attempts  int             `json:"attempts"`
}

func auditedEntry(l *Entry) audited {
	return audited{MessageID: l.MessageID, Reason: l.Reason, Attempts: l.Attempts}
}

// auditedReplay is what became of a dead letter that was replayed.
type auditedReplay struct {
	Result Result `json:"result"`
	// Edited: another payload was published than the producer's.
	Edited bool `json:"edited,omitempty"`
	// Kept: the dead letter has come again meanwhile, and stays.
	Kept bool `json:"kept,omitempty"`
}

// auditedFilter is which dead letters were meant.
type auditedFilter struct {
	All          bool            `json:"all,omitempty"`
	Reason       contract.Reason `json:"reason,omitempty"`
	FailedAfter  *rest.Timestamp `json:"failed_after,omitempty"`
	FailedBefore *rest.Timestamp `json:"failed_before,omitempty"`
}

func (f Filter) audited() auditedFilter {
	shown := auditedFilter{All: f == Filter{}, Reason: f.Reason}
	if !f.After.IsZero() {
		shown.FailedAfter = &rest.Timestamp{Time: f.After}
	}
	if !f.Before.IsZero() {
		shown.FailedBefore = &rest.Timestamp{Time: f.Before}
	}
	return shown
}

// auditedStep is what a step of a request about many dead letters has done.
type auditedStep struct {
	Filter auditedFilter `json:"filter"`
	// Dropped, or Replayed and AlreadyStored, count the dead letters of the step; Kept those that came again meanwhile, and stay.
	Dropped       int64 `json:"dropped,omitempty"`
	Replayed      int64 `json:"replayed,omitempty"`
	AlreadyStored int64 `json:"already_stored,omitempty"`
	Kept          int64 `json:"kept,omitempty"`
}

func dropEvent(by audit.Origin, l *Entry) audit.Event {
	return audit.Event{
		Origin: by, Action: audit.DeadLetterDropped, TenantID: l.TenantID, Target: target + "/" + l.ID.String(), Before: auditedEntry(l),
	}
}

func dropStepEvent(by audit.Origin, tenant uuid.UUID, filter Filter, dropped int64) audit.Event {
	return audit.Event{
		Origin: by, Action: audit.DeadLettersDropped, TenantID: tenant, Target: target,
		After: auditedStep{Filter: filter.audited(), Dropped: dropped},
	}
}

// replayEvent makes the event of the replay of one dead letter.
func replayEvent(by audit.Origin, l *Entry) func([]Result, int64) audit.Event {
	return func(results []Result, removed int64) audit.Event {
		return audit.Event{
			Origin: by, Action: audit.DeadLetterReplayed, TenantID: l.TenantID, Target: target + "/" + l.ID.String(), Before: auditedEntry(l),
			After: auditedReplay{Result: results[0], Edited: l.edit.Payload != nil || l.edit.Envelope != nil, Kept: removed == 0},
		}
	}
}

// replayStepEvent makes the event of a step of a replay of many.
func replayStepEvent(by audit.Origin, tenant uuid.UUID, filter Filter) func([]Result, int64) audit.Event {
	return func(results []Result, removed int64) audit.Event {
		step := auditedStep{Filter: filter.audited()}
		for _, result := range results {
			switch result {
			case ResultReplayed:
				step.Replayed++
			case ResultAlreadyStored:
				step.AlreadyStored++
			case resultRefused, resultRateLimited: // nothing has changed
			}
		}
		step.Kept = step.Replayed + step.AlreadyStored - removed
		return audit.Event{Origin: by, Action: audit.DeadLettersReplayed, TenantID: tenant, Target: target, After: step}
	}
}

// writeEvent writes an event into the transaction of its change, which is one of the event's tenant.
func writeEvent(ctx context.Context, tx pgx.Tx, event audit.Event) error {
	arguments, err := event.Arguments()
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, audit.Insert, arguments...)
	return err
}
