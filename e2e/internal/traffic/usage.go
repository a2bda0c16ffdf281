package traffic

import (
	"context"
	"fmt"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

// usageLimit is how long usage may differ from the rows once nothing moves any more. It is two seconds late at most, unless an
// instance was killed and what it had stored is counted with the look at all tenants that the next one begins with.
const usageLimit = 20 * time.Second

// Usage is what one tenant or all of them have used: messages that came in, what was removed of them, what is stored, and dead letters.
type Usage struct {
	Messages, Bytes, Removed, RemovedBytes, Stored, StoredBytes, DeadLetters int64
}

func (u *Usage) plus(v Usage) {
	u.Messages += v.Messages
	u.Bytes += v.Bytes
	u.Removed += v.Removed
	u.RemovedBytes += v.RemovedBytes
	u.Stored += v.Stored
	u.StoredBytes += v.StoredBytes
	u.DeadLetters += v.DeadLetters
}

func (u Usage) String() string {
	return fmt.Sprintf("%d messages in (%d bytes), %d removed (%d bytes), %d stored (%d bytes), %d dead letters",
		u.Messages, u.Bytes, u.Removed, u.RemovedBytes, u.Stored, u.StoredBytes, u.DeadLetters)
}

// usage asks for what a tenant has used, with its own token. The tenants of a run are less than a day old.
func (t *Traffic) usage(ctx context.Context, a *account) (Usage, error) {
	of, err := t.clients.client(a.tenant)
	if err != nil {
		return Usage{}, err
	}
	got, err := of.Usage(ctx, client.ID(a.tenant), client.UsageQuery{})
	if err != nil {
		return Usage{}, err
	}
	u := Usage{Stored: got.Stored.Messages, StoredBytes: got.Stored.Bytes}
	for _, step := range got.Data {
		u.Messages += step.Messages
		u.Bytes += step.Bytes
		u.DeadLetters += step.DeadLetters
	}
	u.Removed, u.RemovedBytes = u.Messages-u.Stored, u.Bytes-u.StoredBytes
	return u, nil
}

// auditUsage holds what the API says that each tenant has used against the rows and the ledger, once the two agree or have had time
// to. The judge has every row and every dead letter.
func (t *Traffic) auditUsage(ctx context.Context, j *judge) error {
	deadline := time.Now().Add(usageLimit)
	for _, a := range t.ledger.in(phaseLive) {
		for {
			var said Usage
			err := t.retry(ctx, func() (err error) {
				said, err = t.usage(ctx, a)
				return err
			})
			if err != nil {
				return fmt.Errorf("ask for the usage of tenant %s: %w", a.tenant, err)
			}
			if said == j.used(a.tenant) || time.Now().After(deadline) {
				j.usage(a.tenant, said)
				break
			}
			if err := retry.Sleep(ctx, drainPoll); err != nil {
				return err
			}
		}
	}
	return nil
}
