package pages

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
)

// raw reads pages from the database without the platform.
type raw struct {
	tenant uuid.UUID
	pool   *pgxpool.Pool
}

// position is a place in the reading order.
type position struct {
	epoch     int32
	xid       uint64
	ord       int32
	createdAt time.Time
}

// row is a message with its place.
type row struct {
	id      uuid.UUID
	payload []byte
	position
}

// openRaw opens as many connections as there are clients, each as the role of query-service and with its settings.
func openRaw(ctx context.Context, address string, tenant uuid.UUID) (*raw, error) {
	config := postgres.DefaultConfig()
	config.URL, config.MaxConns = address, clients
	config.StatementTimeout = postgres.MaxStatementTimeout // OFFSET takes its time
	pool, err := postgres.Open(ctx, config, postgres.RoleQuery)
	if err != nil {
		return nil, err
	}
	return &raw{tenant: tenant, pool: pool}, nil
}

func (r *raw) close() { r.pool.Close() }

// The page statement of query-service in its four forms: at the start of an order, and behind a place in it. See there
// for why the horizon is a filter in the last one.
const (
	columns = `SELECT id, payload, created_at, epoch, xid, ord FROM messages WHERE tenant_id = $1`
	horizon = `(epoch, xid) < ((SELECT reading_epoch()), (SELECT pg_snapshot_xmin(pg_current_snapshot())))`

	orderedAscending  = ` ORDER BY epoch, xid, ord`
	orderedDescending = ` ORDER BY epoch DESC, xid DESC, ord DESC`

	startAscending   = columns + ` AND ` + horizon + orderedAscending + ` LIMIT $2`
	startDescending  = columns + ` AND ` + horizon + orderedDescending + ` LIMIT $2`
	behindAscending  = columns + ` AND (epoch, xid, ord) > ($3, $4, $5) AND ` + horizon + orderedAscending + ` LIMIT $2`
	behindDescending = columns + ` AND (epoch, xid, ord) < ($3, $4, $5) AND (` + horizon + `) IS TRUE` + orderedDescending + ` LIMIT $2`

	offsetAscending  = startAscending + ` OFFSET $3`
	offsetDescending = startDescending + ` OFFSET $3`
)

// page reads a page, and one message more to see whether there is another page, as the platform does.
func (r *raw) page(ctx context.Context, order string, behind *position) ([]row, error) {
	statement := startAscending
	switch {
	case order == descending && behind != nil:
		statement = behindDescending
	case order == descending:
		statement = startDescending
	case behind != nil:
		statement = behindAscending
	}
	args := []any{r.tenant, pageSize + 1}
	if behind != nil {
		args = append(args, behind.epoch, behind.xid, behind.ord)
	}
	return r.read(ctx, statement, args...)
}

// offset reads a page behind so many messages by counting them off.
func (r *raw) offset(ctx context.Context, order string, skip int) error {
	statement := offsetAscending
	if order == descending {
		statement = offsetDescending
	}
	_, err := r.read(ctx, statement, r.tenant, pageSize+1, skip)
	return err
}

// read runs a statement as the platform does: in a read-only transaction that is bound to the tenant.
func (r *raw) read(ctx context.Context, statement string, args ...any) ([]row, error) {
	rows := make([]row, 0, pageSize+1)
	err := pgx.BeginTxFunc(ctx, r.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, postgres.SetTenant, r.tenant.String()); err != nil {
			return err
		}
		found, err := tx.Query(ctx, statement, args...)
		if err != nil {
			return err
		}
		defer found.Close()
		for found.Next() {
			var m row
			if err := found.Scan(&m.id, &m.payload, &m.createdAt, &m.epoch, &m.xid, &m.ord); err != nil {
				return err
			}
			rows = append(rows, m)
		}
		return found.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read a page by raw SQL: %w", err)
	}
	return rows, nil
}

// at is the message that has so many others before it, in order.
func (r *raw) at(ctx context.Context, operator *pgxpool.Pool, order string, skip int) (*position, error) {
	ordered := orderedAscending
	if order == descending {
		ordered = orderedDescending
	}
	var p position
	// Straight from the partition, but with the tenant, without which the index gives no order.
	statement := `SELECT created_at, epoch, xid, ord FROM ` + rig.Partition(r.tenant).Sanitize() + ` WHERE tenant_id = $1` + ordered + ` LIMIT 1 OFFSET $2`
	err := operator.QueryRow(ctx, statement, r.tenant, skip).
		Scan(&p.createdAt, &p.epoch, &p.xid, &p.ord)
	if err != nil {
		return nil, fmt.Errorf("find the message behind %d others: %w", skip, err)
	}
	return &p, nil
}

// before is the place that cursor stands for: that of the last message before the page that it gives.
func (r *raw) before(ctx context.Context, platform *reader, order, cursor string) (*position, error) {
	a, err := platform.page(ctx, order, cursor)
	if err != nil {
		return nil, err
	}
	if len(a.Data) == 0 {
		return nil, fmt.Errorf("there is nothing behind cursor %q", cursor)
	}
	rows, err := r.read(ctx, columns+` AND id = $2`, r.tenant, a.Data[0].ID)
	if err != nil {
		return nil, err
	}
	if len(rows) != 1 {
		return nil, fmt.Errorf("message %s is not stored", a.Data[0].ID)
	}
	// The page in the other direction begins right before that message.
	opposite := ascending
	if order == ascending {
		opposite = descending
	}
	rows, err = r.page(ctx, opposite, &rows[0].position)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("cursor %q is that of the start", cursor)
	}
	return &rows[0].position, nil
}
