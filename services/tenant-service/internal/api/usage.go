package api

import (
	"fmt"
	"net/http"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

const (
	// maxSteps is how many steps an answer has: six weeks of hours, or almost three years of days.
	maxSteps = 1000
	// defaultHours and defaultDays are the steps of an answer to a request that does not say since when.
	defaultHours, defaultDays = 24, 30
)

// Usage is what a tenant has used.
type Usage struct {
	// Length of the steps.
	Step string `json:"step" example:"hour" enums:"hour,day"`
	// Every step from the one that `from` falls into up to the one before `to`, or the current one; also those in which nothing happened.
	Data   []UsagePeriod `json:"data"`
	Stored StoredUsage   `json:"stored"`
	// When the newest message that is counted was stored. Absent: none is.
	CountedUntil *rest.Timestamp `json:"counted_until,omitempty" swaggertype:"string" format:"date-time" example:"2026-01-31T12:00:00.123456Z"`
}

// UsagePeriod is what happened from one time to another.
type UsagePeriod struct {
	From rest.Timestamp `json:"from" swaggertype:"string" format:"date-time" example:"2026-01-31T12:00:00.000000Z"`
	// Not included.
	To rest.Timestamp `json:"to" swaggertype:"string" format:"date-time" example:"2026-01-31T13:00:00.000000Z"`
	// Messages that were stored, each once.
	Messages int64 `json:"messages" example:"1200"`
	// Their size, as it was accepted.
	Bytes int64 `json:"bytes" example:"614400"`
	// Deliveries through subscriptions.
	Delivered int64 `json:"delivered" example:"0"`
	// Messages that became dead letters.
	DeadLetters int64 `json:"dead_letters" example:"3"`
}

// StoredUsage is what is stored now: what was stored less what was removed since.
type StoredUsage struct {
	Messages int64 `json:"messages" example:"48000"`
	Bytes    int64 `json:"bytes" example:"24576000"`
}

// usage shows what a tenant has used.
//
//	@summary		Show the usage of a tenant
//	@description	What it has stored by the hour or by the day, in UTC, and what is stored now. Counted are the stored messages themselves, each once and with its size as it was accepted, about a second after they were stored; later while some transaction in the database is open for longer. Hours are kept for 400 days unless the installation says otherwise, also after the tenant is deleted: then an administrator can still read them. Also for the tenant's own token, with any scope.
//	@tags			tenants
//	@security		Bearer
//	@param			id		path		string	true	"id of the tenant"	format(uuid)
//	@param			from	query		string	false	"from the step that this time falls into (RFC 3339); without it 24 hours or 30 days before `to`"	format(date-time)
//	@param			to		query		string	false	"up to the step before this time, or that it falls into (RFC 3339); without it, and if it is later, up to now"	format(date-time)
//	@param			step	query		string	false	"length of the steps"	Enums(hour, day)	default(hour)
//	@success		200		{object}	Usage
//	@failure		400		{object}	problem.Problem	"`invalid_uuid`, `invalid_time`, `invalid_step`, `invalid_range`: from is not before to; `too_many_steps`: more than 1,000; `unknown_parameter`, `repeated_parameter`, `unexpected_body`"
//	@failure		404		{object}	problem.Problem	"`tenant_not_found`: unknown, not that of the token, or deleted and the token is bound to it"
//	@failure		503		{object}	problem.Problem	"`registry_unavailable`: try again after the time in Retry-After"
//	@id			getTenantUsage
//	@router			/tenants/{id}/usage [get]
func (a *api) usage(c *fiber.Ctx) error {
	id, err := target(c, "from", "to", "step")
	if err != nil {
		return err
	}
	window, err := usageWindow(c, time.Now().UTC())
	if err != nil {
		return err
	}
	u, err := a.registry.Usage(c.UserContext(), id, window, !auth.From(c).Bound())
	if err != nil {
		return asProblem(err)
	}
	return c.JSON(renderUsage(window, u))
}

// usageWindow is the time that a request asks for. There are no steps after the current one, and none before 1970.
func usageWindow(c *fiber.Ctx, now time.Time) (tenant.Window, error) {
	w := tenant.Window{Step: tenant.Step(c.Query("step", string(tenant.Hour)))}
	steps := defaultHours
	switch w.Step {
	case tenant.Hour:
	case tenant.Day:
		steps = defaultDays
	default:
		return w, problem.New(http.StatusBadRequest, "invalid_step", "step is not known").WithField("step", "must be hour or day")
	}
	length := w.Step.Length()
	end := now.Truncate(length).Add(length) // of the current step
	from, given, err := rest.Time(c, "from")
	if err != nil {
		return w, err
	}
	to, bounded, err := rest.Time(c, "to")
	if err != nil {
		return w, err
	}
	if !bounded {
		to = end
		if given && !from.Before(to) { // later than any step
			to = from.Add(length)
		}
	}
	if given && !from.Before(to) {
		return w, problem.New(http.StatusBadRequest, "invalid_range", "from is not before to").WithField("from", "must be before to")
	}
	if w.To = to.Truncate(length); w.To.Before(to) {
		w.To = w.To.Add(length)
	}
	if w.To.After(end) {
		w.To = end
	}
	w.From = w.To.Add(-time.Duration(steps) * length)
	if given {
		w.From = from.Truncate(length)
	}
	if first := time.Unix(0, 0).UTC(); w.From.Before(first) {
		w.From = first
	}
	if w.From.Before(w.To.Add(-maxSteps * length)) {
		return w, problem.New(http.StatusBadRequest, "too_many_steps", fmt.Sprintf("there are more than %d steps between from and to", maxSteps)).
			WithField("from", "must be nearer to to, or step longer")
	}
	return w, nil
}

// renderUsage puts the steps in which nothing happened between the others.
func renderUsage(w tenant.Window, u tenant.Usage) Usage {
	length := w.Step.Length()
	view := Usage{Step: string(w.Step), Data: []UsagePeriod{}, Stored: StoredUsage{Messages: u.StoredMessages, Bytes: u.StoredBytes}}
	if u.CountedUntil != nil {
		view.CountedUntil = &rest.Timestamp{Time: *u.CountedUntil}
	}
	for from := w.From; from.Before(w.To); from = from.Add(length) {
		var s tenant.UsageStep
		if len(u.Steps) > 0 && u.Steps[0].From.Equal(from) {
			s, u.Steps = u.Steps[0], u.Steps[1:]
		}
		view.Data = append(view.Data, UsagePeriod{
			From: rest.Timestamp{Time: from}, To: rest.Timestamp{Time: from.Add(length)},
			Messages: s.Messages, Bytes: s.Bytes, Delivered: s.Delivered, DeadLetters: s.DeadLetters,
		})
	}
	return view
}
