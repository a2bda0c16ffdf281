package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/gofiber/fiber/v2"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

// mergePatch is the media type of RFC 7396. A merge patch may also come as plain JSON, which is what most clients can send.
const mergePatch = "application/merge-patch+json"

// TenantConfig is what bounds a tenant.
type TenantConfig struct {
	// What is in force: the tenant's own limits, and the defaults of the installation where it has none.
	Effective Limits `json:"effective"`
	// What the tenant has of its own.
	Override Limits `json:"override"`
} // @name TenantConfig

// Limits bound what a tenant may send, keep and read, on all instances together. 0 is no limit, where that is allowed.
type Limits struct {
	// Concurrent writers, up to the maximum of the installation.
	Workers *int64 `json:"workers,omitempty" example:"5" minimum:"1" maximum:"1024" extensions:"x-nullable"`
	// How often a message is tried before it becomes a dead letter. Absent from `effective`: as often as each instance of ingest-service is configured to (`ingest.max_attempts`).
	MaxAttempts *int64 `json:"max_attempts,omitempty" example:"8" minimum:"1" maximum:"100" extensions:"x-nullable"`
	// Share of what is scarce, relative to the other tenants.
	Weight *int64 `json:"weight,omitempty" example:"1" minimum:"1" maximum:"100" extensions:"x-nullable"`
	// Messages a second that are accepted.
	PublishRate *int64 `json:"publish_rate,omitempty" example:"1000" minimum:"0" maximum:"1000000000" extensions:"x-nullable"`
	// Bytes a second that are accepted, of payloads and envelopes.
	PublishBytes *int64 `json:"publish_bytes,omitempty" example:"10485760" minimum:"0" maximum:"1125899906842624" extensions:"x-nullable"`
	// Bytes of the largest payload. That of the installation holds as well.
	MaxPayload *int64 `json:"max_payload,omitempty" example:"262144" minimum:"0" maximum:"16000000" extensions:"x-nullable"`
	// Messages that may wait in the queue, which then refuses more. In force within seconds, unless `queue_limits` in the status of the tenant says otherwise.
	QueueMaxMessages *int64 `json:"queue_max_messages,omitempty" example:"1000000" minimum:"0" maximum:"1000000000000" extensions:"x-nullable"`
	// Bytes that may wait in the queue, which then refuses more; likewise.
	QueueMaxBytes *int64 `json:"queue_max_bytes,omitempty" example:"1073741824" minimum:"0" maximum:"1125899906842624" extensions:"x-nullable"`
	// Bytes that may be stored, of payloads and envelopes; more is refused.
	StoredMaxBytes *int64 `json:"stored_max_bytes,omitempty" example:"107374182400" minimum:"0" maximum:"1125899906842624" extensions:"x-nullable"`
	// Seconds that a message is kept; older ones are removed.
	RetentionSeconds *int64 `json:"retention_seconds,omitempty" example:"2592000" minimum:"0" maximum:"3162240000" extensions:"x-nullable"`
	// Bytes that are kept; beyond them the oldest messages are removed.
	RetentionBytes *int64 `json:"retention_bytes,omitempty" example:"53687091200" minimum:"0" maximum:"1125899906842624" extensions:"x-nullable"`
	// Seconds that a dead letter is kept after its last failure.
	DeadLetterRetentionSeconds *int64 `json:"dead_letter_retention_seconds,omitempty" example:"1209600" minimum:"0" maximum:"3162240000" extensions:"x-nullable"`
	// Subscriptions at a time; 0: the 100 that the platform allows.
	MaxSubscriptions *int64 `json:"max_subscriptions,omitempty" example:"10" minimum:"0" maximum:"100" extensions:"x-nullable"`
	// Live tails at a time; 0: the 100 that the platform allows.
	MaxStreams *int64 `json:"max_streams,omitempty" example:"10" minimum:"0" maximum:"100" extensions:"x-nullable"`
	// Bytes a second that are read, over pages, exports, tails and receivers together.
	ReadBytes *int64 `json:"read_bytes,omitempty" example:"20971520" minimum:"0" maximum:"1125899906842624" extensions:"x-nullable"`
	// Dead letters a second that are replayed.
	ReplayRate *int64 `json:"replay_rate,omitempty" example:"100" minimum:"0" maximum:"1000000000" extensions:"x-nullable"`
} // @name Limits

