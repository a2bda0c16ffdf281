// Package oapi_test runs the scenario with the client that oapi-codegen has made of api/openapi.yaml.
package oapi_test

import (
	"clients/oapi/api"
	"clients/world"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

func ptr[T any](v T) *T { return &v }

// as is how these clients are given a token.
func as(token string) func(context.Context, *http.Request) error {
	return func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer "+token)
		return nil
	}
}

// scenario has the client once for each service, whose addresses differ.
type scenario struct {
	world.World
	tenants, ingest, query *api.ClientWithResponses
}

func TestScenario(t *testing.T) {
	s := &scenario{World: world.FromEnvironment(t)}
	for address, client := range map[string]**api.ClientWithResponses{s.TenantURL: &s.tenants, s.IngestURL: &s.ingest, s.QueryURL: &s.query} {
		var err error
		*client, err = api.NewClientWithResponses(address)
		require.NoError(t, err)
	}

	s.createTenant(t)
	s.publish(t)
	s.read(t)
	s.deadLetters(t)
	s.eraseMessage(t)
	s.access(t)
	s.changeTenant(t)
	s.audit(t)
	s.refusals(t)
}

func (s *scenario) createTenant(t *testing.T) {
	body := api.CreateTenant{Id: &s.Tenant, Name: "acme", Workers: ptr(2)}
	created, err := s.tenants.CreateTenantWithResponse(t.Context(), &api.CreateTenantParams{Prefer: ptr("wait=30")}, body, as(s.Admin))
	require.NoError(t, err)
	require.NotNil(t, created.JSON201, "%s", created.Body)
	require.Equal(t, s.Tenant, created.JSON201.Id)
	require.Nil(t, created.JSON201.MaxAttempts)
	require.Equal(t, "/tenants/"+s.Tenant.String(), created.Headers201.Location)

	again, err := s.tenants.CreateTenantWithResponse(t.Context(), nil, body, as(s.Admin))
	require.NoError(t, err)
	require.Equal(t, 409, again.StatusCode())
	require.Equal(t, "tenant_exists", again.ApplicationproblemJSON409.Code)
	require.NotEmpty(t, again.ApplicationproblemJSON409.RequestId)
	require.Equal(t, "id", (*again.ApplicationproblemJSON409.Errors)[0].Field)

	list, err := s.tenants.ListTenantsWithResponse(t.Context(), &api.ListTenantsParams{Limit: ptr(1)}, as(s.Admin))
	require.NoError(t, err)
	require.Len(t, list.JSON200.Data, 1)
	require.NotEmpty(t, list.JSON200.NextCursor)
}

func (s *scenario) publish(t *testing.T) {
	id := uuid.New()
	one, err := s.ingest.PublishMessageWithResponse(t.Context(), nil,
		api.NewMessage{Id: &id, Payload: map[string]any{"type": "order.created", "total": 19.99}}, as(s.TenantToken))
	require.NoError(t, err)
	require.NotNil(t, one.JSON202, "%s", one.Body)
	require.Equal(t, id, one.JSON202.Id)

	lines := strings.NewReader(`{"payload":[1,2]}` + "\n" + `{"payload":` + "\n" + `{"payload":null}` + "\n")
	batch, err := s.ingest.PublishBatchWithBodyWithResponse(t.Context(), nil, "application/x-ndjson", lines, as(s.TenantToken))
	require.NoError(t, err)
	require.NotNil(t, batch.JSON202, "%s", batch.Body)
	require.Equal(t, 2, batch.JSON202.Accepted)
	require.Equal(t, 1, batch.JSON202.Failed)
	require.Equal(t, 400, batch.JSON202.Results[1].Status)
	require.Equal(t, "malformed_json", *batch.JSON202.Results[1].Code)
}

// read pages through the messages, each with a payload of another kind.
func (s *scenario) read(t *testing.T) {
	var all []api.Message
	require.Eventually(t, func() bool {
		all = nil
		for cursor, more := (*string)(nil), true; more; {
			page, err := s.query.ListMessagesWithResponse(t.Context(), &api.ListMessagesParams{Cursor: cursor, Limit: ptr(2)}, as(s.TenantToken))
			if err != nil || page.JSON200 == nil {
				return false
			}
			all = append(all, page.JSON200.Data...)
			cursor, more = &page.JSON200.NextCursor, page.JSON200.HasMore
		}
		return len(all) == 3
	}, world.WaitLimit, world.Poll)
	var payloads []any
	for _, m := range all {
		payloads = append(payloads, m.Payload)
		one, err := s.query.GetMessageWithResponse(t.Context(), m.Id, nil, as(s.TenantToken))
		require.NoError(t, err)
		require.Equal(t, m, *one.JSON200)
		require.WithinDuration(t, time.Now(), m.CreatedAt, time.Hour)
	}
	require.ElementsMatch(t, []any{map[string]any{"type": "order.created", "total": 19.99}, []any{1.0, 2.0}, nil}, payloads)
}

