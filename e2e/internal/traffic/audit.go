package traffic

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

// auditTimeout bounds each step of an audit. Nothing is disturbed any more by then; reading millions of rows takes a while.
const auditTimeout = 5 * time.Minute

// Verdict holds the database, the broker and what readers met against the ledger.
func (t *Traffic) Verdict(ctx context.Context) (Verdict, error) {
	// What was stored again is not waited for by a drain: it was read before.
	for _, a := range t.tenants {
		for more := a.doesRetain(); more; {
			err := t.retry(ctx, func() (err error) {
				more, err = t.step(ctx, a)
				return err
			})
			if err != nil {
				return Verdict{}, fmt.Errorf("read tenant %s to its end: %w", a.tenant, err)
			}
		}
	}
	j := newJudge(t.ledger)
	if err := t.auditTables(ctx, j); err != nil {
		return Verdict{}, err
	}
	if err := t.auditRetention(ctx, j); err != nil {
		return Verdict{}, err
	}
	if err := t.auditDeadLetters(ctx, j); err != nil {
		return Verdict{}, err
	}
	if err := t.auditQueues(ctx, j); err != nil {
		return Verdict{}, err
	}
	live := t.ledger.in(phaseLive)
	for i, a := range live {
		if err := t.trespass(ctx, live[(i+1)%len(live)], a); err != nil {
			return Verdict{}, err
		}
		seqs, err := t.descending(ctx, a)
		if err != nil {
			return Verdict{}, fmt.Errorf("read tenant %s backwards: %w", a.tenant, err)
		}
		j.backwards(a.tenant, seqs)
	}
	if err := t.auditUsage(ctx, j); err != nil {
		return Verdict{}, err
	}
	return j.verdict(&t.found), nil
}

// trespass asks for a message of owner with the token of stranger.
func (t *Traffic) trespass(ctx context.Context, stranger, owner *account) error {
	seq, ok := owner.met(func(int) int { return 0 })
	if !ok || stranger == owner {
		return nil
	}
	return t.retry(ctx, func() error {
		of, err := t.clients.client(stranger.tenant)
		if err != nil {
			return err
		}
		_, err = of.Message(ctx, client.ID(owner.id(seq)))
		switch {
		case err == nil:
			t.found.add(faultForeign, "the token of tenant %s reads message %d of tenant %s", stranger.tenant, seq, owner.tenant)
		case !errors.Is(err, client.ErrNotStored):
			return fmt.Errorf("ask for a message of another tenant: %w", err)
		}
		return nil
	})
}

// retry repeats fn until it succeeds.
func (t *Traffic) retry(ctx context.Context, fn func() error) error {
	ctx, cancel := context.WithTimeout(ctx, auditTimeout)
	defer cancel()
	for {
		err := fn()
		if err == nil {
			return nil
		}
		if retry.Sleep(ctx, longestPause) != nil {
			return errors.Join(err, ctx.Err())
		}
	}
}

// partition is a table of messages. Leaves of the partition tree are named after their tenant.
type partition struct {
	name     string
	attached bool
}

func partitionName(tenant uuid.UUID) string {
	return "messages_" + strings.ReplaceAll(tenant.String(), "-", "")
}

// tenant is whose the partition is by its name.
func (p partition) tenant() (uuid.UUID, error) {
	return uuid.Parse(strings.TrimPrefix(p.name, "messages_"))
}

const partitionsSQL = `
SELECT c.relname, EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid AND NOT i.inhdetachpending)
FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND c.relname ~ '^messages_[0-9a-f]{32}$'
ORDER BY 1`

// auditTables reads every table of messages on its own, whether or not it is a partition, and holds their sum against the
// parent: a row must not hide in either.
func (t *Traffic) auditTables(ctx context.Context, j *judge) error {
	ctx, cancel := context.WithTimeout(ctx, auditTimeout)
	defer cancel()
	rows, err := t.operator.Query(ctx, partitionsSQL)
	if err != nil {
		return fmt.Errorf("list the partitions: %w", err)
	}
	partitions, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p partition, err error) {
		err = row.Scan(&p.name, &p.attached)
		return p, err
	})
	if err != nil {
		return fmt.Errorf("list the partitions: %w", err)
	}
	var sum, total int64
	for _, p := range partitions {
		n, err := t.auditTable(ctx, j, p)
		if err != nil {
			return err
		}
		if p.attached {
			sum += n
		}
	}
	if err := t.operator.QueryRow(ctx, `SELECT count(*) FROM messages`).Scan(&total); err != nil {
		return fmt.Errorf("count the messages: %w", err)
	}
	if total != sum {
		j.found.add(faultForeign, "the table has %d messages, its partitions of tenants %d", total, sum)
	}
	return nil
}

// auditTable reads one table of messages.
func (t *Traffic) auditTable(ctx context.Context, j *judge, p partition) (n int64, err error) {
	owner, err := p.tenant()
	if err != nil {
		return 0, fmt.Errorf("table %s: %w", p.name, err)
	}
	a, known := t.ledger.account(owner)
	switch {
	case !known:
		j.found.add(faultForeign, "there is a partition of tenant %s, which nobody has made", owner)
	case !a.isLive():
		j.found.add(faultLeftover, "the partition of tenant %s, which is deleted, is still there", owner)
	case !p.attached:
		j.found.add(faultLeftover, "the partition of tenant %s is detached", owner)
	}
	rows, err := t.operator.Query(ctx, `SELECT tenant_id, id, payload::text, coalesce(bytes, -1) FROM ONLY `+pgx.Identifier{"public", p.name}.Sanitize())
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", p.name, err)
	}
	var tenant, id uuid.UUID
	var payload []byte
	var size int64
	_, err = pgx.ForEachRow(rows, []any{&tenant, &id, &payload, &size}, func() error {
		n++
		if tenant != owner {
			j.found.add(faultForeign, "message %s of tenant %s is in the partition of tenant %s", id, tenant, owner)
		}
		j.row(tenant, id, payload, size)
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", p.name, err)
	}
	return n, nil
}

func (t *Traffic) auditDeadLetters(ctx context.Context, j *judge) error {
	ctx, cancel := context.WithTimeout(ctx, auditTimeout)
	defer cancel()
	rows, err := t.operator.Query(ctx, `SELECT tenant_id, message_id, reason, sha256(payload) FROM dead_letters`)
	if err != nil {
		return fmt.Errorf("read the dead letters: %w", err)
	}
	var tenant uuid.UUID
	var message *uuid.UUID
	var reason string
	var sum []byte
	_, err = pgx.ForEachRow(rows, []any{&tenant, &message, &reason, &sum}, func() error {
		j.deadLetter(tenant, message, reason, sum)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the dead letters: %w", err)
	}
	return nil
}

// auditQueues looks for queues of tenants that are gone, and for tenants without one.
func (t *Traffic) auditQueues(ctx context.Context, j *judge) error {
	var queues []queue
	err := t.retry(ctx, func() (err error) {
		queues, err = t.queues(ctx)
		return err
	})
	if err != nil {
		return err
	}
	for _, q := range queues {
		text, ok := contract.TenantOfQueue(q.Name)
		tenant, err := uuid.Parse(text)
		if !ok || err != nil {
			continue // shared by all tenants
		}
		if a, known := t.ledger.account(tenant); !known || !a.isLive() {
			j.found.add(faultLeftover, "the queue of tenant %s, which is deleted, is still there with %d messages", tenant, q.Messages)
		}
	}
	return nil
}