// fields are the fields of l by the names of the limits.
func (l *Limits) fields() map[string]**int64 {
	return map[string]**int64{
		"workers": &l.Workers, "max_attempts": &l.MaxAttempts, "weight": &l.Weight,
		"publish_rate": &l.PublishRate, "publish_bytes": &l.PublishBytes, "max_payload": &l.MaxPayload,
		"queue_max_messages": &l.QueueMaxMessages, "queue_max_bytes": &l.QueueMaxBytes, "stored_max_bytes": &l.StoredMaxBytes,
		"retention_seconds": &l.RetentionSeconds, "retention_bytes": &l.RetentionBytes, "dead_letter_retention_seconds": &l.DeadLetterRetentionSeconds,
		"max_subscriptions": &l.MaxSubscriptions, "max_streams": &l.MaxStreams, "read_bytes": &l.ReadBytes, "replay_rate": &l.ReplayRate,
	}
}

func renderLimits(values map[string]int64) (view Limits) {
	for name, field := range view.fields() {
		if value, ok := values[name]; ok {
			*field = &value
		}
	}
	return view
}

// config shows the limits of a tenant.
//
//	@summary		Show the limits of a tenant
//	@description	What is in force, and what of it the tenant has of its own. Also for the tenant's own token, with any scope.
//	@tags			tenants
//	@security		Bearer
//	@param			id	path		string	true	"id of the tenant"	format(uuid)
//	@success		200	{object}	TenantConfig
//	@header			200	{string}	ETag			"the generation of the tenant, in quotes"
//	@header			200	{string}	Accept-Patch	"the media types of a PATCH (RFC 5789)"
//	@failure		400	{object}	problem.Problem	"`invalid_uuid`, `unknown_parameter`, `unexpected_body`"
//	@failure		404	{object}	problem.Problem	"`tenant_not_found`: unknown, deleted, or not that of the token"
//	@failure		503	{object}	problem.Problem	"`registry_unavailable`: try again after the time in Retry-After"
//	@id			getTenantConfig
//	@router			/tenants/{id}/config [get]
func (a *api) config(c *fiber.Ctx) error {
	id, err := target(c)
	if err != nil {
		return err
	}
	t, err := a.registry.Find(c.UserContext(), id)
	if err != nil {
		return asProblem(err)
	}
	return a.showConfig(c, t)
}

