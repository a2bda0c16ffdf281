package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// ErrNotFound says that a bucket has no value for a key.
var ErrNotFound = errors.New("key not found")

// ErrConflict says that somebody else has written the key since the given revision, or that a key to be created exists.
var ErrConflict = errors.New("revision conflict")

// ErrMalformed says that the value of a key cannot be decoded: a newer or a broken peer wrote it.
var ErrMalformed = errors.New("malformed value")

// markerTTL is how long the marker of a deleted key stays. Watches that missed it notice the missing key, so it only
// has to outlive the moment; without an end the markers of deleted tenants would pile up in every snapshot.
const markerTTL = time.Hour

// operationTimeout bounds one operation on a key, however long its caller would wait.
const operationTimeout = 5 * time.Second

// Entry is one value of a bucket.
type Entry[T any] struct {
	Key   string
	Value T // the zero value if Deleted
	// Revision grows with every write to the bucket. It starts again when the bucket is recreated.
	Revision uint64
	// Deleted marks a key that was deleted, has expired, or has vanished with its bucket.
	Deleted bool
}

// Bucket is a typed view of one key-value bucket. It is safe for concurrent use. Values travel as JSON. Every operation
// makes the bucket if it is missing, unless this process may only read it. A read or write of a key gives up after 5 seconds: an answer
// that was on its way when a connection was cut never comes, and nobody tells. While there is no connection operations fail at once.
type Bucket[T any] struct {
	conn   *Conn
	config jetstream.KeyValueConfig
	// readOnly: the bucket is never made.
	readOnly bool
	open     atomic.Pointer[opened] // nil until first needed, and after the bucket was seen missing
}

// opened is a bucket that exists, as far as this process knows.
type opened struct {
	kv      jetstream.KeyValue
	markers bool // the server supports deletion markers with a lifetime (NATS 2.11 and later)
}

// Tenants is the bucket of desired states; its keys are tenant ids.
func Tenants(c *Conn) *Bucket[contract.TenantSpec] {
	return newBucket[contract.TenantSpec](c, contract.TenantsBucket, 0)
}

// ReadTenants is that bucket for a process that may only read it: it never makes the bucket or changes its configuration, and a bucket that
// is missing is an error.
func ReadTenants(c *Conn) *Bucket[contract.TenantSpec] {
	b := Tenants(c)
	b.readOnly = true
	return b
}

// Statuses is the bucket of observed states and of heartbeats; its keys are made by [contract.StatusKey] and
// [contract.InstanceKey]. Its entries expire after [contract.StatusTTL], heartbeats after [contract.HeartbeatTTL].
func Statuses(c *Conn) *Bucket[contract.TenantStatus] {
	return newBucket[contract.TenantStatus](c, contract.StatusBucket, contract.StatusTTL)
}

func newBucket[T any](c *Conn, name string, ttl time.Duration) *Bucket[T] {
	markers := markerTTL
	if ttl > 0 {
		markers = contract.HeartbeatTTL
	}
	return &Bucket[T]{conn: c, config: jetstream.KeyValueConfig{
		Bucket:         name,
		History:        1,
		TTL:            ttl,
		Storage:        jetstream.FileStorage,
		Replicas:       c.replicas,
		LimitMarkerTTL: markers, // makes watchers see the end of an expired entry
	}}
}

