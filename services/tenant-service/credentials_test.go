package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/management"
	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/api"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// managed is a service with a broker, whose management API is behind a proxy.
type managed struct {
	*running
	broker backing.Broker
	proxy  *managementProxy
	direct *management.Client
	amqp   *amqp.Channel // of the operator
}

// managementProxy passes requests on to the management API as long as there are any left.
type managementProxy struct {
	left   atomic.Int64 // requests that change something, until the API is away for good
	refuse atomic.Bool  // the login

	mu      sync.Mutex
	changes []string // guarded by mu: method and first two elements of the path
}

const always = 1 << 40

func (p *managementProxy) passes(r *http.Request) bool {
	if r.Method == http.MethodGet {
		return p.left.Load() > 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	elements := strings.Split(strings.Trim(r.URL.EscapedPath(), "/"), "/")
	p.changes = append(p.changes, r.Method+" "+elements[1])
	return p.left.Add(-1) >= 0
}

func (p *managementProxy) made() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.changes)
}

// startManaged runs a service that has a broker to manage.
func startManaged(t *testing.T) *managed {
	t.Helper()
	m := &managed{broker: backing.RabbitMQ(t), proxy: &managementProxy{}}
	m.proxy.left.Store(always)
	target, err := url.Parse(m.broker.ManagementURL)
	require.NoError(t, err)
	login := target.User
	target.User = nil
	transport := &http.Transport{DisableKeepAlives: true}
	pass := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case m.proxy.refuse.Load():
			w.WriteHeader(http.StatusUnauthorized)
		case !m.proxy.passes(r):
			panic(http.ErrAbortHandler)
		default:
			pass.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	cfg := testConfig(t, backing.Postgres(t), backing.NATS(t))
	cfg.RabbitMQ.URL = m.broker.URL
	through, err := url.Parse(server.URL)
	require.NoError(t, err)
	through.User = login
	cfg.RabbitMQ.ManagementURL = through.String()
	cfg.RabbitMQ.CredentialConnections, cfg.RabbitMQ.CredentialChannels = 2, 5
	m.direct, err = management.New(m.broker.ManagementURL, m.broker.URL)
	require.NoError(t, err)
	connection, err := amqp.Dial(m.broker.URL)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, connection.Close()) })
	m.amqp, err = connection.Channel()
	require.NoError(t, err)
	m.running = start(t, cfg)
	m.requireReady(true)
	return m
}

// provisioned creates a tenant with a queue and an exchange of its own, as ingest-service makes them.
func (m *managed) provisioned() uuid.UUID {
	m.t.Helper()
	id := m.create("acme")
	exchange, queue := contract.TenantExchangeName(id.String()), contract.QueueName(id.String())
	require.NoError(m.t, m.amqp.ExchangeDeclare(exchange, amqp.ExchangeTopic, true, false, false, false, nil))
	_, err := m.amqp.QueueDeclare(queue, true, false, false, false, nil)
	require.NoError(m.t, err)
	require.NoError(m.t, m.amqp.QueueBind(queue, id.String(), exchange, false, nil))
	return id
}

func (m *managed) post(id uuid.UUID, name string) request {
	body, err := json.Marshal(map[string]string{"name": name})
	require.NoError(m.t, err)
	return request{method: http.MethodPost, path: path(id, "/credentials"), body: string(body)}
}

func (m *managed) issue(id uuid.UUID, name string) (issued api.IssuedCredential) {
	m.t.Helper()
	got := m.require(http.StatusCreated, m.post(id, name))
	require.Equal(m.t, "no-store", got.header.Get("Cache-Control"))
	require.NoError(m.t, json.Unmarshal(got.body, &issued))
	return issued
}

func (m *managed) list(id uuid.UUID, query string) (page api.CredentialPage) {
	m.t.Helper()
	got := m.require(http.StatusOK, request{method: http.MethodGet, path: path(id, "/credentials"+query)})
	require.NoError(m.t, json.Unmarshal(got.body, &page))
	return page
}

// users are the names of the users of a tenant in the broker.
func (m *managed) users(id uuid.UUID) (names []string) {
	m.t.Helper()
	var all []struct{ Name string }
	require.NoError(m.t, m.direct.Do(m.t.Context(), http.MethodGet, "/api/users", nil, &all))
	for _, user := range all {
		if strings.Contains(user.Name, id.String()) {
			names = append(names, user.Name)
		}
	}
	return names
}

