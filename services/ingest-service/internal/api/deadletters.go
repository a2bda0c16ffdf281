package api

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/deadletter"
)

// Limits of what is shown of dead letters.
const (
	// listPayload is the longest payload in a list, pageBytes where a page ends.
	listPayload = 64 << 10
	pageBytes   = 8 << 20
	// shownPayload is the longest payload that is shown at all. Over AMQP a message can have 128 MiB.
	shownPayload = 16 << 20
)

// listDeadLetters answers a page of dead letters.
//
//	@summary		List dead letters
//	@description	Messages of the tenant that could not be stored, in the order of their first failure. A page ends at the limit or at 8 MiB of payloads and headers, these counted as six times what they take over AMQP. Payloads over 64 KiB are left out (`payload_omitted`); GET /dead-letters/{id} has them.
//	@tags			dead letters
//	@security		Bearer
//	@param			cursor			query		string	false	"next_cursor of another page; without it the list begins at its start"
//	@param			limit			query		int		false	"dead letters of a page at most"	minimum(1)	maximum(1000)	default(100)
//	@param			reason			query		string	false	"only those of this reason"	Enums(not_json, unstorable, too_deep, too_large, foreign_key, bad_envelope, rejected, max_attempts, delivery_limit, expired, unroutable)
//	@param			failed_after	query		string	false	"only those that first failed at this time (RFC 3339) or later"	format(date-time)
//	@param			failed_before	query		string	false	"only those that first failed before this time (RFC 3339)"		format(date-time)
//	@param			tenant_id		query		string	false	"the tenant, for a token that is not bound to one"				format(uuid)
//	@success		200				{object}	DeadLetterPage
//	@failure		400				{object}	problem.Problem	"`bad_cursor`, `invalid_limit`, `invalid_reason`, `invalid_time`, `unknown_parameter`, `unexpected_body`"
//	@failure		503				{object}	problem.Problem	"`database_unavailable`: try again after the time in Retry-After"
//	@id			listDeadLetters
//	@router			/dead-letters [get]
func (a *api) listDeadLetters(c *fiber.Ctx) error {
	tenant, filter, err := selection(c, "cursor", "limit")
	if err != nil {
		return err
	}
	limit, err := rest.Limit(c)
	if err != nil {
		return err
	}
	at := deadLetterCursor{kind: cursorOfList, tenant: tenant}
	if c.Context().QueryArgs().Has("cursor") {
		if at, err = decodeCursor(c.Query("cursor"), tenant, cursorOfList); err != nil {
			return err
		}
	}
	ctx, cancel := rest.WithMargin(c.UserContext())
	defer cancel()
	page, err := a.deps.DeadLetters.List(ctx, tenant, filter, at.position, deadletter.Limits{Entries: limit, Payload: listPayload, Bytes: pageBytes})
	if err != nil {
		return deadLetterProblem(err)
	}
	answer := DeadLetterPage{Data: make([]DeadLetter, len(page.Entries)), HasMore: page.More}
	for i := range page.Entries {
		answer.Data[i] = show(&page.Entries[i])
	}
	if n := len(page.Entries); n > 0 {
		at.position = deadletter.Position{FirstFailedAt: page.Entries[n-1].FirstFailedAt, ID: page.Entries[n-1].ID}
	}
	answer.NextCursor = at.encode()
	return c.JSON(answer)
}

// getDeadLetter answers one dead letter.
//
//	@summary		Read a dead letter
//	@description	With its payload, up to 16 MiB.
//	@tags			dead letters
//	@security		Bearer
//	@param			id			path		string	true	"id of the dead letter"	format(uuid)
//	@param			tenant_id	query		string	false	"the tenant, for a token that is not bound to one"	format(uuid)
//	@success		200			{object}	DeadLetter
//	@failure		400			{object}	problem.Problem	"`invalid_uuid`, `unknown_parameter`, `unexpected_body`"
//	@failure		404			{object}	problem.Problem	"`dead_letter_not_found`"
//	@failure		503			{object}	problem.Problem	"`database_unavailable`: try again after the time in Retry-After"
//	@id			getDeadLetter
//	@router			/dead-letters/{id} [get]
func (a *api) getDeadLetter(c *fiber.Ctx) error {
	tenant, id, err := target(c)
	if err != nil {
		return err
	}
	ctx, cancel := rest.WithMargin(c.UserContext())
	defer cancel()
	entry, err := a.deps.DeadLetters.Find(ctx, tenant, id, shownPayload)
	if err != nil {
		return deadLetterProblem(err)
	}
	return c.JSON(show(&entry))
}

