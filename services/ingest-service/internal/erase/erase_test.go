package erase_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/erase"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wait is longer than any of these tests takes.
const wait = time.Minute

// watched tells when a message was found that is not counted yet.
type watched struct {
	*store.Store
	uncounted chan struct{}
}

func (w watched) Erase(ctx context.Context, tenant, id uuid.UUID, by audit.Origin) (store.Erased, error) {
	erased, err := w.Store.Erase(ctx, tenant, id, by)
	if erased.Uncounted {
		select {
		case w.uncounted <- struct{}{}:
		case <-ctx.Done():
		}
	}
	return erased, err
}

// A message that was stored a moment ago is erased by the same request: it is counted first. While an older transaction keeps it from
// being counted, it is waited for, and in the end refused.
func TestMessagesAreCountedFirst(t *testing.T) {
	url := backing.Postgres(t)
	cfg := postgres.DefaultConfig()
	cfg.URL = url
	pool, err := postgres.Open(t.Context(), cfg, postgres.RoleIngest)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	operator, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, operator.Close(context.Background())) })
	messages, tenant := store.New(pool, 10*time.Second), uuid.New()
	require.NoError(t, messages.Attach(t.Context(), tenant))
	insert := func() uuid.UUID {
		id := uuid.New()
		_, err := messages.Insert(t.Context(), tenant, []store.Row{{ID: id, Payload: []byte(`1`)}})
		require.NoError(t, err)
		return id
	}
	by := audit.Origin{Actor: "alice", RequestID: "r-1"}

	id := insert()
	require.NoError(t, erase.New(messages, wait).Erase(t.Context(), tenant, id, by))
	require.ErrorIs(t, erase.New(messages, wait).Erase(t.Context(), tenant, id, by), erase.ErrNotStored)

	open, err := operator.Begin(t.Context())
	require.NoError(t, err)
	_, err = open.Exec(t.Context(), `SELECT pg_current_xact_id()`)
	require.NoError(t, err)
	id = insert()
	require.ErrorIs(t, erase.New(messages, time.Millisecond).Erase(t.Context(), tenant, id, by), erase.ErrUncounted)
	w := watched{messages, make(chan struct{})}
	done := make(chan error, 1)
	go func() { done <- erase.New(w, wait).Erase(t.Context(), tenant, id, by) }()
	<-w.uncounted
	<-w.uncounted
	require.NoError(t, open.Rollback(t.Context()))
	for {
		select {
		case <-w.uncounted: // another test of the server may hold it up
			continue
		case err := <-done:
			require.NoError(t, err)
		}
		break
	}
	require.ErrorIs(t, erase.New(messages, wait).Erase(t.Context(), tenant, id, by), erase.ErrNotStored)
}

// scripted answers with one after the other.
type scripted struct {
	erased []store.Erased
	errs   []error
	counts []store.RolledUp
}

func (s *scripted) Erase(context.Context, uuid.UUID, uuid.UUID, audit.Origin) (store.Erased, error) {
	erased, err := s.erased[0], s.errs[0]
	s.erased, s.errs = s.erased[1:], s.errs[1:]
	return erased, err
}

func (s *scripted) RollUp(context.Context, uuid.UUID) (store.RolledUp, error) {
	step := s.counts[0]
	s.counts = s.counts[1:]
	return step, nil
}

// What was rolled back in favor of another transaction is done again; what the database refuses otherwise is not.
func TestFaultsOfTheDatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deadlock, gone := &pgconn.PgError{Code: pgerrcode.DeadlockDetected}, &pgconn.PgError{Code: pgerrcode.UndefinedTable}
		away := errors.New("no connection")
		stored, uncounted := store.Erased{Stored: true}, store.Erased{Uncounted: true}
		for _, c := range []struct {
			script scripted
			want   error
		}{
			{scripted{erased: []store.Erased{{}, stored}, errs: []error{deadlock, nil}}, nil},
			{scripted{erased: []store.Erased{{}, {}}, errs: []error{gone, nil}}, erase.ErrNotStored},
			{scripted{erased: []store.Erased{{}}, errs: []error{away}}, away},
			{scripted{erased: []store.Erased{{DeadLetters: 1}}, errs: []error{nil}}, nil},
			// A backlog is counted page by page; what another instance is counting is left to it.
			{scripted{
				erased: []store.Erased{uncounted, uncounted, stored}, errs: []error{nil, nil, nil},
				counts: []store.RolledUp{{Counted: 10, More: true}, {Counted: 3}, {More: true}},
			}, nil},
		} {
			err := erase.New(&c.script, wait).Erase(t.Context(), uuid.New(), uuid.New(), audit.Origin{})
			require.ErrorIs(t, err, c.want)
			require.Empty(t, c.script.erased)
			require.Empty(t, c.script.counts)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		script := scripted{erased: []store.Erased{{}}, errs: []error{deadlock}}
		require.ErrorIs(t, erase.New(&script, wait).Erase(ctx, uuid.New(), uuid.New(), audit.Origin{}), deadlock, "no longer than the request")
	})
}