// sql executes a statement as an operator of the database.
func (r *running) sql(statement string, args ...any) {
	r.t.Helper()
	connection, err := pgx.Connect(r.t.Context(), r.cfg.Database.URL)
	require.NoError(r.t, err)
	defer func() { require.NoError(r.t, connection.Close(r.t.Context())) }()
	_, err = connection.Exec(r.t.Context(), statement, args...)
	require.NoError(r.t, err)
}

func (r *running) rows(id uuid.UUID) (count int, text string) {
	r.t.Helper()
	connection, err := pgx.Connect(r.t.Context(), r.cfg.Database.URL)
	require.NoError(r.t, err)
	defer func() { require.NoError(r.t, connection.Close(r.t.Context())) }()
	require.NoError(r.t, connection.QueryRow(r.t.Context(),
		`SELECT count(*), coalesce(string_agg(credentials::text, ' '), '') FROM credentials WHERE tenant = $1`, id).Scan(&count, &text))
	return count, text
}

// A producer is given what it needs to publish, and nobody can find its password afterwards. Revoked, it is cut off at once, and another
// credential of the same tenant is not.
func TestCredentialFromIssueToRevocation(t *testing.T) {
	t.Parallel()
	m := startManaged(t)
	id := m.provisioned()
	first, second := m.issue(id, "  billing/production "), m.issue(id, "billing/production")
	require.Equal(t, id.String(), first.RoutingKey)
	require.Equal(t, contract.TenantExchangeName(id.String()), first.Exchange)
	require.NotEqual(t, first.Password, second.Password)
	shown, err := amqp.ParseURI(first.URL)
	require.NoError(t, err)
	require.Equal(t, []string{first.Username, first.Password, m.broker.VHost}, []string{shown.Username, shown.Password, shown.Vhost})

	page := m.list(id, "")
	require.Len(t, page.Data, 2)
	require.Equal(t, []string{first.ID, second.ID}, []string{page.Data[0].ID, page.Data[1].ID})
	require.Equal(t, []string{"billing/production", "active"}, []string{page.Data[0].Name, page.Data[0].State})
	_, text := m.rows(id)
	require.Contains(t, text, first.Username)
	require.NotContains(t, text, first.Password)

	connections := map[string]*amqp.Connection{}
	for _, one := range []api.IssuedCredential{first, second} {
		connections[one.ID], err = amqp.Dial(one.URL)
		require.NoError(t, err)
		ch, err := connections[one.ID].Channel()
		require.NoError(t, err)
		require.NoError(t, ch.Confirm(false))
		confirm, err := ch.PublishWithDeferredConfirmWithContext(t.Context(), one.Exchange, one.RoutingKey, true, false, amqp.Publishing{Body: []byte(`1`)})
		require.NoError(t, err)
		require.True(t, confirm.Wait())
	}
	closed := connections[first.ID].NotifyClose(make(chan *amqp.Error, 1))
	m.require(http.StatusNoContent, request{method: http.MethodDelete, path: path(id, "/credentials/"+first.ID)})
	require.NotNil(t, <-closed)
	_, err = amqp.Dial(first.URL)
	require.ErrorIs(t, err, amqp.ErrCredentials)
	require.False(t, connections[second.ID].IsClosed())
	require.NoError(t, connections[second.ID].Close())

	require.Len(t, m.list(id, "").Data, 1)
	got := m.require(http.StatusNotFound, request{method: http.MethodDelete, path: path(id, "/credentials/"+first.ID)})
	require.Equal(t, "credential_not_found", got.problem.Code)
	queue, err := m.amqp.QueueDeclarePassive(contract.QueueName(id.String()), true, false, false, false, nil)
	require.NoError(t, err)
	require.Equal(t, 2, queue.Messages)
}

// A user is never there with more than it may: the order of the steps, and that nobody can log in with an empty password.
func TestUserIsConfinedStepByStep(t *testing.T) {
	t.Parallel()
	m := startManaged(t)
	issued := m.issue(m.provisioned(), "a")
	require.Equal(t, []string{"PUT users", "PUT topic-permissions", "PUT user-limits", "PUT user-limits", "PUT permissions"}, m.proxy.made())
	for password, want := range map[string]bool{issued.Password: true, "": false, issued.Password + "x": false, issued.Username: false} {
		address, err := url.Parse(issued.URL)
		require.NoError(t, err)
		address.User = url.UserPassword(issued.Username, password)
		connection, err := amqp.Dial(address.String())
		require.Equal(t, want, err == nil, "%q: %v", password, err)
		if err == nil {
			require.NoError(t, connection.Close())
		}
	}
}

// Whatever of the maker or of the broker dies at whatever step, neither a user is left nor a row: not while the API is away, and after
// that the keeper takes away what was begun.
func TestCredentialWhoseMakerDies(t *testing.T) {
	t.Parallel()
	m := startManaged(t)
	id := m.provisioned()
	for step := range int64(5) {
		m.proxy.left.Store(step)
		got := m.require(http.StatusServiceUnavailable, m.post(id, "a"))
		require.Equal(t, "broker_management_unavailable", got.problem.Code)
		require.NotEmpty(t, got.header.Get("Retry-After"))
		require.Empty(t, m.list(id, "").Data, "what is not finished is not shown")
		users := m.users(id)
		require.Len(t, users, min(int(step), 1))
		if step > 0 { // it may do nothing before the last step
			var permissions []any
			require.NoError(t, m.direct.Do(t.Context(), http.MethodGet, "/api/users/"+users[0]+"/permissions", nil, &permissions))
			require.Empty(t, permissions)
		}
		count, _ := m.rows(id)
		require.Equal(t, 1, count, "the row stays as long as its user may be there")
		m.proxy.left.Store(always)
		m.sql(`UPDATE credentials SET created_at = now() - interval '1 hour'`)
		require.Eventually(t, func() bool {
			count, _ := m.rows(id)
			return count == 0 && len(m.users(id)) == 0
		}, waitLimit, tick)
	}
	m.proxy.refuse.Store(true)
	got := m.require(http.StatusServiceUnavailable, m.post(id, "a"))
	require.Equal(t, "broker_management_unavailable", got.problem.Code)
	require.Contains(t, got.problem.Detail, "refuses the login")
}

// A credential that was revoked while the broker could not be reached must not live on because nobody asks again.
func TestRevocationWhileTheManagementIsAway(t *testing.T) {
	t.Parallel()
	m := startManaged(t)
	id := m.provisioned()
	issued := m.issue(id, "a")
	m.proxy.left.Store(0)
	got := m.require(http.StatusServiceUnavailable, request{method: http.MethodDelete, path: path(id, "/credentials/"+issued.ID)})
	require.Equal(t, "broker_management_unavailable", got.problem.Code)
	require.Equal(t, "revoking", m.list(id, "").Data[0].State)
	connection, err := amqp.Dial(issued.URL)
	require.NoError(t, err)
	closed := connection.NotifyClose(make(chan *amqp.Error, 1))
	m.proxy.left.Store(always)
	require.NotNil(t, <-closed)
	require.Eventually(t, func() bool { return len(m.list(id, "").Data) == 0 }, waitLimit, tick)
}

// With the tenant its credentials go, those being made included; a tenant that goes gets none.
func TestCredentialsGoWithTheirTenant(t *testing.T) {
	t.Parallel()
	m := startManaged(t)
	id, other := m.provisioned(), m.provisioned()
	m.issue(id, "a")
	m.issue(id, "b")
	kept := m.issue(other, "a")
	m.sql(`INSERT INTO credentials (id, tenant, name, username) VALUES ($1, $2, 'half made', 'nobody')`, uuid.New(), id)
	m.require(http.StatusAccepted, request{method: http.MethodDelete, path: path(id, "")})
	require.Equal(t, "tenant_deleting", m.require(http.StatusConflict, m.post(id, "c")).problem.Code)
	require.Eventually(t, func() bool {
		count, _ := m.rows(id)
		return count == 0 && len(m.users(id)) == 0
	}, waitLimit, tick)
	require.Equal(t, []string{kept.Username}, m.users(other))

	// A version without credentials deletes a tenant without them.
	m.sql(`UPDATE tenants SET state = 'deleting' WHERE id = $1`, other)
	m.stop()
	m.running = start(t, m.cfg)
	m.requireReady(true)
	require.Eventually(t, func() bool { return len(m.users(other)) == 0 }, waitLimit, tick)
	m.sql(`UPDATE tenants SET state = 'deleted' WHERE id = $1`, id)
	for _, q := range []request{m.post(id, "c"), {method: http.MethodGet, path: path(id, "/credentials")}, {method: http.MethodDelete, path: path(id, "/credentials/"+uuid.NewString())}} {
		require.Equal(t, "tenant_not_found", m.require(http.StatusNotFound, q).problem.Code)
	}
}