// Get returns the value of key, or [ErrNotFound]. With [ErrMalformed] the entry has its revision but no value.
func (b *Bucket[T]) Get(ctx context.Context, key string) (Entry[T], error) {
	entry := Entry[T]{Key: key}
	ctx, cancel := context.WithTimeout(ctx, operationTimeout)
	defer cancel()
	err := b.do(ctx, "get", key, func(o *opened) error {
		found, err := o.kv.Get(ctx, key)
		if err != nil {
			return err
		}
		entry.Revision = found.Revision()
		if err := json.Unmarshal(found.Value(), &entry.Value); err != nil {
			return fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		return nil
	})
	return entry, err
}

// Put writes the value of key, whatever was there, and returns its revision.
func (b *Bucket[T]) Put(ctx context.Context, key string, value T) (uint64, error) {
	return b.write(ctx, "put", key, value, func(ctx context.Context, o *opened, data []byte) (uint64, error) {
		return o.kv.Put(ctx, key, data)
	})
}

// Create writes the value of a key that has none and returns its revision. A key that has one is [ErrConflict].
func (b *Bucket[T]) Create(ctx context.Context, key string, value T) (uint64, error) {
	return b.write(ctx, "create", key, value, func(ctx context.Context, o *opened, data []byte) (uint64, error) {
		return o.kv.Create(ctx, key, data)
	})
}

// Update writes the value of key on the condition that its latest revision is still revision, else [ErrConflict].
func (b *Bucket[T]) Update(ctx context.Context, key string, value T, revision uint64) (uint64, error) {
	return b.write(ctx, "update", key, value, func(ctx context.Context, o *opened, data []byte) (uint64, error) {
		return o.kv.Update(ctx, key, data, revision)
	})
}

// Renew writes the value of key with a lifetime of its own, on the condition that its latest revision is still revision,
// else [ErrConflict]; with revision 0, whatever was there. A value that has expired is a conflict, too. NATS before 2.11
// knows no lifetime of single keys: there it lives as long as others of its bucket.
func (b *Bucket[T]) Renew(ctx context.Context, key string, value T, ttl time.Duration, revision uint64) (uint64, error) {
	return b.write(ctx, "renew", key, value, func(ctx context.Context, o *opened, data []byte) (uint64, error) {
		var options []jetstream.PublishOpt
		if o.markers {
			options = append(options, jetstream.WithMsgTTL(ttl))
		}
		if revision > 0 {
			options = append(options, jetstream.WithExpectLastSequencePerSubject(revision))
		}
		// The client library has no such operation on a bucket; the subject is that of every put.
		ack, err := b.conn.js.Publish(ctx, "$KV."+b.config.Bucket+"."+key, data, options...)
		if err != nil {
			return 0, err
		}
		return ack.Sequence, nil
	})
}

// Delete removes key. It is no error if there is none.
func (b *Bucket[T]) Delete(ctx context.Context, key string) error {
	return b.delete(ctx, key)
}

// DeleteRevision removes key on the condition that its latest revision is still revision, else [ErrConflict].
func (b *Bucket[T]) DeleteRevision(ctx context.Context, key string, revision uint64) error {
	return b.delete(ctx, key, jetstream.LastRevision(revision))
}

func (b *Bucket[T]) delete(ctx context.Context, key string, options ...jetstream.KVDeleteOpt) error {
	ctx, cancel := context.WithTimeout(ctx, operationTimeout)
	defer cancel()
	return b.do(ctx, "delete", key, func(o *opened) error {
		if o.markers {
			return o.kv.Purge(ctx, key, append(options, jetstream.PurgeTTL(b.config.LimitMarkerTTL))...)
		}
		return o.kv.Purge(ctx, key, options...)
	})
}

// Snapshot returns all keys that have a value. A value that cannot be decoded is logged and left out.
func (b *Bucket[T]) Snapshot(ctx context.Context) (map[string]Entry[T], error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	halt := time.AfterFunc(snapshotTimeout, func() { cancel(errSnapshotTimeout) })
	defer halt.Stop()
	var all map[string]Entry[T]
	err := b.do(ctx, "snapshot", "", func(o *opened) error {
		all = make(map[string]Entry[T])
		watcher, err := o.kv.WatchAll(ctx, jetstream.IgnoreDeletes())
		if err != nil {
			return err
		}
		defer b.stop(watcher)
		for {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case update, ok := <-watcher.Updates():
				switch {
				case !ok:
					return errWatcherClosed
				case update == nil:
					return nil
				case isOnTheWay(update):
					halt.Reset(snapshotTimeout)
				}
				if entry, ok := b.decode(update); ok {
					all[entry.Key] = entry
				}
			}
		}
	})
	return all, err
}

