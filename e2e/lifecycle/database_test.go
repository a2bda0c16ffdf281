package lifecycle_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// hostileDatabase is a database under whose defaults statements of the platform would fail, or do something else.
func hostileDatabase(t *testing.T) string {
	t.Helper()
	address := backing.Postgres(t)
	operator, err := pgx.Connect(t.Context(), address)
	require.NoError(t, err)
	defer func() { require.NoError(t, operator.Close(context.WithoutCancel(t.Context()))) }()
	for _, setting := range []string{
		"default_transaction_isolation = 'serializable'", "search_path = 'nowhere'", "row_security = off",
		"client_encoding = 'LATIN1'", "standard_conforming_strings = off", "DateStyle = 'SQL, DMY'",
		"TimeZone = 'Asia/Kathmandu'", "bytea_output = 'escape'", "extra_float_digits = -15",
		"statement_timeout = '1ms'", "lock_timeout = '1ms'", "idle_session_timeout = '10ms'",
	} {
		_, err := operator.Exec(t.Context(), `ALTER DATABASE `+pgx.Identifier{operator.Config().Database}.Sanitize()+` SET `+setting)
		require.NoError(t, err)
	}
	return address
}

// page is a page of messages, as far as the test looks at it.
type page struct {
	Data []struct {
		ID string `json:"id"`
	} `json:"data"`
	NextCursor string `json:"next_cursor"`
}

// follow reads what is new behind cursor, and notes each message. Every message comes once, also while others are written.
func (w *world) follow(ctx context.Context, id uuid.UUID, cursor string, seen map[string]int) (next string, err error) {
	for {
		var p page
		target := w.Query.URL + "/messages?limit=7&tenant_id=" + id.String()
		if cursor != "" {
			target += "&cursor=" + url.QueryEscape(cursor)
		}
		if _, err := w.call(ctx, http.MethodGet, target, "", &p); err != nil {
			return cursor, err
		}
		for _, message := range p.Data {
			seen[message.ID]++
		}
		if len(p.Data) == 0 {
			return p.NextCursor, nil
		}
		cursor = p.NextCursor
	}
}

// An installation is put on a database whose defaults an operator has chosen for something else. Nobody must notice: what
// operators do at once is done, messages are stored, retried, dead-lettered and read once each while others are written.
func TestDatabaseWithHostileDefaults(t *testing.T) {
	w := newWorldOn(t, hostileDatabase(t), backing.NATS(t), "INGEST_RETRY_DELAYS=100ms", "INGEST_MAX_ATTEMPTS=2", "DATABASE_STATEMENT_TIMEOUT=15s")
	ids := make([]uuid.UUID, 24)
	for i := range ids {
		ids[i] = uuid.New()
	}
	w.each(ids, func(ctx context.Context, id uuid.UUID) error { return w.create(ctx, id, 2) })
	w.each(ids, w.use)

	// Messages of one tenant come in by several ways at once, while somebody reads them.
	const writers, each = 4, 40
	busy := ids[0]
	var writing sync.WaitGroup
	for range writers {
		writing.Go(func() {
			for i := range each {
				body := fmt.Sprintf(`{"payload":%d}`, i)
				if _, err := w.call(t.Context(), http.MethodPost, w.Ingest.URL+"/messages?tenant_id="+busy.String(), body, nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	seen := make(map[string]int)
	cursor, err := "", error(nil)
	require.Eventually(t, func() bool {
		if cursor, err = w.follow(t.Context(), busy, cursor, seen); err != nil {
			t.Error(err)
		}
		return t.Failed() || len(seen) == writers*each+1
	}, waitLimit, poll)
	writing.Wait()
	for id, times := range seen {
		require.Equal(t, 1, times, "message %s", id)
	}

	// A message that the database refuses for a while, and then for ever.
	_, err = w.operator.Exec(t.Context(), `SET statement_timeout = 0; SET search_path = public; CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN IF NEW.payload = '"refused"' THEN RAISE EXCEPTION 'not this one'; END IF; RETURN NEW; END $$;
		CREATE TRIGGER refuse BEFORE INSERT ON messages_`+strings.ReplaceAll(busy.String(), "-", "")+` FOR EACH ROW EXECUTE FUNCTION public.refuse()`)
	require.NoError(t, err)
	_, err = w.call(t.Context(), http.MethodPost, w.Ingest.URL+"/messages?tenant_id="+busy.String(), `{"payload":"refused"}`, nil)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		var deadLetters struct {
			Data []struct {
				Reason   string `json:"reason"`
				Attempts int    `json:"attempts"`
			} `json:"data"`
		}
		_, err := w.call(t.Context(), http.MethodGet, w.Ingest.URL+"/dead-letters?tenant_id="+busy.String(), "", &deadLetters)
		return err == nil && len(deadLetters.Data) == 1 && deadLetters.Data[0].Reason == "max_attempts" && deadLetters.Data[0].Attempts == 2
	}, waitLimit, poll)

	// Several operators change the same tenants at once.
	change := func(method, path, body string) func(context.Context, uuid.UUID) error {
		return func(ctx context.Context, id uuid.UUID) error {
			_, err := w.call(ctx, method, tenantURL(w.Tenant, id)+path, body, nil)
			return err
		}
	}
	thrice := append(append(append([]uuid.UUID{}, ids...), ids...), ids...)
	w.each(thrice, change(http.MethodPut, "/config/concurrency", `{"workers":3}`))
	w.each(thrice, change(http.MethodPost, "/suspend", ""))
	w.each(thrice, change(http.MethodPost, "/resume", ""))
	w.each(thrice, func(ctx context.Context, id uuid.UUID) error {
		status, err := w.call(ctx, http.MethodDelete, tenantURL(w.Tenant, id), "", nil)
		if status == http.StatusNotFound { // another one has deleted it before
			return nil
		}
		return err
	})
	w.each(ids, func(ctx context.Context, id uuid.UUID) error {
		return until(ctx, func() error {
			if status, err := w.call(ctx, http.MethodGet, tenantURL(w.Tenant, id), "", nil); status != http.StatusNotFound {
				return fmt.Errorf("tenant %s is not gone: %w", id, err)
			}
			return nil
		})
	})
}