// A registry that was restored from a backup does not know the newest users: nobody could revoke them. Users of others are not its concern.
// A credential whose user somebody has deleted must not look alive.
func TestUsersAndRowsAreCompared(t *testing.T) {
	t.Parallel()
	m := startManaged(t)
	id := m.provisioned()
	forgotten, lost, alive := m.issue(id, "forgotten"), m.issue(id, "lost"), m.issue(id, "alive")
	prefix, _, _ := strings.Cut(alive.Username, id.String())
	foreign := []string{
		"mtm.00000000." + id.String() + "." + uuid.NewString(), // another installation on the same broker
		prefix + id.String(), prefix + id.String() + ".x", strings.TrimSuffix(prefix, ".") + id.String() + "." + uuid.NewString(),
	}
	for _, name := range foreign {
		require.NoError(t, m.direct.Do(t.Context(), http.MethodPut, "/api/users/"+name, map[string]string{"password_hash": "", "tags": ""}, nil))
		t.Cleanup(func() { _ = m.direct.Do(t.Context(), http.MethodDelete, "/api/users/"+name, nil, nil) })
	}
	m.sql(`DELETE FROM credentials WHERE username = $1`, forgotten.Username)
	require.NoError(t, m.direct.Do(t.Context(), http.MethodDelete, "/api/users/"+lost.Username, nil, nil))
	m.stop()
	m.running = start(t, m.cfg) // they are compared at the start, and every minute
	m.requireReady(true)
	require.Eventually(t, func() bool {
		page := m.list(id, "")
		return !slices.Contains(m.users(id), forgotten.Username) && len(page.Data) == 2 && page.Data[0].State == "missing" && page.Data[1].State == "active"
	}, waitLimit, tick)
	require.ElementsMatch(t, append(foreign, alive.Username), m.users(id))
	m.require(http.StatusNoContent, request{method: http.MethodDelete, path: path(id, "/credentials/"+lost.ID)})
}

// A tenant has as many credentials as it may, however many ask at a time.
func TestLimitOfCredentials(t *testing.T) {
	t.Parallel()
	m := startManaged(t)
	id := m.provisioned()
	m.sql(`INSERT INTO credentials (id, tenant, name, username, issued_at) SELECT gen_random_uuid(), $1, 'c', 'c' || n, now() FROM generate_series(1, 97) AS n`, id)
	var issued atomic.Int64
	var asking sync.WaitGroup
	for range 6 {
		asking.Go(func() {
			got := m.do(m.post(id, "a"))
			for got.status == http.StatusServiceUnavailable { // they wait for each other, on a busy machine for too long
				got = m.do(m.post(id, "a"))
			}
			switch got.status {
			case http.StatusCreated:
				issued.Add(1)
			case http.StatusConflict:
				if got.problem.Code != "too_many_credentials" {
					t.Error(got.problem.Code)
				}
			default:
				t.Errorf("%s", got.body)
			}
		})
	}
	asking.Wait()
	require.EqualValues(t, 3, issued.Load())

	seen := map[string]bool{}
	for cursor, more := "", true; more; {
		page := m.list(id, "?limit=33&cursor="+cursor)
		for _, one := range page.Data {
			seen[one.ID] = true
		}
		cursor, more = page.NextCursor, page.HasMore
	}
	require.Len(t, seen, 100)
}

// A tenant whose exchange nobody makes is told to come back, and nothing of the try is left.
func TestCredentialOfATenantThatIsProvisioned(t *testing.T) {
	t.Parallel()
	m := startManaged(t)
	id := m.create("acme")
	got := m.require(http.StatusServiceUnavailable, m.post(id, "a"))
	require.Equal(t, "tenant_provisioning", got.problem.Code)
	require.NotEmpty(t, got.header.Get("Retry-After"))
	count, _ := m.rows(id)
	require.Zero(t, count)
	require.Empty(t, m.users(id))
}