func (b *Bucket[T]) write(
	ctx context.Context, operation, key string, value T, put func(context.Context, *opened, []byte) (uint64, error),
) (revision uint64, err error) {
	data, err := json.Marshal(value)
	if err != nil {
		return 0, fmt.Errorf("%s %s in bucket %s: %w", operation, key, b.config.Bucket, err)
	}
	ctx, cancel := context.WithTimeout(ctx, operationTimeout)
	defer cancel()
	err = b.do(ctx, operation, key, func(o *opened) error {
		revision, err = put(ctx, o, data)
		return err
	})
	return revision, err
}

// do runs operation on the bucket and, if that turns out to be missing, makes it and runs operation once more.
func (b *Bucket[T]) do(ctx context.Context, operation, key string, run func(*opened) error) error {
	for again := false; ; again = true {
		o, err := b.ensure(ctx)
		if err == nil {
			err = run(o)
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, jetstream.ErrKeyNotFound):
			err = ErrNotFound
		case errors.Is(err, jetstream.ErrKeyRevisionMismatch), errors.Is(err, jetstream.ErrKeyExists), isOutrun(err):
			err = fmt.Errorf("%w: %w", ErrConflict, err)
		case isMissing(err) && !again:
			b.open.CompareAndSwap(o, nil)
			continue
		case errors.Is(err, nats.ErrReconnectBufExceeded):
			err = errDisconnected
		}
		return fmt.Errorf("%s %s in bucket %s: %w", operation, key, b.config.Bucket, err)
	}
}

// ensure returns the bucket and makes it if this process has not seen it yet. Making it is idempotent, so callers at
// the same time do no harm.
func (b *Bucket[T]) ensure(ctx context.Context) (*opened, error) {
	if o := b.open.Load(); o != nil {
		return o, nil
	}
	if !b.conn.nc.IsConnected() {
		return nil, errDisconnected
	}
	if b.readOnly {
		kv, err := b.conn.js.KeyValue(ctx, b.config.Bucket)
		if err != nil {
			return nil, fmt.Errorf("open the bucket: %w", err)
		}
		o := &opened{kv: kv}
		b.open.Store(o)
		return o, nil
	}
	config, markers := b.config, true
	kv, err := b.conn.js.CreateOrUpdateKeyValue(ctx, config)
	if errors.Is(err, jetstream.ErrLimitMarkerTTLNotSupported) {
		config.LimitMarkerTTL, markers = 0, false
		kv, err = b.conn.js.CreateOrUpdateKeyValue(ctx, config)
	}
	if err != nil {
		return nil, fmt.Errorf("make the bucket: %w", err)
	}
	o := &opened{kv: kv, markers: markers}
	b.open.Store(o)
	return o, nil
}

// decode reads one update of a watcher. It reports false for a value that is not the JSON of a T, and logs it: it was
// written by a newer or a broken peer, and must not stop the values after it.
func (b *Bucket[T]) decode(update jetstream.KeyValueEntry) (Entry[T], bool) {
	entry := Entry[T]{Key: update.Key(), Revision: update.Revision()}
	if update.Operation() != jetstream.KeyValuePut {
		entry.Deleted = true
		return entry, true
	}
	if err := json.Unmarshal(update.Value(), &entry.Value); err != nil {
		b.conn.log.Error("skipped a value that cannot be decoded", zap.String("bucket", b.config.Bucket),
			zap.String("key", entry.Key), zap.Uint64("revision", entry.Revision), zap.Error(err))
		return entry, false
	}
	return entry, true
}

// isOutrun reports whether the server refused a write because of a later one.
func isOutrun(err error) bool {
	refused, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (refused.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
		refused.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

// isMissing reports whether err may mean that the bucket does not exist. The stream of a missing bucket has nobody that
// answers for it; that can also be a JetStream that is just starting, in which case making the bucket fails, too.
func isMissing(err error) bool {
	for _, missing := range []error{
		jetstream.ErrStreamNotFound, jetstream.ErrBucketNotFound, jetstream.ErrNoStreamResponse,
		nats.ErrStreamNotFound, nats.ErrNoResponders,
	} {
		if errors.Is(err, missing) {
			return true
		}
	}
	return false
}
