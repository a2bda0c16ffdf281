package control

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// mute is a bucket whose answers are lost.
type mute struct{ jetstream.KeyValue }

func (mute) Get(ctx context.Context, _ string) (jetstream.KeyValueEntry, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (mute) Put(ctx context.Context, _ string, _ []byte) (uint64, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

func (mute) Create(ctx context.Context, _ string, _ []byte, _ ...jetstream.KVCreateOpt) (uint64, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

func (mute) Update(ctx context.Context, _ string, _ []byte, _ uint64) (uint64, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

func (mute) Purge(ctx context.Context, _ string, _ ...jetstream.KVDeleteOpt) error {
	<-ctx.Done()
	return ctx.Err()
}

// A connection that is cut takes the answers with it that were on their way. A change of a tenant must not wait for one of them
// for as long as its caller has time for all of them: two minutes, for tenant-service.
func TestLostAnswerIsNotWaitedFor(t *testing.T) {
	key := "6f1c2b1e-5a59-4a1b-9f5e-2f4f0e3f7a11"
	for name, operation := range map[string]func(context.Context, *Bucket[contract.TenantSpec]) error{
		"get": func(ctx context.Context, b *Bucket[contract.TenantSpec]) error { _, err := b.Get(ctx, key); return err },
		"put": func(ctx context.Context, b *Bucket[contract.TenantSpec]) error {
			_, err := b.Put(ctx, key, contract.TenantSpec{})
			return err
		},
		"create": func(ctx context.Context, b *Bucket[contract.TenantSpec]) error {
			_, err := b.Create(ctx, key, contract.TenantSpec{})
			return err
		},
		"update": func(ctx context.Context, b *Bucket[contract.TenantSpec]) error {
			_, err := b.Update(ctx, key, contract.TenantSpec{}, 7)
			return err
		},
		"delete":          func(ctx context.Context, b *Bucket[contract.TenantSpec]) error { return b.Delete(ctx, key) },
		"delete revision": func(ctx context.Context, b *Bucket[contract.TenantSpec]) error { return b.DeleteRevision(ctx, key, 7) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBucket[contract.TenantSpec](&Conn{log: zap.NewNop()}, "test", 0)
				b.open.Store(&opened{kv: mute{}, markers: true})
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				began := time.Now()
				require.ErrorIs(t, operation(ctx, b), context.DeadlineExceeded)
				require.Equal(t, operationTimeout, time.Since(began))
				require.NoError(t, ctx.Err())
			})
		})
	}
}