// An installation without the management API says so, and starts without a broker.
func TestCredentialsWithoutManagement(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	id := r.create("acme")
	for _, q := range []request{
		{method: http.MethodPost, path: path(id, "/credentials"), body: `{"name":"a"}`},
		{method: http.MethodGet, path: path(id, "/credentials")},
		{method: http.MethodDelete, path: path(id, "/credentials/"+uuid.NewString())},
	} {
		require.Equal(t, "no_broker_management", r.require(http.StatusConflict, q).problem.Code)
	}
	require.Equal(t, "validation_failed", r.require(http.StatusBadRequest, request{method: http.MethodPost, path: path(id, "/credentials"), body: `{"name":""}`}).problem.Code)
	r.require(http.StatusAccepted, request{method: http.MethodDelete, path: path(id, "")})
}

// What is wrong is named, and whose credentials they are follows from the token.
func TestCredentialRequestsThatAreRefused(t *testing.T) {
	t.Parallel()
	m := startManaged(t)
	id, other := m.provisioned(), m.provisioned()
	foreign := m.issue(other, "a")
	m.issue(id, "a")
	here, theirs := path(id, "/credentials"), path(other, "/credentials")
	own := token(t, id, auth.ScopeTenantsAdmin)
	for name, c := range map[string]struct {
		request
		status int
		code   string
	}{
		"no token":               {request{method: "GET", path: here, token: "-"}, 401, "missing_token"},
		"scope":                  {request{method: "GET", path: here, token: token(t, id, auth.ScopeMessagesWrite)}, 403, "insufficient_scope"},
		"scope to issue":         {request{method: "POST", path: here, body: `{"name":"a"}`, token: token(t, id, auth.ScopeMessagesWrite, auth.ScopeMessagesRead)}, 403, "insufficient_scope"},
		"scope to revoke":        {request{method: "DELETE", path: theirs + "/" + foreign.ID, token: token(t, other, auth.ScopeDeadLettersManage)}, 403, "insufficient_scope"},
		"bound elsewhere":        {request{method: "GET", path: theirs, token: own}, 404, "tenant_not_found"},
		"bound, issue":           {request{method: "POST", path: theirs, body: `{"name":"a"}`, token: own}, 404, "tenant_not_found"},
		"bound, revoke":          {request{method: "DELETE", path: theirs + "/" + foreign.ID, token: own}, 404, "tenant_not_found"},
		"of another tenant":      {request{method: "DELETE", path: here + "/" + foreign.ID}, 404, "credential_not_found"},
		"unknown credential":     {request{method: "DELETE", path: here + "/" + uuid.NewString()}, 404, "credential_not_found"},
		"unknown tenant":         {request{method: "POST", path: path(uuid.New(), "/credentials"), body: `{"name":"a"}`}, 404, "tenant_not_found"},
		"unknown tenant, list":   {request{method: "GET", path: path(uuid.New(), "/credentials")}, 404, "tenant_not_found"},
		"credential is no id":    {request{method: "DELETE", path: here + "/" + foreign.Username}, 400, "invalid_uuid"},
		"nil id":                 {request{method: "DELETE", path: here + "/00000000-0000-0000-0000-000000000000"}, 400, "invalid_uuid"},
		"no id":                  {request{method: "DELETE", path: here}, 405, "method_not_allowed"},
		"tenant is no id":        {request{method: "GET", path: "/tenants/acme/credentials"}, 400, "invalid_uuid"},
		"mismatch":               {request{method: "GET", path: here + "?tenant_id=" + other.String()}, 400, "tenant_mismatch"},
		"unknown parameter":      {request{method: "GET", path: here + "?state=active"}, 400, "unknown_parameter"},
		"parameter to issue":     {request{method: "POST", path: here + "?limit=1", body: `{"name":"a"}`}, 400, "unknown_parameter"},
		"repeated parameter":     {request{method: "GET", path: here + "?limit=1&limit=2"}, 400, "repeated_parameter"},
		"limit":                  {request{method: "GET", path: here + "?limit=1001"}, 400, "invalid_limit"},
		"limit, negative":        {request{method: "GET", path: here + "?limit=-1"}, 400, "invalid_limit"},
		"cursor":                 {request{method: "GET", path: here + "?cursor=x"}, 400, "bad_cursor"},
		"cursor of the other":    {request{method: "GET", path: here + "?cursor=" + m.list(other, "").NextCursor}, 400, "bad_cursor"},
		"body of a list":         {request{method: "GET", path: here, body: `{"name":"a"}`}, 400, "unexpected_body"},
		"body of a revocation":   {request{method: "DELETE", path: theirs + "/" + foreign.ID, body: `[]`}, 400, "unexpected_body"},
		"no body":                {request{method: "POST", path: here, contentType: "application/json"}, 400, "empty_body"},
		"no name":                {request{method: "POST", path: here, body: `{}`}, 400, "validation_failed"},
		"null name":              {request{method: "POST", path: here, body: `{"name":null}`}, 400, "validation_failed"},
		"name of white space":    {request{method: "POST", path: here, body: `{"name":" \t"}`}, 400, "validation_failed"},
		"name with a line break": {request{method: "POST", path: here, body: `{"name":"a\nb"}`}, 400, "validation_failed"},
		"long name":              {request{method: "POST", path: here, body: `{"name":"` + strings.Repeat("n", 201) + `"}`}, 400, "validation_failed"},
		"name is a number":       {request{method: "POST", path: here, body: `{"name":1}`}, 400, "wrong_type"},
		"name is an object":      {request{method: "POST", path: here, body: `{"name":{}}`}, 400, "wrong_type"},
		"array":                  {request{method: "POST", path: here, body: `[{"name":"a"}]`}, 400, "wrong_type"},
		"unknown field":          {request{method: "POST", path: here, body: `{"name":"a","password":"b"}`}, 400, "unknown_field"},
		"name twice":             {request{method: "POST", path: here, body: `{"name":"a","name":"b"}`}, 400, "duplicate_field"},
		"text":                   {request{method: "POST", path: here, body: `{"name":"a"}`, contentType: "text/plain"}, 415, "unsupported_media_type"},
	} {
		got := m.do(c.request)
		require.Equal(t, c.status, got.status, "%s: %s", name, got.body)
		require.Equal(t, c.code, got.problem.Code, name)
	}
	count, _ := m.rows(id)
	require.Equal(t, 1, count)
	require.Len(t, m.list(other, "").Data, 1)
	issued := m.require(http.StatusCreated, request{method: "POST", path: here, body: fmt.Sprintf(`{"name":%q}`, strings.Repeat("ß/", 100)), token: own})
	require.NotEmpty(t, issued.body)
}

