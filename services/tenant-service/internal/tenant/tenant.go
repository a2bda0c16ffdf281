// Package tenant is the domain of the registry: what a tenant is, which values it may have, and how it moves from
// creation to retirement. It knows neither HTTP nor SQL nor NATS, but for tags that say how a column is written.
//
// A tenant is desired state. Every change raises its generation by one, and what it becomes of is observed elsewhere
// (package status). The states:
//
//	        Suspend
//	active ────────▶ suspended
//	  │   ◀────────     │
//	  │     Resume      │
//	  └──────┬──────────┘
//	         ▼ Delete
//	      deleting ────────▶ deleted
//	                Retire
//
// deleting ends only when the teardown was reported done. A deleted tenant is kept as a tombstone, because its id is
// retired for ever: old tokens, retries and dead letters must never meet a new tenant.
package tenant

import (
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// State is the desired state of a tenant, or deleted.
type State string

// The states of a tenant. The first three travel to the instances as [contract.DesiredState].
const (
	Active    State = State(contract.DesiredActive)
	Suspended State = State(contract.DesiredSuspended)
	Deleting  State = State(contract.DesiredDeleting)
	Deleted   State = "deleted"
)

// Tenant is one row of the registry.
type Tenant struct {
	ID   uuid.UUID
	Name string
	// Workers is the number of concurrent writers.
	Workers int
	// MaxAttempts is how often a message is tried; 0 means the default of the instances.
	MaxAttempts int
	// Overrides are the limits of the tenant's own, but for those that [Tenant.Own] adds.
	Overrides Overrides `gorm:"serializer:json"`
	// Config is what was in force when the overrides or the defaults were applied last. Its limits still are; see [Tenant.InForce].
	Config Config `gorm:"column:limits;serializer:json"`
	State  State
	// Generation rises with every change, by one unless it has to overtake a state that was published before the
	// registry was restored from a backup.
	Generation int64
	// PublishedGeneration is the newest generation that is known to be in the control channel. Only the relay writes it.
	PublishedGeneration int64
	// Times have microseconds, which is what PostgreSQL keeps.
	CreatedAt time.Time
	UpdatedAt time.Time
	DeletedAt *time.Time
}

// Position is a place in the list of tenants, which is ordered by creation: just behind the tenant with these values. The
// zero value is the start.
type Position struct {
	CreatedAt time.Time
	ID        uuid.UUID
}

// Filter selects tenants of the list; all that is given must match. The zero value is all of them.
type Filter struct {
	// Name is a part of the name, whatever the case of its letters.
	Name string
	// ID is one tenant; [uuid.Nil] is any.
	ID uuid.UUID
	// State is "" for any.
	State State
}

// Position is the place just behind t.
func (t *Tenant) Position() Position { return Position{CreatedAt: t.CreatedAt, ID: t.ID} }

// Spec is what the instances are told to bring about. A deleted tenant has none.
func (t *Tenant) Spec() contract.TenantSpec {
	return contract.TenantSpec{
		TenantID:    t.ID.String(),
		State:       contract.DesiredState(t.State),
		Workers:     t.Workers,
		MaxAttempts: t.MaxAttempts,
		Limits:      t.Config.Limits,
		Generation:  t.Generation,
	}
}

// Suspend stops the consumption. Suspending twice changes nothing.
func (t *Tenant) Suspend() error { return t.transit(Active, Suspended) }

// Resume starts the consumption again. Resuming an active tenant changes nothing.
func (t *Tenant) Resume() error { return t.transit(Suspended, Active) }

// Delete begins the teardown. Deleting twice changes nothing.
func (t *Tenant) Delete() error {
	switch t.State {
	case Deleted:
		return ErrNotFound
	case Deleting:
		return nil
	case Active, Suspended:
	}
	t.State = Deleting
	t.touch()
	return nil
}

// Retire ends the teardown, once observed is the lowest generation for which every living instance has reported that
// nothing of the tenant is left. It reports whether the tenant is deleted now: a report about an older generation, or
// about a tenant that is not to be deleted, changes nothing.
func (t *Tenant) Retire(observed int64) bool {
	if t.State == Deleting && observed >= t.Generation {
		t.State = Deleted
		t.touch()
		at := t.UpdatedAt
		t.DeletedAt = &at
	}
	return t.State == Deleted
}

// Resize makes a number of workers the tenant's own. The same number again changes nothing.
func (t *Tenant) Resize(workers int) error {
	if err := t.changeable(); err != nil {
		return err
	}
	own, c := t.Own(), t.InForce()
	if own[workersLimit] != int64(workers) {
		own[workersLimit], c.Workers = int64(workers), int64(workers)
		t.configure(own, c)
		t.touch()
	}
	return nil
}

// RaiseAbove lifts the generation above that of seen, if seen cannot come from this registry: it is newer, or it has this
// generation but says something else. That happens when the registry was restored from a backup; the instances would
// ignore every change until their old generation is reached again.
func (t *Tenant) RaiseAbove(seen contract.TenantSpec) {
	if t.State == Deleted || t.Generation > seen.Generation || t.Spec() == seen {
		return
	}
	t.Generation = seen.Generation
	t.touch()
}

// RaiseAboveObserved lifts the generation above one that an instance says it has observed, if this registry has not reached
// it yet. The reason is the same as for [Tenant.RaiseAbove].
func (t *Tenant) RaiseAboveObserved(generation int64) {
	if t.State == Deleted || t.Generation >= generation {
		return
	}
	t.Generation = generation
	t.touch()
}

func (t *Tenant) transit(from, to State) error {
	if err := t.changeable(); err != nil {
		return err
	}
	if t.State == from {
		t.State = to
		t.touch()
	}
	return nil
}

func (t *Tenant) changeable() error {
	switch t.State {
	case Deleted:
		return ErrNotFound
	case Deleting:
		return ErrDeleting
	case Active, Suspended:
	}
	return nil
}

// touch marks a change.
func (t *Tenant) touch() {
	t.Generation++
	t.UpdatedAt = now()
}

// now has the precision of the database, so that a tenant reads the same before and after it was stored.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }
