// Package goswagger_test runs the scenario with the clients that go-swagger has made.
package goswagger_test

import (
	"clients/goswagger/ingest/client/dead_letters"
	"clients/goswagger/ingest/client/messages"
	"clients/goswagger/tenants/client/audit"
	"clients/goswagger/tenants/client/credentials"
	"clients/goswagger/tenants/client/tokens"
	"clients/world"
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/go-openapi/runtime"
	httptransport "github.com/go-openapi/runtime/client"
	"github.com/go-openapi/strfmt"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	ingest "clients/goswagger/ingest/client"
	ingestmodels "clients/goswagger/ingest/models"
	query "clients/goswagger/query/client"
	stored "clients/goswagger/query/client/messages"
	querymodels "clients/goswagger/query/models"
	tenants "clients/goswagger/tenants/client"
	registry "clients/goswagger/tenants/client/tenants"
	tenantmodels "clients/goswagger/tenants/models"
)

func ptr[T any](v T) *T { return &v }

func id(u uuid.UUID) strfmt.UUID { return strfmt.UUID(u.String()) }

// transport is how a client of go-swagger reaches a service. It knows how to read and write application/json, and has to be told
// that problem documents are JSON, too, and how NDJSON, which is given to it as text, is written.
func transport(t *testing.T, address string) *httptransport.Runtime {
	u, err := url.Parse(address)
	require.NoError(t, err)
	r := httptransport.New(u.Host, "/", []string{u.Scheme})
	r.Consumers["application/problem+json"] = runtime.JSONConsumer()
	r.Producers["application/x-ndjson"] = runtime.TextProducer()
	return r
}

type scenario struct {
	world.World
	tenants *tenants.Tenants
	ingest  *ingest.Ingest
	query   *query.Query
}

func TestScenario(t *testing.T) {
	s := &scenario{World: world.FromEnvironment(t)}
	s.tenants = tenants.New(transport(t, s.TenantURL), nil)
	s.ingest = ingest.New(transport(t, s.IngestURL), nil)
	s.query = query.New(transport(t, s.QueryURL), nil)

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
	admin := httptransport.BearerToken(s.Admin)
	body := &tenantmodels.CreateTenant{ID: ptr(id(s.Tenant)), Name: ptr("acme"), Workers: ptr(int64(2))}
	created, err := s.tenants.Tenants.CreateTenant(registry.NewCreateTenantParams().WithPrefer(ptr("wait=30")).WithTenant(body), admin)
	require.NoError(t, err)
	require.NoError(t, created.Payload.Validate(strfmt.Default))
	require.Equal(t, id(s.Tenant), *created.Payload.ID)
	require.Equal(t, "/tenants/"+s.Tenant.String(), created.Location)

	_, err = s.tenants.Tenants.CreateTenant(registry.NewCreateTenantParams().WithTenant(body), admin)
	var exists *registry.CreateTenantConflict
	require.ErrorAs(t, err, &exists)
	require.True(t, exists.IsCode(409))
	require.Equal(t, "tenant_exists", *exists.Payload.Code)
	require.NotEmpty(t, *exists.Payload.RequestID)
	require.Equal(t, "id", *exists.Payload.Errors[0].Field)

	list, err := s.tenants.Tenants.ListTenants(registry.NewListTenantsParams().WithLimit(ptr(int64(1))), admin)
	require.NoError(t, err)
	require.Len(t, list.Payload.Data, 1)
}

func (s *scenario) publish(t *testing.T) {
	token := httptransport.BearerToken(s.TenantToken)
	message := uuid.New()
	one, err := s.ingest.Messages.PublishMessage(messages.NewPublishMessageParams().WithMessage(&ingestmodels.NewMessage{
		ID: ptr(id(message)), Payload: map[string]any{"type": "order.created", "total": 19.99},
	}), token)
	require.NoError(t, err)
	require.Equal(t, id(message), *one.Payload.ID)

	lines := `{"payload":[1,2]}` + "\n" + `{"payload":` + "\n" + `{"payload":null}` + "\n"
	batch, err := s.ingest.Messages.PublishBatch(messages.NewPublishBatchParams().WithMessages(lines), token, messages.WithContentTypeApplicationxNdjson)
	require.NoError(t, err)
	require.EqualValues(t, 2, *batch.Payload.Accepted)
	require.EqualValues(t, 1, *batch.Payload.Failed)
	require.Equal(t, "malformed_json", batch.Payload.Results[1].Code)
}

// read pages through the messages, each with a payload of another kind.
func (s *scenario) read(t *testing.T) {
	token := httptransport.BearerToken(s.TenantToken)
	var all []*querymodels.Message
	require.Eventually(t, func() bool {
		all = nil
		for cursor, more := (*string)(nil), true; more; {
			page, err := s.query.Messages.ListMessages(stored.NewListMessagesParams().WithLimit(ptr(int64(2))).WithCursor(cursor), token)
			if err != nil {
				return false
			}
			all = append(all, page.Payload.Data...)
			cursor, more = page.Payload.NextCursor, *page.Payload.HasMore
		}
		return len(all) == 3
	}, world.WaitLimit, world.Poll)
	payloads := make([]string, len(all))
	for i, m := range all {
		one, err := s.query.Messages.GetMessage(stored.NewGetMessageParams().WithID(*m.ID), token)
		require.NoError(t, err)
		require.Equal(t, m, one.Payload)
		require.NoError(t, m.Validate(strfmt.Default))
		payloads[i] = jsonOf(t, m.Payload)
	}
	require.ElementsMatch(t, []string{`{"total":19.99,"type":"order.created"}`, `[1,2]`, `null`}, payloads)
}

func jsonOf(t *testing.T, v any) string {
	var text strings.Builder
	require.NoError(t, runtime.JSONProducer().Produce(&text, v))
	return strings.TrimSpace(text.String())
}

// deadLetters reads a page with a payload that is a list and one that is no JSON, and puts both right.
func (s *scenario) deadLetters(t *testing.T) {
	token := httptransport.BearerToken(s.LettersToken)
	var letters []*ingestmodels.DeadLetter
	require.Eventually(t, func() bool {
		page, err := s.ingest.DeadLetters.ListDeadLetters(dead_letters.NewListDeadLettersParams(), token)
		if err != nil {
			return false
		}
		letters = page.Payload.Data
		return len(letters) == 2
	}, world.WaitLimit, world.Poll)
	for _, letter := range letters {
		one, err := s.ingest.DeadLetters.GetDeadLetter(dead_letters.NewGetDeadLetterParams().WithID(*letter.ID), token)
		require.NoError(t, err)
		require.Equal(t, letter, one.Payload)
		require.NoError(t, letter.Validate(strfmt.Default))
	}
	list, broken := letters[0], letters[1]
	if *list.Reason != ingestmodels.DeadLetterReasonForeignKey {
		list, broken = broken, list
	}
	require.Equal(t, `[1,2]`, jsonOf(t, list.Payload))
	require.NotNil(t, list.MessageID)
	require.Nil(t, broken.Payload)
	require.Equal(t, `{"not json`, string(broken.PayloadBase64))
	require.Nil(t, broken.MessageID, "its producer gave none")

	count, err := s.ingest.DeadLetters.ReplayDeadLetters(dead_letters.NewReplayDeadLettersParams().WithDryRun(ptr(true)).WithReason(ptr("not_json")), token)
	require.NoError(t, err)
	require.EqualValues(t, 1, count.Payload.Count)

	_, _, err = s.ingest.DeadLetters.ReplayDeadLetter(dead_letters.NewReplayDeadLetterParams().WithID(*broken.ID), token)
	var refused *dead_letters.ReplayDeadLetterUnprocessableEntity
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "payload_not_json", *refused.Payload.Code)

	_, replayed, err := s.ingest.DeadLetters.ReplayDeadLetter(
		dead_letters.NewReplayDeadLetterParams().WithID(*list.ID).WithEdit(&ingestmodels.EditedMessage{Payload: "edited"}), token)
	require.NoError(t, err)
	require.NotNil(t, replayed)
	require.Eventually(t, func() bool {
		m, err := s.query.Messages.GetMessage(stored.NewGetMessageParams().WithID(*replayed.Payload.MessageID), token)
		return err == nil && m.Payload.Payload == "edited"
	}, world.WaitLimit, world.Poll)

	_, err = s.ingest.DeadLetters.DropDeadLetter(dead_letters.NewDropDeadLetterParams().WithID(*broken.ID), token)
	require.NoError(t, err)
	rest, err := s.ingest.DeadLetters.DropDeadLetters(dead_letters.NewDropDeadLettersParams().WithReason(ptr("not_json")), token)
	require.NoError(t, err)
	require.Zero(t, *rest.Payload.Dropped)
}

// eraseMessage removes a message for good, in the administrator's name.
func (s *scenario) eraseMessage(t *testing.T) {
	page, err := s.query.Messages.ListMessages(stored.NewListMessagesParams().WithLimit(ptr(int64(1))), httptransport.BearerToken(s.TenantToken))
	require.NoError(t, err)
	require.False(t, page.Payload.Gap)
	tenant, params := id(s.Tenant), messages.NewEraseMessageParams().WithID(*page.Payload.Data[0].ID)
	params.TenantID = &tenant
	require.Eventually(t, func() bool { // it is 503 where another test of the servers holds up the counting
		_, err := s.ingest.Messages.EraseMessage(params, httptransport.BearerToken(s.Admin))
		return err == nil
	}, world.WaitLimit, world.Poll)
	var gone *messages.EraseMessageNotFound
	_, err = s.ingest.Messages.EraseMessage(params, httptransport.BearerToken(s.Admin))
	require.ErrorAs(t, err, &gone)
	require.Equal(t, "not_stored", *gone.Payload.Code)
}

func (s *scenario) changeTenant(t *testing.T) {
	admin := httptransport.BearerToken(s.Admin)
	tenant := id(s.Tenant)
	resized, err := s.tenants.Tenants.SetTenantConcurrency(registry.NewSetTenantConcurrencyParams().WithID(tenant).
		WithConcurrency(&tenantmodels.Concurrency{Workers: ptr(int64(3))}), admin)
	require.NoError(t, err)
	require.EqualValues(t, 3, *resized.Payload.Workers)
	limits, err := s.tenants.Tenants.GetTenantConfig(registry.NewGetTenantConfigParams().WithID(tenant), admin)
	require.NoError(t, err)
	require.EqualValues(t, 3, *limits.Payload.Override.Workers)
	limited, err := s.tenants.Tenants.PatchTenantConfig(registry.NewPatchTenantConfigParams().WithID(tenant).WithIfMatch(&limits.ETag).
		WithLimits(&tenantmodels.Limits{StoredMaxBytes: ptr(int64(1 << 50))}), admin)
	require.NoError(t, err)
	require.EqualValues(t, 1<<50, *limited.Payload.Effective.StoredMaxBytes)
	suspended, err := s.tenants.Tenants.SuspendTenant(registry.NewSuspendTenantParams().WithID(tenant).WithPrefer(ptr("wait=30")), admin)
	require.NoError(t, err)
	require.Equal(t, "suspended", *suspended.Payload.State)
	resumed, err := s.tenants.Tenants.ResumeTenant(registry.NewResumeTenantParams().WithID(tenant), admin)
	require.NoError(t, err)
	require.Equal(t, "active", *resumed.Payload.State)
	shown, err := s.tenants.Tenants.GetTenant(registry.NewGetTenantParams().WithID(tenant), admin)
	require.NoError(t, err)
	require.NoError(t, shown.Payload.Validate(strfmt.Default))
	deleted, err := s.tenants.Tenants.DeleteTenant(registry.NewDeleteTenantParams().WithID(tenant).WithPrefer(ptr("wait=30")), admin)
	require.NoError(t, err)
	require.Equal(t, "deleted", *deleted.Payload.State)
}

// access gives an application a token and a producer a credential, and takes them back; the tenant's usage is looked at as well.
func (s *scenario) access(t *testing.T) {
	admin, tenant := httptransport.BearerToken(s.Admin), id(s.Tenant)
	keys, err := s.tenants.Tokens.GetKeySet(tokens.NewGetKeySetParams())
	require.NoError(t, err)
	require.NoError(t, keys.Payload.Validate(strfmt.Default))
	token, err := s.tenants.Tokens.IssueToken(tokens.NewIssueTokenParams().WithID(tenant).WithToken(newToken()), admin)
	require.NoError(t, err)
	require.NoError(t, token.Payload.Validate(strfmt.Default))
	usage, err := s.tenants.Tenants.GetTenantUsage(registry.NewGetTenantUsageParams().WithID(tenant).WithStep(ptr("day")), httptransport.BearerToken(*token.Payload.Token))
	require.NoError(t, err)
	require.NoError(t, usage.Payload.Validate(strfmt.Default))
	list, err := s.tenants.Tokens.ListTokens(tokens.NewListTokensParams().WithID(tenant), admin)
	require.NoError(t, err)
	require.Equal(t, token.Payload.ID, list.Payload.Data[0].ID)
	_, err = s.tenants.Tokens.RevokeToken(tokens.NewRevokeTokenParams().WithID(tenant).WithToken(*token.Payload.ID), admin)
	require.NoError(t, err)

	credential, err := s.tenants.Credentials.IssueCredential(credentials.NewIssueCredentialParams().WithID(tenant).WithCredential(newCredential()), admin)
	require.NoError(t, err)
	require.NoError(t, credential.Payload.Validate(strfmt.Default))
	all, err := s.tenants.Credentials.ListCredentials(credentials.NewListCredentialsParams().WithID(tenant), admin)
	require.NoError(t, err)
	require.Equal(t, credential.Payload.Username, all.Payload.Data[0].Username)
	_, err = s.tenants.Credentials.RevokeCredential(credentials.NewRevokeCredentialParams().WithID(tenant).WithCredential(*credential.Payload.ID), admin)
	require.NoError(t, err)
}