// configure changes the limits of a tenant.
//
//	@summary		Change the limits of a tenant
//	@description	A merge patch (RFC 7396) of `override`: a number becomes the tenant's own limit, `null` is the default of the installation again, and what is not named stays. A patch that changes nothing is answered as well. Limits that contradict each other with what is in force are refused. The generation rises, and the change is in force on every instance within a second or two. With `If-Match` and the `ETag` of an earlier answer it is 412 if the tenant has been changed since.
//	@tags			tenants
//	@security		Bearer
//	@accept			json,application/merge-patch+json
//	@param			id			path		string	true	"id of the tenant"	format(uuid)
//	@param			limits		body		Limits	true	"the limits to change"
//	@param			If-Match	header		string	false	"ETag of an earlier answer: change the tenant only if it has not been changed since"	example("7")
//	@param			Prefer		header		string	false	"wait=n: respond once the change has taken effect; wait at most n seconds"	example(wait=10)
//	@success		200			{object}	TenantConfig
//	@header			200			{string}	ETag				"the generation of the tenant, in quotes"
//	@header			200			{string}	Accept-Patch		"the media types of a PATCH (RFC 5789)"
//	@header			200			{string}	Preference-Applied	"wait=n, if that was asked for"
//	@failure		400			{object}	problem.Problem	"`empty_body`, `malformed_json`, `unknown_field`, `duplicate_field`, `wrong_type`, `invalid_string`, `invalid_uuid`, `invalid_precondition`, `validation_failed`, `malformed_encoding`: errors[] names the field"
//	@failure		404			{object}	problem.Problem	"`tenant_not_found`: unknown, deleted, or not that of the token"
//	@failure		409			{object}	problem.Problem	"`tenant_deleting`; `no_broker_management`: limits of queues need the management API of the broker, which the installation does not have"
//	@failure		412			{object}	problem.Problem	"`generation_mismatch`: the tenant has another generation than those in If-Match"
//	@failure		503			{object}	problem.Problem	"`registry_unavailable`: try again after the time in Retry-After"
//	@id			patchTenantConfig
//	@router			/tenants/{id}/config [patch]
func (a *api) configure(c *fiber.Ctx) error {
	id, err := target(c)
	if err != nil {
		return err
	}
	condition, err := rest.IfMatch(c)
	if err != nil {
		return err
	}
	c.Set("Accept-Patch", mergePatch+", "+fiber.MIMEApplicationJSON)
	patch, err := readPatch(c)
	if err != nil {
		return err
	}
	if err := a.policy.CheckPatch(patch); err != nil {
		return asProblem(err)
	}
	if a.policy.NeedsBroker(patch) {
		return notManaged("limits of queues need")
	}
	t, err := a.registry.Change(c.UserContext(), id, auth.Origin(c), audit.ConfigChanged, func(t *tenant.Tenant) error {
		if t.State == tenant.Deleted {
			return tenant.ErrNotFound
		}
		if !condition.Holds(etag(*t)) {
			return errGeneration
		}
		return a.policy.Configure(t, patch)
	})
	if errors.Is(err, errGeneration) {
		return problem.New(http.StatusPreconditionFailed, "generation_mismatch", "the tenant has another generation than those in If-Match").
			WithField(fiber.HeaderIfMatch, "must have the generation of the tenant")
	}
	if err != nil {
		return asProblem(err)
	}
	if t, err = a.preferred(c, t); err != nil {
		return err
	}
	return a.showConfig(c, t)
}

// errGeneration says that the generation of a tenant is none of those in If-Match.
var errGeneration = errors.New("generation does not match")

// readPatch reads a merge patch.
func readPatch(c *fiber.Ctx) (tenant.Patch, error) {
	if err := rest.Content(c, mergePatch, fiber.MIMEApplicationJSON); err != nil {
		return nil, err
	}
	body, err := rest.Body(c, c.App().Config().BodyLimit)
	if err != nil {
		return nil, err
	}
	var limits Limits
	if err := rest.Decode(body, &limits); err != nil {
		return nil, err
	}
	// Which limits are named, since null looks like absent: every name is one of a limit, and is there once.
	var named map[string]json.RawMessage
	if err := json.Unmarshal(body, &named); err != nil {
		return nil, fmt.Errorf("read the names of a patch: %w", err)
	}
	fields := limits.fields()
	patch := make(tenant.Patch, len(named))
	for name := range named {
		patch[name] = *fields[name]
	}
	return patch, nil
}

func (a *api) showConfig(c *fiber.Ctx, t tenant.Tenant) error {
	c.Set(fiber.HeaderETag, etag(t))
	c.Set("Accept-Patch", mergePatch+", "+fiber.MIMEApplicationJSON)
	return c.JSON(TenantConfig{Effective: renderLimits(a.policy.Values(t.InForce())), Override: renderLimits(t.Own())})
}

// etag is the entity tag of everything that can be changed of a tenant.
func etag(t tenant.Tenant) string { return `"` + strconv.FormatInt(t.Generation, 10) + `"` }