// deadLetters reads a page with a payload that is a list and one that is no JSON, and puts both right.
func (s *scenario) deadLetters(t *testing.T) {
	ctx, token := t.Context(), as(s.LettersToken)
	var letters []api.DeadLetter
	require.Eventually(t, func() bool {
		page, err := s.ingest.ListDeadLettersWithResponse(ctx, nil, token)
		if err != nil || page.JSON200 == nil {
			return false
		}
		letters = page.JSON200.Data
		return len(letters) == 2
	}, world.WaitLimit, world.Poll)
	for _, letter := range letters {
		one, err := s.ingest.GetDeadLetterWithResponse(ctx, letter.Id, nil, token)
		require.NoError(t, err)
		require.NotNil(t, one.JSON200, "%s", one.Body)
		require.Equal(t, letter.Payload, one.JSON200.Payload)
	}
	list, broken := letters[0], letters[1]
	if list.Reason != api.DeadLetterReasonForeignKey {
		list, broken = broken, list
	}
	require.Equal(t, []any{1.0, 2.0}, list.Payload)
	require.NotNil(t, list.MessageId)
	require.Nil(t, broken.Payload)
	require.Equal(t, []byte(`{"not json`), *broken.PayloadBase64)
	require.Nil(t, broken.MessageId, "its producer gave none")
	require.Equal(t, map[string]any{"origin": "a producer"}, broken.Headers)

	none, err := s.ingest.ReplayDeadLettersWithResponse(ctx, &api.ReplayDeadLettersParams{DryRun: ptr(true), Reason: ptr(api.ReplayDeadLettersParamsReason("not_json"))}, token)
	require.NoError(t, err)
	require.Equal(t, 1, *none.JSON200.Count)

	refused, err := s.ingest.ReplayDeadLetterWithBodyWithResponse(ctx, broken.Id, nil, "", nil, token)
	require.NoError(t, err)
	require.Equal(t, 422, refused.StatusCode())
	require.Equal(t, "payload_not_json", refused.ApplicationproblemJSON422.Code)
	require.NotEmpty(t, refused.ApplicationproblemJSON422.RequestId)

	replayed, err := s.ingest.ReplayDeadLetterWithResponse(ctx, list.Id, nil, api.EditedMessage{Payload: "edited"}, token)
	require.NoError(t, err)
	require.NotNil(t, replayed.JSON202, "%s", replayed.Body)
	require.Eventually(t, func() bool {
		m, err := s.query.GetMessageWithResponse(ctx, replayed.JSON202.MessageId, nil, token)
		return err == nil && m.JSON200 != nil && m.JSON200.Payload == "edited"
	}, world.WaitLimit, world.Poll)

	dropped, err := s.ingest.DropDeadLetterWithResponse(ctx, broken.Id, nil, token)
	require.NoError(t, err)
	require.Equal(t, 204, dropped.StatusCode())
	rest, err := s.ingest.DropDeadLettersWithResponse(ctx, &api.DropDeadLettersParams{Reason: ptr(api.DropDeadLettersParamsReason("not_json"))}, token)
	require.NoError(t, err)
	require.Zero(t, rest.JSON200.Dropped)
}

// eraseMessage removes a message for good, in the administrator's name.
func (s *scenario) eraseMessage(t *testing.T) {
	page, err := s.query.ListMessagesWithResponse(t.Context(), &api.ListMessagesParams{Limit: ptr(1)}, as(s.TenantToken))
	require.NoError(t, err)
	require.Nil(t, page.JSON200.Gap)
	id, params := page.JSON200.Data[0].Id, &api.EraseMessageParams{TenantId: &s.Tenant}
	require.Eventually(t, func() bool { // it is 503 where another test of the servers holds up the counting
		erased, err := s.ingest.EraseMessageWithResponse(t.Context(), id, params, as(s.Admin))
		return err == nil && erased.StatusCode() == 204
	}, world.WaitLimit, world.Poll)
	gone, err := s.ingest.EraseMessageWithResponse(t.Context(), id, params, as(s.Admin))
	require.NoError(t, err)
	require.Equal(t, "not_stored", gone.ApplicationproblemJSON404.Code)
	refused, err := s.ingest.EraseMessageWithResponse(t.Context(), id, nil, as(s.TenantToken))
	require.NoError(t, err)
	require.Equal(t, "insufficient_scope", refused.ApplicationproblemJSON403.Code)
}

