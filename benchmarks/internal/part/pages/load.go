package pages

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
)

const (
	// loaders write at the same time, so that neighbours in the reading order come from different transactions.
	loaders = 4
	// chunk is how many messages one transaction writes: as many as a full batch of ingest-service.
	chunk = 500
	// filler is how many messages every other tenant has.
	filler = 20
)

// payload is a message of about 256 bytes.
func payload() string {
	return fmt.Sprintf(`{"type": "order.created", "customer": "c-20417", "text": %q}`, strings.Repeat("x", 190))
}

// load makes the partitions of all tenants and fills them. It returns the tenant with the many messages.
func load(ctx context.Context, operator *pgxpool.Pool, s size) (uuid.UUID, error) {
	large := uuid.New()
	tenants := []uuid.UUID{large}
	for range s.tenants - 1 {
		tenants = append(tenants, uuid.New())
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(loaders)
	for _, tenant := range tenants {
		group.Go(func() error { return attach(groupCtx, operator, tenant, tenant != large) })
	}
	if err := group.Wait(); err != nil {
		return large, err
	}
	group, groupCtx = errgroup.WithContext(ctx)
	chunks := s.messages / chunk
	for i := range loaders {
		group.Go(func() error { return fill(groupCtx, operator, large, chunks*i/loaders, chunks*(i+1)/loaders) })
	}
	if err := group.Wait(); err != nil {
		return large, err
	}
	// Not to be in the middle of it later: neither the autovacuum of so many new rows nor the checkpoint of so much WAL.
	// Parallel workers would need more shared memory than a container has by default.
	for _, statement := range []string{`VACUUM (ANALYZE, PARALLEL 0) ` + rig.Partition(large).Sanitize(), `ANALYZE messages`, `CHECKPOINT`} {
		if _, err := operator.Exec(ctx, statement); err != nil {
			return large, fmt.Errorf("tidy up after loading: %w", err)
		}
	}
	return large, nil
}

func attach(ctx context.Context, operator *pgxpool.Pool, tenant uuid.UUID, fill bool) error {
	if _, err := operator.Exec(ctx, `SELECT tenant_attach($1)`, tenant); err != nil {
		return fmt.Errorf("attach a partition: %w", err)
	}
	if !fill {
		return nil
	}
	_, err := operator.Exec(ctx, `
		INSERT INTO messages (tenant_id, id, payload, epoch, ord)
		SELECT $1, gen_random_uuid(), $2, (SELECT reading_epoch()), n FROM generate_series(1, $3::integer) AS n`, tenant, payload(), filler)
	if err != nil {
		return fmt.Errorf("fill a tenant: %w", err)
	}
	return nil
}

// fill writes the chunks from first up to last, without last, each in a transaction of its own, as ingest-service would
// have written them in batches. Ids rise, as those of UUIDv7 do: random ones would have the loading wait for the index
// of the primary key, which no page reads.
func fill(ctx context.Context, operator *pgxpool.Pool, tenant uuid.UUID, first, last int) error {
	connection, err := operator.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("acquire a connection: %w", err)
	}
	defer connection.Release()
	// A block that commits takes no arguments. Nobody has to wait for the disk after each transaction: that is not what
	// is measured. The last word is the checkpoint after loading. now() would be when the block began.
	block := fmt.Sprintf(`
		DO $block$
		BEGIN
			FOR c IN %d .. %d LOOP
				SET LOCAL synchronous_commit = off;
				INSERT INTO %s (tenant_id, id, payload, created_at, epoch, ord)
				SELECT '%s', lpad(to_hex(c * %d + n), 32, '0')::uuid, '%s', (SELECT clock_timestamp()), (SELECT reading_epoch()), n
				FROM generate_series(1, %[5]d) AS n;
				COMMIT;
			END LOOP;
		END $block$`, first, last-1, rig.Partition(tenant).Sanitize(), tenant, chunk, payload())
	_, err = connection.Exec(ctx, block, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return fmt.Errorf("load messages: %w", err)
	}
	return nil
}