// dropDeadLetter removes one dead letter.
//
//	@summary		Drop a dead letter
//	@description	It is gone for good.
//	@tags			dead letters
//	@security		Bearer
//	@param			id			path	string	true	"id of the dead letter"	format(uuid)
//	@param			tenant_id	query	string	false	"the tenant, for a token that is not bound to one"	format(uuid)
//	@success		204
//	@failure		400	{object}	problem.Problem	"`invalid_uuid`, `unknown_parameter`, `unexpected_body`"
//	@failure		404	{object}	problem.Problem	"`dead_letter_not_found`"
//	@failure		503	{object}	problem.Problem	"`database_unavailable`: try again after the time in Retry-After"
//	@id			dropDeadLetter
//	@router			/dead-letters/{id} [delete]
func (a *api) dropDeadLetter(c *fiber.Ctx) error {
	tenant, id, err := target(c)
	if err != nil {
		return err
	}
	ctx, cancel := rest.WithMargin(c.UserContext())
	defer cancel()
	if err := a.deps.DeadLetters.Drop(ctx, tenant, id, auth.Origin(c)); err != nil {
		return deadLetterProblem(err)
	}
	return c.SendStatus(http.StatusNoContent)
}

// dropDeadLetters removes many dead letters.
//
//	@summary		Drop dead letters
//	@description	Those that match all of the filters `reason`, `failed_after` and `failed_before` that are given, or all of them with `all=true`. Without either it is 400 `selection_required`, and with both 400 `selection_conflict`: nothing is dropped. `has_more` says that the time of the request was over before all were dropped: repeat it.
//	@tags			dead letters
//	@security		Bearer
//	@param			reason			query		string	false	"only those of this reason"	Enums(not_json, unstorable, too_deep, too_large, foreign_key, bad_envelope, rejected, max_attempts, delivery_limit, expired, unroutable)
//	@param			failed_after	query		string	false	"only those that first failed at this time (RFC 3339) or later"	format(date-time)
//	@param			failed_before	query		string	false	"only those that first failed before this time (RFC 3339)"		format(date-time)
//	@param			all				query		string	false	"true: all of them. Instead of a filter"	Enums(true)
//	@param			tenant_id		query		string	false	"the tenant, for a token that is not bound to one"				format(uuid)
//	@success		200				{object}	Dropped
//	@failure		400				{object}	problem.Problem	"`selection_required`, `selection_conflict`, `invalid_all`, `invalid_reason`, `invalid_time`, `unknown_parameter`, `repeated_parameter`, `unexpected_body`"
//	@failure		503				{object}	problem.Problem	"`database_unavailable`: try again after the time in Retry-After"
//	@id			dropDeadLetters
//	@router			/dead-letters [delete]
func (a *api) dropDeadLetters(c *fiber.Ctx) error {
	tenant, filter, err := many(c)
	if err != nil {
		return err
	}
	ctx, cancel := rest.WithMargin(c.UserContext())
	defer cancel()
	dropped, err := a.deps.DeadLetters.DropAll(ctx, tenant, filter, auth.Origin(c))
	if err != nil && dropped == 0 {
		return deadLetterProblem(err)
	}
	return c.JSON(Dropped{Dropped: dropped, HasMore: err != nil})
}

// Edit is the body of a replay that changes the message.
type Edit struct {
	// What is published in place of the payload of the dead letter; absent: its payload.
	Payload json.RawMessage `json:"payload,omitempty" extensions:"x-nullable"`
	// As in POST /messages. Where one of type, key and attributes is given, the three take the place of those of the dead letter.
	Type *string `json:"type,omitempty" maxLength:"255" extensions:"x-nullable"`
	// As in POST /messages.
	Key *string `json:"key,omitempty" maxLength:"255" extensions:"x-nullable"`
	// As in POST /messages.
	Attributes map[string]string `json:"attributes,omitempty" extensions:"x-nullable"`
} // @name EditedMessage

