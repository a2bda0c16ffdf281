package api

import (
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

// Tenant is a tenant: what is desired of it, and what is observed.
type Tenant struct {
	// Never used again once the tenant is deleted.
	ID   string `json:"id" format:"uuid" example:"0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11"`
	Name string `json:"name" example:"ACME, production" minLength:"1" maxLength:"200"`
	// Desired number of concurrent writers, on all instances together.
	Workers int `json:"workers" example:"3" minimum:"1"`
	// How often a message is tried before it becomes a dead letter. Absent: the default of the installation.
	MaxAttempts int `json:"max_attempts,omitempty" example:"8" minimum:"1" maximum:"100"`
	// Desired state. `suspended`: messages are accepted and kept in the queue, none is consumed. `deleting`: consumer, queue and partition are being removed; then the tenant is gone (404). `deleted` is only seen in the answer to a DELETE that has waited for it.
	State string `json:"state" example:"active" enums:"active,suspended,deleting,deleted"`
	// Rises with every change.
	Generation int64          `json:"generation" example:"1"`
	CreatedAt  rest.Timestamp `json:"created_at" swaggertype:"string" format:"date-time" example:"2026-01-31T12:00:00.123456Z"`
	UpdatedAt  rest.Timestamp `json:"updated_at" swaggertype:"string" format:"date-time" example:"2026-01-31T12:00:00.123456Z"`
	Status     Status         `json:"status"`
}

// Status is what the instances of ingest-service observe of a tenant.
type Status struct {
	// The state of the instance that is furthest from what is desired; `unknown` if none reports. `storage_full`: the tenant has stored as much as it may (`stored_max_bytes`); producers are refused, what was accepted waits in the queue, and it resumes once there is room. `paused`: the infrastructure does not allow it to run, and it resumes without intervention. `failed`: the last attempt failed and is being repeated.
	State string `json:"state" example:"running" enums:"provisioning,running,storage_full,paused,suspended,deleting,deleted,failed,unknown"`
	// Workers that exist now, on all instances together: as many as desired, but for the moments in which instances come or go.
	Workers int   `json:"workers" example:"3"`
	Queue   Queue `json:"queue"`
	// The lowest generation that an instance has acted on, 0 if none has.
	ObservedGeneration int64 `json:"observed_generation" example:"1"`
	// What is wrong, in the state storage_full, paused or failed.
	Error string `json:"error,omitempty" example:"ping the database: connection refused"`
	// Only while the queue is held to something else than `queue_max_messages` and `queue_max_bytes` say.
	QueueLimits *QueueLimits `json:"queue_limits,omitempty"`
	Instances   []Instance   `json:"instances"`
} // @name TenantStatus

// QueueLimits is what the broker holds a tenant's queue to, and why that is not what the tenant's limits say.
type QueueLimits struct {
	// `not_managed`: the installation has no management API of the broker, by which alone the limits are enforced. `unavailable`: it cannot be reached, and is tried again. `refused`: it refuses the login of ingest-service. `argument`: the queue was made with a lower `x-max-length-bytes`, which counts until it is made again. `foreign_policy`: a policy that is none of the platform's applies to the queue. `rounded`: more different limits are in use than there may be policies, and this one is rounded down.
	Reason string `json:"reason" example:"argument" enums:"not_managed,unavailable,refused,argument,foreign_policy,rounded"`
	// In force; absent: no limit, or not known.
	MaxMessages int64 `json:"max_messages,omitempty" example:"1000000"`
	// In force; absent: no limit, or not known.
	MaxBytes int64 `json:"max_bytes,omitempty" example:"1073741824"`
	// The reason for people.
	Detail string `json:"detail,omitempty" example:"the argument x-max-length-bytes of the queue, 1073741824, counts until it is made again"`
} // @name QueueLimits

// Queue is the depth of a tenant's queue; null means not known.
type Queue struct {
	// Messages that wait.
	Ready *int64 `json:"ready" example:"120" extensions:"x-nullable"`
	// Messages that are being stored.
	Unacked *int64 `json:"unacked" example:"40" extensions:"x-nullable"`
} // @name QueueDepth

// Instance is what one instance of ingest-service observes of a tenant.
type Instance struct {
	Instance string `json:"instance" example:"ingest-7d9f"`
	State    string `json:"state" example:"running" enums:"provisioning,running,storage_full,paused,suspended,deleting,deleted,failed"`
	// Its share of the tenant's workers; 0 while others have all of them.
	Workers            int    `json:"workers" example:"3"`
	Queue              Queue  `json:"queue"`
	ObservedGeneration int64  `json:"observed_generation" example:"1"`
	Error              string `json:"error,omitempty" example:"ping the database: connection refused"`
	// When the instance has seen this. It repeats itself every 10 seconds; after 30 seconds of silence it is left out.
	ObservedAt rest.Timestamp `json:"observed_at" swaggertype:"string" format:"date-time" example:"2026-01-31T12:00:07.654321Z"`
} // @name InstanceStatus

// Page is a part of the list of tenants, in the order of their creation.
type Page struct {
	Data []Tenant `json:"data"`
	// Send it as `cursor` to get what follows. It is given on every page, the last one included.
	NextCursor string `json:"next_cursor" example:"AQAGSjuFc0BAAZejwo8OfMGdOV0qPw96EQ"`
	// Whether there is more right now.
	HasMore bool `json:"has_more" example:"false"`
} // @name TenantPage

func render(t tenant.Tenant, s tenant.Status) Tenant {
	view := Tenant{
		ID:          t.ID.String(),
		Name:        t.Name,
		Workers:     t.Workers,
		MaxAttempts: int(t.Own()["max_attempts"]),
		State:       string(t.State),
		Generation:  t.Generation,
		CreatedAt:   rest.Timestamp{Time: t.CreatedAt},
		UpdatedAt:   rest.Timestamp{Time: t.UpdatedAt},
		Status: Status{
			State:              s.State,
			Workers:            s.Workers,
			Queue:              queue(s.QueueReady, s.QueueUnacked),
			ObservedGeneration: s.ObservedGeneration,
			Error:              s.Error,
			Instances:          make([]Instance, len(s.Instances)),
		},
	}
	if limits := s.QueueLimits; limits != nil {
		view.Status.QueueLimits = &QueueLimits{
			Reason: string(limits.Reason), MaxMessages: limits.MaxMessages, MaxBytes: limits.MaxBytes, Detail: limits.Detail,
		}
	}
	for i, report := range s.Instances {
		view.Status.Instances[i] = renderInstance(report)
	}
	return view
}

func renderInstance(report contract.TenantStatus) Instance {
	return Instance{
		Instance:           report.Instance,
		State:              string(report.State),
		Workers:            report.Workers,
		Queue:              queue(report.QueueReady, report.QueueUnacked),
		ObservedGeneration: report.ObservedGeneration,
		Error:              report.Error,
		ObservedAt:         rest.Timestamp{Time: report.ObservedAt},
	}
}

// queue turns the -1 of the control channel into null.
func queue(ready, unacked int64) Queue {
	var q Queue
	if ready >= 0 {
		q.Ready = &ready
	}
	if unacked >= 0 {
		q.Unacked = &unacked
	}
	return q
}
