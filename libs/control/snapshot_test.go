package control

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// slow is a bucket whose keys come one at a time, and whose end may be lost.
type slow struct {
	jetstream.KeyValue
	keys  int
	pause time.Duration
	halts bool // after half of them
}

func (s slow) WatchAll(ctx context.Context, _ ...jetstream.WatchOpt) (jetstream.KeyWatcher, error) {
	w := slowWatcher{updates: make(chan jetstream.KeyValueEntry), stop: make(chan struct{})}
	go func() {
		defer close(w.updates)
		send := func(update jetstream.KeyValueEntry, after time.Duration) (sent bool) {
			select {
			case <-time.After(after):
			case <-w.stop:
				return false
			}
			select {
			case w.updates <- update:
				return true
			case <-w.stop:
				return false
			}
		}
		for left := s.keys - 1; left >= 0; left-- {
			if s.halts && left < s.keys/2 || !send(slowEntry{left: uint64(left)}, s.pause) {
				<-w.stop
				return
			}
		}
		send(nil, 0) // marks the end, right after the last key
		<-w.stop
	}()
	return w, ctx.Err()
}

type slowWatcher struct {
	updates chan jetstream.KeyValueEntry
	stop    chan struct{}
}

func (w slowWatcher) Updates() <-chan jetstream.KeyValueEntry { return w.updates }
func (w slowWatcher) Context() context.Context                { return context.Background() }
func (w slowWatcher) Error() <-chan error                     { return nil }

func (w slowWatcher) Stop() error {
	close(w.stop)
	return nil
}

type slowEntry struct {
	jetstream.KeyValueEntry
	left uint64
}

func (e slowEntry) Key() string                     { return fmt.Sprint(e.left) }
func (e slowEntry) Value() []byte                   { return []byte(`{}`) }
func (e slowEntry) Revision() uint64                { return e.left + 1 }
func (e slowEntry) Created() time.Time              { return time.Unix(0, 0) }
func (e slowEntry) Delta() uint64                   { return e.left }
func (e slowEntry) Operation() jetstream.KeyValueOp { return jetstream.KeyValuePut }

// An installation with so many tenants that a snapshot takes long must not have it begin over for ever; a snapshot that has
// lost its end must.
func TestSnapshotMayTakeLongAndMustNotHalt(t *testing.T) {
	for name, test := range map[string]struct {
		bucket slow
		want   error
	}{
		"large": {slow{keys: 20, pause: snapshotTimeout - time.Second}, nil},
		"halts": {slow{keys: 20, pause: snapshotTimeout - time.Second, halts: true}, errSnapshotTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn := &Conn{resync: time.Hour, log: zap.NewNop(), report: func(error) {}, faults: make(map[string]error)}
				b := newBucket[contract.TenantSpec](conn, "test", 0)
				b.open.Store(&opened{kv: test.bucket})

				all, err := b.Snapshot(t.Context())
				require.ErrorIs(t, err, test.want)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				told := 0
				w := watch[contract.TenantSpec]{
					bucket: b, known: make(ledger), handle: func(Entry[contract.TenantSpec]) { told++ }, synced: cancel,
				}
				complete, err := w.session(ctx, make(chan struct{}))
				require.ErrorIs(t, err, test.want)
				require.Equal(t, test.want == nil, complete)
				if test.want == nil {
					require.Len(t, all, test.bucket.keys)
					require.Equal(t, test.bucket.keys, told)
				}
			})
		})
	}
}