func (s *scenario) changeTenant(t *testing.T) {
	ctx, admin := t.Context(), as(s.Admin)
	resized, err := s.tenants.SetTenantConcurrencyWithResponse(ctx, s.Tenant, nil, api.Concurrency{Workers: 3}, admin)
	require.NoError(t, err)
	require.Equal(t, 3, resized.JSON200.Workers)
	limits, err := s.tenants.GetTenantConfigWithResponse(ctx, s.Tenant, admin)
	require.NoError(t, err)
	require.Equal(t, 3, *limits.JSON200.Override.Workers)
	limited, err := s.tenants.PatchTenantConfigWithResponse(ctx, s.Tenant, &api.PatchTenantConfigParams{IfMatch: limits.Headers200.ETag},
		api.Limits{StoredMaxBytes: ptr(1 << 50)}, admin)
	require.NoError(t, err)
	require.Equal(t, 1<<50, *limited.JSON200.Effective.StoredMaxBytes)
	limited, err = s.tenants.PatchTenantConfigWithBodyWithResponse(ctx, s.Tenant, nil, "application/merge-patch+json", strings.NewReader(`{"stored_max_bytes":null}`), admin)
	require.NoError(t, err)
	require.Nil(t, limited.JSON200.Override.StoredMaxBytes)
	suspended, err := s.tenants.SuspendTenantWithResponse(ctx, s.Tenant, &api.SuspendTenantParams{Prefer: ptr("wait=30")}, admin)
	require.NoError(t, err)
	require.Equal(t, api.TenantStateSuspended, suspended.JSON200.State)
	resumed, err := s.tenants.ResumeTenantWithResponse(ctx, s.Tenant, nil, admin)
	require.NoError(t, err)
	require.Equal(t, api.TenantStateActive, resumed.JSON200.State)
	shown, err := s.tenants.GetTenantWithResponse(ctx, s.Tenant, admin)
	require.NoError(t, err)
	require.Equal(t, "acme", shown.JSON200.Name)
	deleted, err := s.tenants.DeleteTenantWithResponse(ctx, s.Tenant, &api.DeleteTenantParams{Prefer: ptr("wait=30")}, admin)
	require.NoError(t, err)
	require.Equal(t, api.TenantStateDeleted, deleted.JSON202.State)
}

// access gives an application a token and a producer a credential, and takes them back; the tenant's usage is looked at as well.
func (s *scenario) access(t *testing.T) {
	ctx, admin := t.Context(), as(s.Admin)
	keys, err := s.tenants.GetKeySetWithResponse(ctx)
	require.NoError(t, err)
	require.Len(t, keys.JSON200.Keys, 1)
	token, err := s.tenants.IssueTokenWithResponse(ctx, s.Tenant, api.IssueToken{Name: "app", Scopes: []api.IssueTokenScopes{"messages:read"}}, admin)
	require.NoError(t, err)
	require.NotNil(t, token.JSON201, "%s", token.Body)
	usage, err := s.tenants.GetTenantUsageWithResponse(ctx, s.Tenant, &api.GetTenantUsageParams{Step: ptr(api.GetTenantUsageParamsStep("day"))}, as(token.JSON201.Token))
	require.NoError(t, err)
	require.NotEmpty(t, usage.JSON200.Data)
	tokens, err := s.tenants.ListTokensWithResponse(ctx, s.Tenant, nil, admin)
	require.NoError(t, err)
	require.Equal(t, token.JSON201.Id, tokens.JSON200.Data[0].Id)
	revoked, err := s.tenants.RevokeTokenWithResponse(ctx, s.Tenant, token.JSON201.Id, admin)
	require.NoError(t, err)
	require.Equal(t, 204, revoked.StatusCode())

	credential, err := s.tenants.IssueCredentialWithResponse(ctx, s.Tenant, api.NewCredential{Name: "producer"}, admin)
	require.NoError(t, err)
	require.NotNil(t, credential.JSON201, "%s", credential.Body)
	credentials, err := s.tenants.ListCredentialsWithResponse(ctx, s.Tenant, nil, admin)
	require.NoError(t, err)
	require.Equal(t, credential.JSON201.Username, credentials.JSON200.Data[0].Username)
	gone, err := s.tenants.RevokeCredentialWithResponse(ctx, s.Tenant, credential.JSON201.Id, admin)
	require.NoError(t, err)
	require.Equal(t, 204, gone.StatusCode())
}