// What is shown to producers is where they reach the broker, which is another address than ours as a rule.
func TestAddressOfTheBroker(t *testing.T) {
	t.Parallel()
	m := startManaged(t)
	id := m.provisioned()
	m.stop()
	m.cfg.RabbitMQ.PublicURL = "amqps://someone:secret@mq.example.com:5671/ignored"
	m.running = start(t, m.cfg)
	m.requireReady(true)
	issued := m.issue(id, "a")
	require.Equal(t, fmt.Sprintf("amqps://%s:%s@mq.example.com:5671/%s", issued.Username, issued.Password, m.broker.VHost), issued.URL)
}

// A service that could make no credential although it is to says why at its start.
func TestBrokerThatIsConfiguredWrongly(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*Config){
		"rabbitmq.management_url": func(cfg *Config) { cfg.RabbitMQ.ManagementURL = "mq.example.com:15672" },
		"rabbitmq.url":            func(cfg *Config) { cfg.RabbitMQ.URL = "http://mq.example.com" },
		"rabbitmq.public_url":     func(cfg *Config) { cfg.RabbitMQ.PublicURL = "https://mq.example.com" },
	} {
		cfg := testConfig(t, "postgres://127.0.0.1:1/none", "nats://127.0.0.1:1")
		cfg.RabbitMQ.URL, cfg.RabbitMQ.ManagementURL = "amqp://u:hunter2@127.0.0.1:1", "http://127.0.0.1:1"
		change(&cfg)
		err := serve(t.Context(), cfg, zap.NewNop())
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "hunter2")
	}
}
