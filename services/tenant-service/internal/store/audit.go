package store

import (
	"gorm.io/gorm"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

// audited is what the audit log tells of a tenant: whatever of it can be changed.
type audited struct {
	Name        string       `json:"name"`
	Workers     int          `json:"workers"`
	MaxAttempts int          `json:"max_attempts,omitempty"` // absent: the default of the instances
	State       tenant.State `json:"state"`
	Generation  int64        `json:"generation"`
}

// record writes the audit event of a change into its transaction. before is nil of a tenant that is new.
func record(tx *gorm.DB, by audit.Origin, action audit.Action, before, after *tenant.Tenant) error {
	was, is, err := audit.Diff(state(before), state(after))
	if err != nil {
		return err
	}
	event := audit.Event{Origin: by, Action: action, TenantID: after.ID, Target: "/tenants/" + after.ID.String(), Before: was, After: is}
	arguments, err := event.Arguments()
	if err != nil {
		return err
	}
	return tx.Exec(audit.Insert, arguments...).Error
}

func state(t *tenant.Tenant) *audited {
	if t == nil {
		return nil
	}
	return &audited{Name: t.Name, Workers: t.Workers, MaxAttempts: t.MaxAttempts, State: t.State, Generation: t.Generation}
}
