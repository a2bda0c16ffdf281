// Package revocation keeps a service informed of the issued tokens that were revoked, by asking PostgreSQL every second.
//
// A revocation that is committed is known within a second and the time of a query; with the database away, what is known stays
// known. None is missed, however late its transaction commits: the position of a query is the oldest transaction that was running
// then.
//
// It does not ask through the pool: requests that occupy all of its connections must not keep a revoked token alive. And a
// position is worth something on the connection only on which it was given: whatever sets transaction ids back (a restore, a
// standby that is promoted) ends every connection to the server that was there before.
package revocation

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/libs/telemetry"
)

const (
	// interval is the time between two queries.
	interval = time.Second
	// timeout bounds a query, and the opening of a connection for it.
	timeout = 3 * time.Second
)

// Watch adds to revocations what is revoked, until ctx ends; it returns nil then. Its connection is opened with the settings of
// pool. check is told the outcome of every query: until the first one has succeeded the service is not ready, after that it is at
// worst degraded.
func Watch(ctx context.Context, pool *pgxpool.Pool, revocations *auth.Revocations, check *telemetry.Check, log *zap.Logger) error {
	w := &watcher{pool: pool, revocations: revocations}
	defer w.disconnect(ctx)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	failing := false
	for {
		err := w.query(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !failing {
			log.Warn("revoked tokens cannot be read, those that are known stay revoked", zap.Error(err))
		}
		failing = err != nil
		if revocations.Known() {
			check.Degrade(err)
		} else {
			check.Set(err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// watcher is owned by the goroutine that called Watch.
type watcher struct {
	pool        *pgxpool.Pool
	revocations *auth.Revocations
	connection  *pgx.Conn // nil before the first query and after one that failed
	since       int64     // the position on connection, 0 at its beginning
}

// query reads what was revoked since the query before, or on a new connection all that was revoked and has not expired.
func (w *watcher) query(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if w.connection == nil {
		connection, err := postgres.Connect(ctx, w.pool)
		if err != nil {
			return err
		}
		w.connection, w.since = connection, 0
	}
	revoked, upto, err := read(ctx, w.connection, w.since)
	if err != nil {
		w.disconnect(ctx)
		return err
	}
	w.revocations.Add(revoked)
	w.since = upto
	return nil
}

// read returns the tokens that were revoked from the position since on, and the position to go on from.
func read(ctx context.Context, connection *pgx.Conn, since int64) (revoked map[uuid.UUID]time.Time, upto int64, err error) {
	rows, err := connection.Query(ctx, `SELECT upto, token, expires FROM public.revoked_tokens($1)`, since)
	if err != nil {
		return nil, 0, fmt.Errorf("read revoked tokens: %w", err)
	}
	revoked = map[uuid.UUID]time.Time{}
	var token *uuid.UUID
	var expires *time.Time
	answered := false
	_, err = pgx.ForEachRow(rows, []any{&upto, &token, &expires}, func() error {
		answered = true
		if token != nil && expires != nil {
			revoked[*token] = *expires
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, 0, fmt.Errorf("read revoked tokens: %w", err)
	case !answered:
		return nil, 0, errors.New("read revoked tokens: no position")
	}
	return revoked, upto, nil
}

// disconnect closes the connection, if there is one. That it can't say goodbye to a server that is away is of no interest.
func (w *watcher) disconnect(ctx context.Context) {
	if w.connection == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = w.connection.Close(ctx)
	w.connection = nil
}
