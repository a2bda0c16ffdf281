package store_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// BenchmarkInsert commits messages of a kilobyte. Set DATABASE_URL to a server that waits for the disk: a commit is most
// of what a small write costs.
func BenchmarkInsert(b *testing.B) {
	f := newFixture(b)
	for _, c := range []struct{ tenants, writers, messages int }{
		{1, 1, 1}, {1, 1, 500}, {1, 3, 500}, {50, 12, 1}, {50, 12, 10}, {50, 12, 60},
	} {
		b.Run(fmt.Sprintf("tenants=%d/writers=%d/messages=%d", c.tenants, c.writers, c.messages), func(b *testing.B) {
			var tenants []uuid.UUID
			for range c.tenants {
				tenants = append(tenants, f.attached(b))
			}
			var turn atomic.Int64
			b.SetParallelism(c.writers)
			b.ReportAllocs()
			b.SetBytes(int64(c.messages) << 10)
			b.RunParallel(func(pb *testing.PB) {
				batch := messages(c.messages)
				payload := fmt.Appendf(nil, `{"text":"%01000d"}`, 0)
				for i := range batch {
					batch[i].Payload = payload
				}
				for pb.Next() {
					for i := range batch {
						batch[i].ID = uuid.New()
					}
					_, err := f.store.Insert(b.Context(), tenants[turn.Add(1)%int64(len(tenants))], batch)
					require.NoError(b, err)
				}
			})
		})
	}
}
