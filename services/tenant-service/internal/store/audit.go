package store

import (
	"github.com/google/uuid"
	"gorm.io/gorm"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/credential"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

// audited is what the audit log tells of a tenant: whatever of it can be changed.
type audited struct {
	Name        string `json:"name"`
	Workers     int    `json:"workers"`
	MaxAttempts int    `json:"max_attempts,omitempty"` // absent: the default of the instances
	// Override are the limits of the tenant's own, Limits those in force beside workers and max_attempts.
	Override   tenant.Overrides `json:"override,omitempty"`
	Limits     contract.Limits  `json:"limits,omitzero"`
	State      tenant.State     `json:"state"`
	Generation int64            `json:"generation"`
}

// record writes the audit event of a change into its transaction. before is nil of a tenant that is new.
func record(tx *gorm.DB, by audit.Origin, action audit.Action, before, after *tenant.Tenant) error {
	was, is, err := audit.Diff(state(before), state(after))
	if err != nil {
		return err
	}
	return insert(tx, audit.Event{Origin: by, Action: action, TenantID: after.ID, Target: "/tenants/" + after.ID.String(), Before: was, After: is})
}

// recordToken does the same for a token; after is what has become of it.
func recordToken(tx *gorm.DB, by audit.Origin, action audit.Action, tenantID, token uuid.UUID, after any) error {
	return insert(tx, audit.Event{
		Origin: by, Action: action, TenantID: tenantID, Target: "/tenants/" + tenantID.String() + "/tokens/" + token.String(), After: after,
	})
}

// recordCredential does it for a credential, whose password is not in the registry.
func recordCredential(tx *gorm.DB, by audit.Origin, action audit.Action, c credential.Credential, after any) error {
	return insert(tx, audit.Event{
		Origin: by, Action: action, TenantID: c.Tenant, Target: "/tenants/" + c.Tenant.String() + "/credentials/" + c.ID.String(), After: after,
	})
}

func insert(tx *gorm.DB, event audit.Event) error {
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
	return &audited{Name: t.Name, Workers: t.Workers, MaxAttempts: t.MaxAttempts, Override: t.Own(), Limits: t.Config.Limits, State: t.State, Generation: t.Generation}
}