// replayDeadLetter publishes the message of one dead letter again.
//
//	@summary		Replay a dead letter
//	@description	Its message is published again under the same id, changed by the body if there is one, and the dead letter is removed. AMQP properties and headers of its producer are published again, except `expiration` (it would expire before anybody can look), `delivery_mode` (it is persistent), `user_id` (the broker compares it with the platform's own), the headers `CC`, `BCC`, `x-death` and others that act on the broker, headers that nest over 32 levels or have lists over 8,192 elements (other clients could not read them), and what does not fit into a frame of 128 KiB. If a message of this id is stored already, nothing is published, the dead letter is removed, and the result is `already_stored`; so it is safe to repeat. If the message fails again it will be a dead letter again.
//	@tags			dead letters
//	@security		Bearer
//	@param			id			path		string	true	"id of the dead letter"	format(uuid)
//	@param			tenant_id	query		string	false	"the tenant, for a token that is not bound to one"	format(uuid)
//	@param			edit		body		Edit	false	"another payload, or another envelope"
//	@success		200			{object}	DeadLetterReplayed	"`already_stored`"
//	@success		202			{object}	DeadLetterReplayed	"`replayed`"
//	@failure		400			{object}	problem.Problem	"as for POST /messages"
//	@failure		404			{object}	problem.Problem	"`dead_letter_not_found`, `tenant_not_found`"
//	@failure		409			{object}	problem.Problem	"`tenant_deleting`"
//	@failure		422			{object}	problem.Problem	"`payload_not_json`, `payload_unstorable`, `payload_too_deep`, `payload_too_large`, `bad_envelope`: the message cannot be stored as it is; edit it"
//	@failure		429			{object}	problem.Problem	"`rate_limited`: over the tenant's limit of replays a second; nothing was published. Try again after the time in Retry-After"
//	@header			429			{integer}	Retry-After	"seconds"
//	@failure		503			{object}	problem.Problem	"as for POST /messages, or `database_unavailable`: try again after the time in Retry-After"
//	@id			replayDeadLetter
//	@router			/dead-letters/{id}/replay [post]
func (a *api) replayDeadLetter(c *fiber.Ctx) error {
	tenant, id, err := target(c)
	if err != nil {
		return err
	}
	edit, err := a.edit(c)
	if err != nil {
		return err
	}
	ctx, cancel := rest.WithMargin(c.UserContext())
	defer cancel()
	limits, err := a.open(ctx, tenant)
	if err != nil {
		return err
	}
	if err := checkSize(edit.Payload, limits.MaxPayload); err != nil {
		return err
	}
	replayed, err := a.deps.Replayer.Replay(ctx, tenant, id, edit, auth.Origin(c))
	if err != nil {
		return replayProblem(err, replayed.MessageID.String())
	}
	status := http.StatusAccepted
	if replayed.Result == deadletter.ResultAlreadyStored {
		status = http.StatusOK
	}
	return c.Status(status).JSON(DeadLetterReplayed{ID: id, MessageID: replayed.MessageID, Result: string(replayed.Result)})
}

// edit reads the optional body of a replay.
func (a *api) edit(c *fiber.Ctx) (edit deadletter.Edit, err error) {
	body, err := rest.Body(c, a.cfg.MessageBody)
	if err != nil || rest.EmptyBody(body) {
		return edit, err //nolint:wrapcheck // a problem
	}
	var given Edit
	if err := rest.DecodeJSON(c, &given); err != nil {
		return edit, err
	}
	if given.Payload != nil {
		if err := a.checkPayload(given.Payload); err != nil {
			return edit, err
		}
		edit.Payload = given.Payload
	}
	if given.Type == nil && given.Key == nil && given.Attributes == nil {
		return edit, nil
	}
	if edit.Envelope, err = newEnvelope(given.Type, given.Key, given.Attributes); edit.Envelope == nil {
		edit.Envelope = &contract.Envelope{}
	}
	return edit, err
}

