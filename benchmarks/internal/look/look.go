// Package look finds out when a message can be read, without the load that looking is: a function in PostgreSQL asks for it until it is
// there.
package look

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
)

// lost is how long a message is looked for.
const lost = 30 * time.Second

// Looker finds out when a message can be read. It is safe for concurrent use.
type Looker struct {
	rows *pgxpool.Pool
}

// awaitSQL makes a function that asks a question again and again, each time with a new snapshot, until the answer is true. Asked
// from here, a question takes as long as what is measured, and a pause a millisecond, the shortest that there is for a
// goroutine where nothing else is to be done. After 3 ms it does pause for the millisecond that PostgreSQL can: otherwise the process that is
// late would be kept late by those that wait for it.
const awaitSQL = `
CREATE FUNCTION pg_temp.await_answer(question text, tenant uuid, id uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    answer boolean;
    eager  timestamptz := clock_timestamp() + '3 ms';
BEGIN
    LOOP
        EXECUTE question INTO answer USING tenant, id;
        EXIT WHEN answer;
        IF clock_timestamp() > eager THEN
            PERFORM pg_sleep(0.001);
        END IF;
    END LOOP;
END $$`

// lookers is how many messages may be looked for at a time: far more than there are samples in a tenth of a second.
const lookers = 16

// Open has connections of its own, so that a question waits for nobody.
func Open(ctx context.Context, r *rig.Rig) (*Looker, error) {
	config, err := pgxpool.ParseConfig(r.Backing.DatabaseURL)
	if err != nil {
		return nil, fmt.Errorf("connect to look for messages: %w", err)
	}
	config.MaxConns = lookers
	config.ConnConfig.RuntimeParams["statement_timeout"] = strconv.FormatInt(lost.Milliseconds(), 10)
	config.AfterConnect = func(ctx context.Context, connection *pgx.Conn) error {
		if _, err := connection.Exec(ctx, awaitSQL); err != nil {
			return fmt.Errorf("make the function that waits for a message: %w", err)
		}
		return nil
	}
	rows, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect to look for messages: %w", err)
	}
	return &Looker{rows}, nil
}

// Close closes the connections.
func (l *Looker) Close() { l.rows.Close() }

// Stored waits until there is the row of a message. The question goes to the partition itself: planning a statement on the
// parent takes longer than all that is measured here, and what this snapshot sees, that of any reader sees.
func (l *Looker) Stored(ctx context.Context, tenant uuid.UUID, id string) (time.Time, error) {
	return l.await(ctx, `true`, tenant, id)
}

// Paged waits until that row is below the horizon of the reading order, as a page demands.
func (l *Looker) Paged(ctx context.Context, tenant uuid.UUID, id string) (time.Time, error) {
	return l.await(ctx, `(epoch, xid) < (reading_epoch(), pg_snapshot_xmin(pg_current_snapshot()))`, tenant, id)
}

func (l *Looker) await(ctx context.Context, condition string, tenant uuid.UUID, id string) (time.Time, error) {
	question := `SELECT ` + condition + ` FROM messages_` + strings.ReplaceAll(tenant.String(), "-", "") + ` WHERE tenant_id = $1 AND id = $2`
	if _, err := l.rows.Exec(ctx, `SELECT pg_temp.await_answer($1, $2, $3)`, question, tenant, id); err != nil {
		return time.Time{}, fmt.Errorf("a confirmed message is not readable: %w", err)
	}
	return time.Now(), nil
}