// audit reads who has done all that.
func (s *scenario) audit(t *testing.T) {
	var events []api.AuditEvent
	require.Eventually(t, func() bool {
		page, err := s.tenants.ListAuditEventsWithResponse(t.Context(), &api.ListAuditEventsParams{TenantId: &s.Tenant, Action: ptr(api.ListAuditEventsParamsActionTenantResized)}, as(s.Admin))
		if err != nil || page.JSON200 == nil {
			return false
		}
		events = page.JSON200.Data
		return len(events) == 1
	}, world.WaitLimit, world.Poll)
	require.Equal(t, s.Tenant, *events[0].TenantId)
	require.NotEmpty(t, events[0].RequestId)
	require.Contains(t, *events[0].After, "workers")
}

// refusals looks at the status, the code and the request id of errors of every operation.
func (s *scenario) refusals(t *testing.T) {
	ctx, reader := t.Context(), as(s.LettersToken)
	nobody := uuid.New()

	page, err := s.query.ListMessagesWithResponse(ctx, &api.ListMessagesParams{Limit: ptr(0)}, reader)
	require.NoError(t, err)
	require.Equal(t, 400, page.StatusCode())
	require.Equal(t, "limit", (*page.ApplicationproblemJSON400.Errors)[0].Field)
	require.NotEmpty(t, page.ApplicationproblemJSON400.RequestId)
	missing, err := s.query.GetMessageWithResponse(ctx, nobody, nil, reader)
	require.NoError(t, err)
	require.Equal(t, 404, missing.StatusCode())
	require.Equal(t, "not_stored", missing.ApplicationproblemJSON404.Code)
	require.Equal(t, 404, missing.ApplicationproblemJSON404.Status)
	require.Equal(t, missing.Headers404.XRequestID, missing.ApplicationproblemJSON404.RequestId)

	without, err := s.ingest.PublishMessageWithResponse(ctx, nil, api.NewMessage{Payload: 1})
	require.NoError(t, err)
	require.Equal(t, 401, without.StatusCode())
	require.Equal(t, "missing_token", without.ApplicationproblemJSON401.Code)
	require.Equal(t, "Bearer", without.Headers401.WWWAuthenticate)
	gone, err := s.ingest.PublishMessageWithResponse(ctx, nil, api.NewMessage{Payload: 1}, as(s.TenantToken))
	require.NoError(t, err)
	require.Equal(t, 404, gone.StatusCode())
	require.Equal(t, "tenant_not_found", gone.ApplicationproblemJSON404.Code)
	large, err := s.ingest.PublishMessageWithResponse(ctx, nil, api.NewMessage{Payload: strings.Repeat("x", 2<<20)}, reader)
	require.NoError(t, err)
	require.Equal(t, 413, large.StatusCode())
	require.NotEmpty(t, large.ApplicationproblemJSON413.RequestId)
	text, err := s.ingest.PublishMessageWithBodyWithResponse(ctx, nil, "text/plain", strings.NewReader("{}"), reader)
	require.NoError(t, err)
	require.Equal(t, 415, text.StatusCode())
	require.Equal(t, "unsupported_media_type", text.ApplicationproblemJSON415.Code)
	empty, err := s.ingest.PublishBatchWithBodyWithResponse(ctx, nil, "application/x-ndjson", strings.NewReader("\n"), reader)
	require.NoError(t, err)
	require.Equal(t, "empty_body", empty.ApplicationproblemJSON400.Code)
	letters, err := s.ingest.ListDeadLettersWithResponse(ctx, &api.ListDeadLettersParams{Cursor: ptr("x")}, reader)
	require.NoError(t, err)
	require.Equal(t, "bad_cursor", letters.ApplicationproblemJSON400.Code)
	letter, err := s.ingest.GetDeadLetterWithResponse(ctx, nobody, nil, reader)
	require.NoError(t, err)
	require.Equal(t, "dead_letter_not_found", letter.ApplicationproblemJSON404.Code)
	drop, err := s.ingest.DropDeadLetterWithResponse(ctx, nobody, nil, reader)
	require.NoError(t, err)
	require.Equal(t, "dead_letter_not_found", drop.ApplicationproblemJSON404.Code)
	drops, err := s.ingest.DropDeadLettersWithResponse(ctx, &api.DropDeadLettersParams{TenantId: &nobody}, reader)
	require.NoError(t, err)
	require.Equal(t, "tenant_mismatch", drops.ApplicationproblemJSON403.Code)
	replays, err := s.ingest.ReplayDeadLettersWithResponse(ctx, &api.ReplayDeadLettersParams{Reason: ptr(api.ReplayDeadLettersParamsReason("bad mood"))}, reader)
	require.NoError(t, err)
	require.Equal(t, "invalid_reason", replays.ApplicationproblemJSON400.Code)

	events, err := s.tenants.ListAuditEventsWithResponse(ctx, nil, reader)
	require.NoError(t, err)
	require.Equal(t, "insufficient_scope", events.ApplicationproblemJSON403.Code)
	list, err := s.tenants.ListTenantsWithResponse(ctx, nil, reader)
	require.NoError(t, err)
	require.Equal(t, "insufficient_scope", list.ApplicationproblemJSON403.Code)
	foreign, err := s.tenants.GetTenantWithResponse(ctx, nobody, reader)
	require.NoError(t, err)
	require.Equal(t, "tenant_not_found", foreign.ApplicationproblemJSON404.Code)
	admin := as(s.Admin)
	resized, err := s.tenants.SetTenantConcurrencyWithResponse(ctx, nobody, nil, api.Concurrency{Workers: 1}, admin)
	require.NoError(t, err)
	require.Equal(t, "tenant_not_found", resized.ApplicationproblemJSON404.Code)
	limits, err := s.tenants.GetTenantConfigWithResponse(ctx, nobody, admin)
	require.NoError(t, err)
	require.Equal(t, "tenant_not_found", limits.ApplicationproblemJSON404.Code)
	limited, err := s.tenants.PatchTenantConfigWithResponse(ctx, nobody, nil, api.Limits{Weight: ptr(101)}, admin)
	require.NoError(t, err)
	require.Equal(t, "validation_failed", limited.ApplicationproblemJSON400.Code)
	usage, err := s.tenants.GetTenantUsageWithResponse(ctx, nobody, nil, admin)
	require.NoError(t, err)
	require.Equal(t, "tenant_not_found", usage.ApplicationproblemJSON404.Code)
	token, err := s.tenants.IssueTokenWithResponse(ctx, nobody, api.IssueToken{Name: "app", Scopes: []api.IssueTokenScopes{"messages:read"}}, admin)
	require.NoError(t, err)
	require.Equal(t, "tenant_not_found", token.ApplicationproblemJSON404.Code)
	tokens, err := s.tenants.ListTokensWithResponse(ctx, nobody, nil, admin)
	require.NoError(t, err)
	require.Equal(t, "tenant_not_found", tokens.ApplicationproblemJSON404.Code)
	revoked, err := s.tenants.RevokeTokenWithResponse(ctx, nobody, nobody, admin)
	require.NoError(t, err)
	require.Equal(t, "tenant_not_found", revoked.ApplicationproblemJSON404.Code)
	keys, err := s.tenants.GetKeySetWithResponse(ctx, func(_ context.Context, r *http.Request) error {
		r.URL.RawQuery = "kid=1"
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, "unknown_parameter", keys.ApplicationproblemJSON400.Code)
	credential, err := s.tenants.IssueCredentialWithResponse(ctx, nobody, api.NewCredential{Name: "producer"}, admin)
	require.NoError(t, err)
	require.Equal(t, "tenant_not_found", credential.ApplicationproblemJSON404.Code)
	credentials, err := s.tenants.ListCredentialsWithResponse(ctx, nobody, nil, admin)
	require.NoError(t, err)
	require.Equal(t, "tenant_not_found", credentials.ApplicationproblemJSON404.Code)
	kept, err := s.tenants.RevokeCredentialWithResponse(ctx, nobody, nobody, admin)
	require.NoError(t, err)
	require.Equal(t, 404, kept.StatusCode())
	suspended, err := s.tenants.SuspendTenantWithResponse(ctx, nobody, nil, admin)
	require.NoError(t, err)
	require.Equal(t, "tenant_not_found", suspended.ApplicationproblemJSON404.Code)
	resumed, err := s.tenants.ResumeTenantWithResponse(ctx, nobody, nil, admin)
	require.NoError(t, err)
	require.Equal(t, "tenant_not_found", resumed.ApplicationproblemJSON404.Code)
	deleted, err := s.tenants.DeleteTenantWithResponse(ctx, nobody, nil, admin)
	require.NoError(t, err)
	require.Equal(t, "tenant_not_found", deleted.ApplicationproblemJSON404.Code)
}