// replayDeadLetters publishes the messages of many dead letters again.
//
//	@summary		Replay dead letters
//	@description	Those that match all of the filters `reason`, `failed_after` and `failed_before` that are given, or all of them with `all=true` (without either it is 400 `selection_required`, and with both 400 `selection_conflict`), oldest first and at a limited rate, that of the installation or of the tenant's limit of replays. One request does as many as it has time for: `has_more` says that some are left, and the same request with `cursor` continues. Dead letters that fail again meanwhile are not replayed again by that. Those whose payload cannot be stored as it is are counted as `refused` and stay. With `dry_run=true` nothing happens, and the answer is how many dead letters there are.
//	@tags			dead letters
//	@security		Bearer
//	@param			reason			query		string	false	"only those of this reason"	Enums(not_json, unstorable, too_deep, too_large, foreign_key, bad_envelope, rejected, max_attempts, delivery_limit, expired, unroutable)
//	@param			failed_after	query		string	false	"only those that first failed at this time (RFC 3339) or later"	format(date-time)
//	@param			failed_before	query		string	false	"only those that first failed before this time (RFC 3339)"		format(date-time)
//	@param			all				query		string	false	"true: all of them. Instead of a filter"	Enums(true)
//	@param			dry_run			query		bool	false	"only count"
//	@param			cursor			query		string	false	"next_cursor of the request before"
//	@param			tenant_id		query		string	false	"the tenant, for a token that is not bound to one"				format(uuid)
//	@success		200				{object}	DeadLettersReplayed
//	@failure		400				{object}	problem.Problem	"`selection_required`, `selection_conflict`, `invalid_all`, `bad_cursor`, `invalid_reason`, `invalid_time`, `invalid_boolean`, `unknown_parameter`, `repeated_parameter`, `unexpected_body`"
//	@failure		404				{object}	problem.Problem	"`tenant_not_found`"
//	@failure		409				{object}	problem.Problem	"`tenant_deleting`, `replay_running`"
//	@header			409				{integer}	Retry-After		"seconds after which to try again, for `replay_running`"
//	@failure		503				{object}	problem.Problem	"as for POST /messages, or `database_unavailable`; nothing was replayed"
//	@id			replayDeadLetters
//	@router			/dead-letters/replay [post]
func (a *api) replayDeadLetters(c *fiber.Ctx) error {
	tenant, filter, err := many(c, "cursor", "dry_run")
	if err != nil {
		return err
	}
	dryRun, err := boolParameter(c, "dry_run")
	if err != nil {
		return err
	}
	at := deadLetterCursor{kind: cursorOfReplay, tenant: tenant, began: time.Now().UTC().Truncate(time.Microsecond)}
	if c.Context().QueryArgs().Has("cursor") {
		if at, err = decodeCursor(c.Query("cursor"), tenant, cursorOfReplay); err != nil {
			return err
		}
	}
	ctx, cancel := rest.WithMargin(c.UserContext())
	defer cancel()
	if dryRun {
		count, err := a.deps.DeadLetters.Count(ctx, tenant, filter)
		if err != nil {
			return deadLetterProblem(err)
		}
		return c.JSON(DeadLettersReplayed{DryRun: true, Count: &count})
	}
	if _, err := a.open(ctx, tenant); err != nil {
		return err
	}
	if filter.Before.IsZero() || filter.Before.After(at.began) {
		filter.Before = at.began
	}
	outcome, err := a.deps.Replayer.ReplayAll(ctx, tenant, filter, at.position, auth.Origin(c))
	if err != nil && outcome.Replayed+outcome.AlreadyStored == 0 {
		return replayProblem(err, "")
	}
	at.position = outcome.Next
	answer := DeadLettersReplayed{
		Replayed: outcome.Replayed, AlreadyStored: outcome.AlreadyStored, Refused: outcome.Refused, HasMore: outcome.More,
		NextCursor: at.encode(),
	}
	if p, ok := problem.As(replayError(err)); ok {
		answer.Stopped = p.Code
	}
	return c.JSON(answer)
}

