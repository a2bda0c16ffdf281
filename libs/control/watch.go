package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

// Timing of a watch.
const (
	// snapshotTimeout is how long a snapshot may bring nothing new. One that comes to a halt has lost its end; one that is
	// only large takes as long as it takes.
	snapshotTimeout = 15 * time.Second
	firstRetry      = 50 * time.Millisecond
	slowestRetry    = 5 * time.Second
)

var (
	errWatcherClosed   = errors.New("the watcher was closed")
	errSnapshotTimeout = errors.New("the snapshot came to a halt")
)

// Watch tells handle the value of every key that the bucket has now, and then every change, until ctx ends; then it
// returns nil. A deletion is told only for a key that handle was told about.
//
// After a reconnect at once, after a fault with backoff, and every [Config].Resync (jittered) Watch starts over with a
// snapshot, of which handle is told only what differs: values with another revision, and as Deleted the keys that have
// vanished meanwhile, which is every key after the bucket was wiped. The bucket is then made again. synced, unless it is
// nil, is called after every complete snapshot, the first one included. Both are called from the goroutine of Watch, so
// a slow handle holds up this watch and nothing else.
func (b *Bucket[T]) Watch(ctx context.Context, handle func(Entry[T]), synced func()) error {
	return b.WatchKeys(ctx, "", handle, synced)
}

// WatchKeys is Watch of the keys that match a pattern, in which * is one part between two points, and > the rest.
func (b *Bucket[T]) WatchKeys(ctx context.Context, pattern string, handle func(Entry[T]), synced func()) error {
	w := watch[T]{bucket: b, pattern: pattern, handle: handle, synced: synced, known: make(ledger)}
	source := w.source()
	pauses := retry.Backoff(firstRetry, slowestRetry)
	for ctx.Err() == nil {
		// Taken before the attempt: a connect in the middle of it counts as one after it.
		connected := b.conn.NextConnect()
		complete, err := w.session(ctx, connected)
		if complete {
			pauses.Reset()
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		err = fmt.Errorf("watch bucket %s: %w", b.config.Bucket, err)
		b.conn.fault(source, err)
		if !errors.Is(err, errDisconnected) {
			b.conn.log.Warn("watch failed; starting over", zap.Error(err))
		}
		select {
		case <-ctx.Done():
		case <-connected:
			pauses.Reset()
		case <-time.After(pauses.NextBackOff()):
		}
	}
	b.conn.fault(source, nil)
	return nil
}

// watch is the state of one call of [Bucket.Watch], owned by its goroutine.
type watch[T any] struct {
	bucket  *Bucket[T]
	pattern string // empty: all keys
	handle  func(Entry[T])
	synced  func()
	known   ledger
}

// source is the name of the watch among the faults of its connection.
func (w *watch[T]) source() string {
	if w.pattern == "" {
		return "watch of bucket " + w.bucket.config.Bucket
	}
	return "watch of " + w.pattern + " in bucket " + w.bucket.config.Bucket
}

// session is one snapshot and the changes after it. It ends without an error when it is time to start over: connected
// was closed, the interval is over, or ctx has ended. complete says that its snapshot was.
func (w *watch[T]) session(ctx context.Context, connected <-chan struct{}) (complete bool, err error) {
	o, err := w.bucket.ensure(ctx)
	if err != nil {
		return false, err
	}
	watcher, release, err := watchKeys(ctx, o.kv, w.pattern)
	defer release()
	if err != nil {
		w.bucket.open.CompareAndSwap(o, nil)
		if errors.Is(err, nats.ErrReconnectBufExceeded) || !w.bucket.conn.nc.IsConnected() {
			err = errDisconnected
		}
		return false, err
	}
	defer w.bucket.stop(watcher)
	present := make(map[string]struct{}, len(w.known))
	over := time.NewTimer(snapshotTimeout)
	defer over.Stop()
	for {
		select {
		case <-ctx.Done():
			return complete, nil
		case <-connected:
			return complete, nil
		case <-over.C:
			if !complete {
				return false, errSnapshotTimeout
			}
			return true, nil
		case update, ok := <-watcher.Updates():
			switch {
			case !ok:
				return complete, errWatcherClosed
			case update != nil:
				w.apply(update)
				if !complete {
					present[update.Key()] = struct{}{}
					if isOnTheWay(update) {
						over.Reset(snapshotTimeout)
					}
				}
			case !complete: // nil marks the end of the snapshot
				if err := w.dropVanished(ctx, o.kv, present); err != nil {
					return false, err
				}
				present, complete = nil, true
				w.bucket.conn.fault(w.source(), nil)
				over.Reset(retry.Jitter(w.bucket.conn.resync))
				if w.synced != nil {
					w.synced()
				}
			}
		}
	}
}

// isOnTheWay reports whether update is part of a snapshot of which more is to come. With the last one its end is due.
func isOnTheWay(update jetstream.KeyValueEntry) bool { return update.Delta() > 0 }

// watchKeys starts a watcher, as long as ctx has not ended. After that the watcher is independent of ctx and must be
// ended by stop, then release: the library ends a watcher whose context ends in a goroutine that nobody can wait for.
func watchKeys(ctx context.Context, kv jetstream.KeyValue, pattern string) (watcher jetstream.KeyWatcher, release func(), err error) {
	own, release := context.WithCancel(context.WithoutCancel(ctx))
	defer context.AfterFunc(ctx, release)()
	if pattern == "" {
		watcher, err = kv.WatchAll(own)
	} else {
		watcher, err = kv.Watch(own, pattern)
	}
	return watcher, release, err
}

// apply tells the handler of update unless it knows it.
func (w *watch[T]) apply(update jetstream.KeyValueEntry) {
	deleted := update.Operation() != jetstream.KeyValuePut
	if !w.known.note(update.Key(), mark{revision: update.Revision(), created: update.Created().UnixNano()}, deleted) {
		return
	}
	if entry, ok := w.bucket.decode(update); ok {
		w.handle(entry)
	}
}

// dropVanished reports as deleted what the handler knows and the snapshot lacks. Each is looked up once more: a key
// that is written during the snapshot moves to its end, which may be past the mark that ends it.
func (w *watch[T]) dropVanished(ctx context.Context, kv jetstream.KeyValue, present map[string]struct{}) error {
	for _, key := range w.known.missing(present) {
		_, err := kv.Get(ctx, key)
		switch {
		case err == nil:
			continue // the watcher brings it next
		case errors.Is(err, jetstream.ErrKeyNotFound):
			delete(w.known, key)
			w.handle(Entry[T]{Key: key, Deleted: true})
		default:
			return fmt.Errorf("look up %s: %w", key, err)
		}
	}
	return nil
}

// stop ends a watcher and waits for it. The library delivers into a channel of limited size under a lock that its end
// needs, so the channel is drained meanwhile.
func (b *Bucket[T]) stop(watcher jetstream.KeyWatcher) {
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for range watcher.Updates() {
			// The values do not matter any more.
		}
	}()
	if err := watcher.Stop(); err != nil && !errors.Is(err, nats.ErrBadSubscription) {
		// The server removes a consumer that nobody listens to without being asked.
		b.conn.log.Debug("stop watcher", zap.String("bucket", b.config.Bucket), zap.Error(err))
	}
	<-drained
}
