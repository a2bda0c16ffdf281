package traffic

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/srireskianita/multi-tenant-messaging/client"
)

const (
	// Every so many tenants one keeps its messages for a short time only, in turn by age and by bytes: about ten seconds of what it is sent.
	retainEvery         = 5
	retainSeconds int64 = 6
	retainBytes   int64 = 64 << 10
)

// witnessSQL notes everything that is removed from a partition, in the transaction that removes it. Without it nobody could tell a
// message that was removed from one that was never stored.
const witnessSQL = `
CREATE SCHEMA IF NOT EXISTS witness;
CREATE TABLE IF NOT EXISTS witness.removed (
    n bigint GENERATED ALWAYS AS IDENTITY, tenant_id uuid, id uuid, epoch integer, xid xid8, ord integer, bytes integer, PRIMARY KEY (tenant_id, n));
CREATE OR REPLACE FUNCTION witness.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO witness.removed (tenant_id, id, epoch, xid, ord, bytes) SELECT tenant_id, id, epoch, xid, ord, bytes FROM gone;
    RETURN NULL;
END $$`

// retain gives some tenants a retention, and their partitions a witness.
func (t *Traffic) retain(ctx context.Context) error {
	if _, err := t.operator.Exec(ctx, witnessSQL); err != nil {
		return fmt.Errorf("make a witness: %w", err)
	}
	for i, a := range t.tenants {
		if i%retainEvery != 0 {
			continue
		}
		_, err := t.operator.Exec(ctx, `CREATE TRIGGER witness AFTER DELETE ON `+pgx.Identifier{"public", partitionName(a.tenant)}.Sanitize()+
			` REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION witness.note()`)
		if err != nil {
			return fmt.Errorf("make a witness of tenant %s: %w", a.tenant, err)
		}
		a.setRetains()
		seconds, bytes := retainSeconds, retainBytes
		patch := client.LimitPatch{client.LimitRetentionSeconds: &seconds}
		if i/retainEvery%2 == 1 {
			patch = client.LimitPatch{client.LimitRetentionBytes: &bytes}
		}
		if err := t.applyLimits(ctx, a, patch, 0); err != nil {
			return fmt.Errorf("limit what tenant %s keeps: %w", a.tenant, err)
		}
	}
	return nil
}

// keepAll ends the retention of all tenants, so that nothing is removed any more while it is looked for. A run that is over does
// not end it.
func (t *Traffic) keepAll(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), liftTimeout)
	defer cancel()
	for _, a := range t.tenants {
		if !a.doesRetain() {
			continue
		}
		patch := client.LimitPatch{client.LimitRetentionSeconds: nil, client.LimitRetentionBytes: nil}
		if err := t.applyLimits(ctx, a, patch, 0); err != nil {
			t.fail(fmt.Errorf("the retention of tenant %s does not end: %w", a.tenant, err))
		}
	}
}

// setRetains notes that messages of the tenant are removed.
func (a *account) setRetains() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.retains = true
	a.reads = make(map[uint32]int64)
}

func (a *account) doesRetain() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.retains
}

// passGap notes that a follower was told that it has missed messages; false if the tenant keeps all of them.
func (a *account) passGap() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gaps++
	return a.retains
}

// removal is one message that was removed, as the witness has it.
type removal struct {
	n    int64 // places them in their order
	id   uuid.UUID
	size int64
}

// removals are those of a tenant after the place n.
func (t *Traffic) removals(ctx context.Context, a *account, n int64) ([]removal, error) {
	rows, err := t.operator.Query(ctx, `SELECT n, id, coalesce(bytes, -1) FROM witness.removed WHERE tenant_id = $1 AND n > $2 ORDER BY n`, a.tenant, n)
	if err != nil {
		return nil, fmt.Errorf("ask what was removed: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r removal, err error) {
		err = row.Scan(&r.n, &r.id, &r.size)
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("ask what was removed: %w", err)
	}
	return all, nil
}

// lookForRemoved notes what was removed since the last look: nobody waits for that to be read. Steps of one tenant follow one
// another, so none appears behind the last place.
func (t *Traffic) lookForRemoved(ctx context.Context, accounts []*account) error {
	for _, a := range accounts {
		if !a.doesRetain() {
			continue
		}
		all, err := t.removals(ctx, a, a.witnessed)
		if err != nil {
			return err
		}
		a.mu.Lock()
		for _, r := range all {
			if seq, ours := a.seq(r.id); ours {
				a.removed.add(seq)
			}
			a.witnessed = r.n
		}
		a.mu.Unlock()
	}
	return nil
}

// auditRetention tells the judge what was removed, and whether that is a prefix of the reading order. It comes after the rows.
func (t *Traffic) auditRetention(ctx context.Context, j *judge) error {
	ctx, cancel := context.WithTimeout(ctx, auditTimeout)
	defer cancel()
	for _, a := range t.tenants {
		if !a.doesRetain() {
			continue
		}
		all, err := t.removals(ctx, a, 0)
		if err != nil {
			return err
		}
		for _, r := range all {
			j.removed(a.tenant, r.id, r.size)
		}
		var behind, before int64
		err = t.operator.QueryRow(ctx, `WITH boundary AS (SELECT epoch, xid, ord FROM (SELECT 0) AS always LEFT JOIN retention_positions ON tenant_id = $1)
			SELECT (SELECT count(*) FROM witness.removed r, boundary b
			        WHERE r.tenant_id = $1 AND ((r.epoch, r.xid, r.ord) <= (b.epoch, b.xid, b.ord)) IS NOT TRUE),
			       (SELECT count(*) FROM ONLY `+pgx.Identifier{"public", partitionName(a.tenant)}.Sanitize()+` m, boundary b
			        WHERE (m.epoch, m.xid, m.ord) <= (b.epoch, b.xid, b.ord))`, a.tenant).Scan(&behind, &before)
		if err != nil {
			return fmt.Errorf("compare with the retention position: %w", err)
		}
		j.boundary(a.tenant, behind, before)
	}
	return nil
}