// replayError is the problem of a replay that got somewhere before it failed.
func replayError(err error) error {
	if err == nil {
		return nil
	}
	return replayProblem(err, "")
}

// target reads the tenant, and the dead letter in the path.
func target(c *fiber.Ctx) (tenant, id uuid.UUID, err error) {
	if err := rest.UnknownQuery(c, "tenant_id"); err != nil {
		return uuid.Nil, uuid.Nil, err
	}
	if tenant, err = auth.Tenant(c); err != nil {
		return uuid.Nil, uuid.Nil, err
	}
	id, err = rest.UUID("id", c.Params("id"))
	return tenant, id, err
}

// selection reads the tenant and which of its dead letters are meant, and refuses parameters that are neither that nor in
// others.
func selection(c *fiber.Ctx, others ...string) (uuid.UUID, deadletter.Filter, error) {
	var filter deadletter.Filter
	if err := rest.UnknownQuery(c, append(others, "tenant_id", "reason", "failed_after", "failed_before")...); err != nil {
		return uuid.Nil, filter, err
	}
	tenant, err := auth.Tenant(c)
	if err != nil {
		return uuid.Nil, filter, err
	}
	if filter.Reason, err = reasonParameter(c); err != nil {
		return uuid.Nil, filter, err
	}
	if filter.After, err = timeParameter(c, "failed_after"); err != nil {
		return uuid.Nil, filter, err
	}
	filter.Before, err = timeParameter(c, "failed_before")
	return tenant, filter, err
}

// many is [selection] for requests that change all dead letters that are meant. Those that are meant by nothing are none, and not
// all: a client that forgets a filter, or whose filter is empty, must not lose what it has not named. So it is a filter or the
// word all, and not both, of which one would be ignored.
func many(c *fiber.Ctx, others ...string) (uuid.UUID, deadletter.Filter, error) {
	tenant, filter, err := selection(c, append(others, "all")...)
	if err != nil {
		return uuid.Nil, filter, err
	}
	all := c.Query("all")
	given := filter != (deadletter.Filter{})
	const either = "must be true, unless one of reason, failed_after and failed_before is given"
	switch {
	case all != "" && all != "true":
		return uuid.Nil, filter, problem.New(http.StatusBadRequest, "invalid_all", "all takes the value true, or is absent").
			WithField("all", either)
	case all == "" && !given:
		return uuid.Nil, filter, problem.New(http.StatusBadRequest, "selection_required",
			"say which dead letters are meant: all=true, or at least one of reason, failed_after and failed_before").WithField("all", either)
	case all != "" && given:
		return uuid.Nil, filter, problem.New(http.StatusBadRequest, "selection_conflict",
			"all=true means all dead letters, and a filter some: give one of the two").WithField("all", either)
	}
	return tenant, filter, nil
}

func reasonParameter(c *fiber.Ctx) (contract.Reason, error) {
	if !c.Context().QueryArgs().Has("reason") {
		return "", nil
	}
	reason, known := contract.Reason(c.Query("reason")), deadletter.Reasons()
	if slices.Contains(known, reason) {
		return reason, nil
	}
	names := make([]string, len(known))
	for i, r := range known {
		names[i] = string(r)
	}
	return "", problem.New(http.StatusBadRequest, "invalid_reason", "there is no such reason").
		WithField("reason", "must be one of "+strings.Join(names, ", "))
}

// timeParameter reads a time; the zero time, which is no limit, if it is absent.
func timeParameter(c *fiber.Ctx, name string) (time.Time, error) {
	t, given, err := rest.Time(c, name)
	if given && t.IsZero() {
		t = t.Add(time.Microsecond) // the first moment of year 1 is a limit like any other, and nothing was there before it
	}
	return t, err //nolint:wrapcheck // a problem
}

func boolParameter(c *fiber.Ctx, name string) (bool, error) {
	if !c.Context().QueryArgs().Has(name) {
		return false, nil
	}
	switch c.Query(name) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, problem.New(http.StatusBadRequest, "invalid_boolean", name+" is not a boolean").
		WithField(name, "must be true or false")
}
