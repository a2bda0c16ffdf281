package lifecycle_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
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
				if _, err := w.of(busy).Publish(t.Context(), client.Publishing{Payload: i}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	seen := make(map[client.ID]int)
	reader := w.of(busy).Messages(client.MessageQuery{Limit: 7}) // continues behind what it has read
	require.Eventually(t, func() bool {
		for m, err := range reader.All(t.Context()) {
			if err != nil {
				t.Error(err)
				break
			}
			seen[m.ID]++
		}
		return t.Failed() || len(seen) == writers*each+1
	}, waitLimit, poll)
	writing.Wait()
	for id, times := range seen {
		require.Equal(t, 1, times, "message %s", id)
	}

	// A message that the database refuses for a while, and then for ever.
	_, err := w.operator.Exec(t.Context(), `SET statement_timeout = 0; SET search_path = public; CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN IF NEW.payload = '"refused"' THEN RAISE EXCEPTION 'not this one'; END IF; RETURN NEW; END $$;
		CREATE TRIGGER refuse BEFORE INSERT ON messages_`+strings.ReplaceAll(busy.String(), "-", "")+` FOR EACH ROW EXECUTE FUNCTION public.refuse()`)
	require.NoError(t, err)
	_, err = w.of(busy).Publish(t.Context(), client.Publishing{Payload: "refused"})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		page, err := w.of(busy).DeadLetters(client.DeadLetterQuery{}).Next(t.Context())
		return err == nil && len(page.Items) == 1 && page.Items[0].Reason == "max_attempts" && page.Items[0].Attempts == 2
	}, waitLimit, poll)

	// Several operators change the same tenants at once.
	thrice := append(append(append([]uuid.UUID{}, ids...), ids...), ids...)
	w.each(thrice, func(ctx context.Context, id uuid.UUID) error { return resize(ctx, w.api, id, 3) })
	w.each(thrice, func(ctx context.Context, id uuid.UUID) error { return suspend(ctx, w.api, id) })
	w.each(thrice, func(ctx context.Context, id uuid.UUID) error { return resume(ctx, w.api, id) })
	w.each(thrice, func(ctx context.Context, id uuid.UUID) error {
		if err := w.api.DeleteTenant(ctx, client.ID(id), client.Wait()); !errors.Is(err, client.ErrTenantNotFound) {
			return err
		}
		return nil // another one has deleted it before
	})
	w.each(ids, w.gone)
}