func newToken() *tenantmodels.IssueToken {
	return &tenantmodels.IssueToken{Name: ptr("app"), Scopes: []string{"messages:read"}}
}

func newCredential() *tenantmodels.NewCredential {
	return &tenantmodels.NewCredential{Name: ptr("producer")}
}

// audit reads who has done all that.
func (s *scenario) audit(t *testing.T) {
	tenant := id(s.Tenant)
	require.Eventually(t, func() bool {
		page, err := s.tenants.Audit.ListAuditEvents(audit.NewListAuditEventsParams().WithTenantID(&tenant).WithAction(ptr("tenant.retired")), httptransport.BearerToken(s.Admin))
		return err == nil && len(page.Payload.Data) == 1 && page.Payload.Validate(strfmt.Default) == nil && *page.Payload.Data[0].Actor == "system"
	}, world.WaitLimit, world.Poll)
}

// refusals looks at the status, the code and the request id of errors of every operation.
func (s *scenario) refusals(t *testing.T) {
	reader, admin, nobody := httptransport.BearerToken(s.LettersToken), httptransport.BearerToken(s.Admin), id(uuid.New())
	message := &ingestmodels.NewMessage{Payload: 1}
	one := messages.NewPublishMessageParams().WithMessage(message)
	errorOf := func(_ any, err error) error { return err }
	tests := map[string]struct {
		err    error
		status int
		code   string
	}{
		"a bad limit":      {errorOf(s.query.Messages.ListMessages(stored.NewListMessagesParams().WithLimit(ptr(int64(0))), reader)), 400, "invalid_limit"},
		"no such message":  {errorOf(s.query.Messages.GetMessage(stored.NewGetMessageParams().WithID(nobody), reader)), 404, "not_stored"},
		"no token":         {errorOf(s.ingest.Messages.PublishMessage(one, nil)), 401, "missing_token"},
		"a deleted tenant": {errorOf(s.ingest.Messages.PublishMessage(one, httptransport.BearerToken(s.TenantToken))), 404, "tenant_not_found"},
		"too large": {errorOf(s.ingest.Messages.PublishMessage(
			messages.NewPublishMessageParams().WithMessage(&ingestmodels.NewMessage{Payload: strings.Repeat("x", 2<<20)}), reader)), 413, "body_too_large"},
		"an empty batch": {errorOf(s.ingest.Messages.PublishBatch(messages.NewPublishBatchParams().WithMessages("\n"), reader,
			messages.WithContentTypeApplicationxNdjson)), 400, "empty_body"},
		"a bad cursor":    {errorOf(s.ingest.DeadLetters.ListDeadLetters(dead_letters.NewListDeadLettersParams().WithCursor(ptr("x")), reader)), 400, "bad_cursor"},
		"no such letter":  {errorOf(s.ingest.DeadLetters.GetDeadLetter(dead_letters.NewGetDeadLetterParams().WithID(nobody), reader)), 404, "dead_letter_not_found"},
		"none to drop":    {errorOf(s.ingest.DeadLetters.DropDeadLetter(dead_letters.NewDropDeadLetterParams().WithID(nobody), reader)), 404, "dead_letter_not_found"},
		"not for tenants": {errorOf(s.ingest.Messages.EraseMessage(messages.NewEraseMessageParams().WithID(nobody), reader)), 403, "insufficient_scope"},
		"another tenant":  {errorOf(s.ingest.DeadLetters.DropDeadLetters(dead_letters.NewDropDeadLettersParams().WithTenantID(&nobody), reader)), 403, "tenant_mismatch"},
		"a bad reason":    {errorOf(s.ingest.DeadLetters.ReplayDeadLetters(dead_letters.NewReplayDeadLettersParams().WithReason(ptr("x")), reader)), 400, "invalid_reason"},
		"not for readers": {errorOf(s.tenants.Audit.ListAuditEvents(audit.NewListAuditEventsParams(), reader)), 403, "insufficient_scope"},
		"not for all":     {errorOf(s.tenants.Tenants.ListTenants(registry.NewListTenantsParams(), reader)), 403, "insufficient_scope"},
		"no such tenant":  {errorOf(s.tenants.Tenants.GetTenant(registry.NewGetTenantParams().WithID(nobody), admin)), 404, "tenant_not_found"},
		"none to suspend": {errorOf(s.tenants.Tenants.SuspendTenant(registry.NewSuspendTenantParams().WithID(nobody), admin)), 404, "tenant_not_found"},
		"none to resume":  {errorOf(s.tenants.Tenants.ResumeTenant(registry.NewResumeTenantParams().WithID(nobody), admin)), 404, "tenant_not_found"},
		"none to delete":  {errorOf(s.tenants.Tenants.DeleteTenant(registry.NewDeleteTenantParams().WithID(nobody), admin)), 404, "tenant_not_found"},
		"no usage":        {errorOf(s.tenants.Tenants.GetTenantUsage(registry.NewGetTenantUsageParams().WithID(nobody), admin)), 404, "tenant_not_found"},
		"none for a token": {
			errorOf(s.tenants.Tokens.IssueToken(tokens.NewIssueTokenParams().WithID(nobody).WithToken(newToken()), admin)), 404, "tenant_not_found",
		},
		"none with tokens": {errorOf(s.tenants.Tokens.ListTokens(tokens.NewListTokensParams().WithID(nobody), admin)), 404, "tenant_not_found"},
		"none to revoke":   {errorOf(s.tenants.Tokens.RevokeToken(tokens.NewRevokeTokenParams().WithID(nobody).WithToken(nobody), admin)), 404, "tenant_not_found"},
		"keys of a parameter": {errorOf(s.tenants.Tokens.GetKeySet(tokens.NewGetKeySetParams(), func(o *runtime.ClientOperation) {
			o.AuthInfo = runtime.ClientAuthInfoWriterFunc(func(r runtime.ClientRequest, _ strfmt.Registry) error { return r.SetQueryParam("kid", "1") })
		})), 400, "unknown_parameter"},
		"none for a credential": {
			errorOf(s.tenants.Credentials.IssueCredential(credentials.NewIssueCredentialParams().WithID(nobody).WithCredential(newCredential()), admin)),
			404, "tenant_not_found",
		},
		"none with credentials": {errorOf(s.tenants.Credentials.ListCredentials(credentials.NewListCredentialsParams().WithID(nobody), admin)), 404, "tenant_not_found"},
		"no such credential": {
			errorOf(s.tenants.Credentials.RevokeCredential(credentials.NewRevokeCredentialParams().WithID(nobody).WithCredential(nobody), admin)),
			404, "tenant_not_found",
		},
		"no limits": {errorOf(s.tenants.Tenants.GetTenantConfig(registry.NewGetTenantConfigParams().WithID(nobody), admin)), 404, "tenant_not_found"},
		"none to limit": {errorOf(s.tenants.Tenants.PatchTenantConfig(registry.NewPatchTenantConfigParams().WithID(nobody).
			WithLimits(&tenantmodels.Limits{Weight: ptr(int64(2))}), admin)), 404, "tenant_not_found"},
		"none to resize": {errorOf(s.tenants.Tenants.SetTenantConcurrency(registry.NewSetTenantConcurrencyParams().WithID(nobody).
			WithConcurrency(&tenantmodels.Concurrency{Workers: ptr(int64(1))}), admin)), 404, "tenant_not_found"},
	}
	for name, tt := range tests {
		var answer interface {
			error
			IsCode(status int) bool
		}
		require.True(t, errors.As(tt.err, &answer), "%s: %v", name, tt.err)
		require.True(t, answer.IsCode(tt.status), "%s: %v", name, tt.err)
		// The payload is of a type of its own in each client: the error says it in full.
		require.Contains(t, answer.Error(), `"code":"`+tt.code+`"`, name)
		require.Regexp(t, `"request_id":"[^"]{8,}"`, answer.Error(), name)
	}
}
