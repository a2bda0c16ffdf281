package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres/sqlstate"
)

const (
	// maxShared is how many transactions that may be shared run at a time. Measured on two cores with 24 writers: 2 and 3
	// take in 7,200 single messages a second, 4 take 6,000, 12 take 4,200; with one there is nobody to read what the other
	// waits for.
	maxShared = 3
	// mergeBytes is the size up to which a write may share its transaction: larger ones are worth one of their own.
	mergeBytes = 64 << 10
	// groupWrites and groupBytes bound what one transaction takes: the wait for it, and what is done twice if it fails. With
	// sharedTimeouts for each of them a transaction stays below the 30 s that the reading order allows
	// ([postgres.MaxStatementTimeout]), even if nobody is there any more to end it.
	groupWrites, groupBytes = 25, 1 << 20
	// sharedTimeouts, in milliseconds, bounds how long one write keeps the others of its transaction and its slot waiting, by a
	// lock or in a trigger. Otherwise it may take as long as the connection allows.
	sharedTimeouts = "SET LOCAL lock_timeout = 100; SET LOCAL statement_timeout = 1000;"
	// separateFor is how long a tenant whose write the database refused writes in transactions of its own.
	separateFor = 10 * time.Second
)

// merger commits what several tenants write at the same time in one transaction: a commit costs the same wait for the disk,
// whether it is for one message or a hundred. Up to maxShared transactions run at a time; what is asked for meanwhile waits
// and goes together. Nobody waits while fewer than that are running.
//
// Tenants do not share faults: if a shared transaction fails, each of its writes is done again in a transaction of its own, and the tenant
// whose write it was writes in transactions of its own for a while.
type merger struct {
	pool *pgxpool.Pool

	mu       sync.Mutex
	running  int                     // guarded by mu
	waiting  []*write                // guarded by mu: in the order of asking; empty while fewer than maxShared are running
	separate map[uuid.UUID]time.Time // guarded by mu: until when
	swept    time.Time               // guarded by mu: when expired entries of separate were last removed
}

// write is one call of copy.
type write struct {
	tenant   uuid.UUID
	messages []Row
	bytes    int
	role     chan role // one element
}

// role tells a write what to do next.
type role int

const (
	leader role = iota // commit it, with what waits
	done               // nothing: it is committed, or has failed
	single             // commit it, with nothing else
)

func newMerger(pool *pgxpool.Pool) *merger {
	return &merger{pool: pool, separate: map[uuid.UUID]time.Time{}}
}

// copy commits messages. An error of the server is about these messages, or about all.
func (m *merger) copy(ctx context.Context, tenant uuid.UUID, messages []Row) (err error) {
	w := &write{tenant: tenant, messages: messages, bytes: copySize(messages)}
	if w.bytes > mergeBytes || m.isSeparate(tenant) {
		return m.commit(ctx, w)
	}
	next := m.join(ctx, w)
	if next == leader {
		next, err = m.commitGroup(ctx, w)
	}
	if next == single {
		if err := ctx.Err(); err != nil {
			return err
		}
		err = m.commit(ctx, w)
	}
	if isOwn(err) {
		m.keepSeparate(tenant)
	}
	return err
}

// join waits for the role of w. When ctx ends first it is single.
func (m *merger) join(ctx context.Context, w *write) role {
	m.mu.Lock()
	if m.running < maxShared {
		m.running++
		m.mu.Unlock()
		return leader
	}
	w.role = make(chan role, 1)
	m.waiting = append(m.waiting, w)
	m.mu.Unlock()
	select {
	case next := <-w.role:
		return next
	case <-ctx.Done():
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := slices.Index(m.waiting, w); i >= 0 {
		m.waiting = slices.Delete(m.waiting, i, i+1)
		return single
	}
	select {
	case next := <-w.role: // at the same time
		if next != leader {
			return next
		}
		m.passOn()
	default: // it is being committed; what became of it is not known
	}
	return single
}

// commitGroup commits w together with others that wait, and passes the lead on.
func (m *merger) commitGroup(ctx context.Context, w *write) (role, error) {
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.passOn()
	}()
	group := []*write{w}
	copied, err := m.transact(ctx, func(buffer []byte, epoch int32) []byte {
		// Under the lock: a write that gives up its waiting finds itself taken, and its messages copied.
		m.mu.Lock()
		defer m.mu.Unlock()
		group = m.formGroup(w)
		return appendWrites(buffer, sharedTimeouts, group, epoch)
	})
	// That the last COPY is done is said after the commit: what is refused then may be anybody's, and shows when each is done again.
	if last := len(group) - 1; isOwn(err) && (copied < last || copied == last && isSharedTimeout(err)) {
		m.keepSeparate(group[copied].tenant)
	}
	next := done
	if err != nil {
		next = single
	}
	for _, other := range group[1:] {
		other.role <- next
	}
	if len(group) == 1 && !isSharedTimeout(err) {
		return done, err
	}
	return next, nil
}

// formGroup splits off the writes that go together with first. One tenant is in a transaction once, since the
// reading order counts the messages of a tenant in a transaction. The caller holds mu.
func (m *merger) formGroup(first *write) []*write {
	group, bytes := []*write{first}, first.bytes
	left := m.waiting[:0]
	for _, w := range m.waiting {
		sameTenant := func(other *write) bool { return other.tenant == w.tenant }
		if len(group) >= groupWrites || bytes+w.bytes > groupBytes || slices.ContainsFunc(group, sameTenant) {
			left = append(left, w)
			continue
		}
		group, bytes = append(group, w), bytes+w.bytes
	}
	clear(m.waiting[len(left):])
	m.waiting = left
	return group
}

// passOn gives the lead to the one that has waited longest. The caller holds mu.
func (m *merger) passOn() {
	if len(m.waiting) == 0 {
		m.running--
		return
	}
	next := m.waiting[0]
	m.waiting = slices.Delete(m.waiting, 0, 1)
	next.role <- leader
}

// commit commits w in a transaction of its own.
func (m *merger) commit(ctx context.Context, w *write) error {
	_, err := m.transact(ctx, func(buffer []byte, epoch int32) []byte {
		return appendWrites(buffer, "", []*write{w}, epoch)
	})
	return err
}

// transact sends the requests that fill appends, which are told the epoch of the connection; see [exchange].
func (m *merger) transact(ctx context.Context, fill func(buffer []byte, epoch int32) []byte) (copied int, err error) {
	connection, err := m.pool.Acquire(ctx)
	if err != nil {
		return 0, fmt.Errorf("acquire a database connection: %w", err)
	}
	defer connection.Release()
	epoch, err := postgres.ReadingEpoch(ctx, connection.Conn())
	if err != nil {
		return 0, err
	}
	buffer := getBuffer()
	defer putBuffer(buffer)
	*buffer = fill((*buffer)[:0], epoch)
	return exchange(ctx, connection.Conn().PgConn(), *buffer)
}

// isSharedTimeout tells the refusals that a write meets because of [sharedTimeouts].
func isSharedTimeout(err error) bool {
	return sqlstate.Is(err, pgerrcode.LockNotAvailable, pgerrcode.QueryCanceled)
}

// isOwn tells the refusals that other writes need not meet, other than those of the connection, the server and its state.
func isOwn(err error) bool { return err != nil && !sqlstate.IsServerWide(err) }

func (m *merger) isSeparate(tenant uuid.UUID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.separate) == 0 {
		return false
	}
	now := time.Now()
	if now.Sub(m.swept) > separateFor {
		maps.DeleteFunc(m.separate, func(_ uuid.UUID, until time.Time) bool { return !now.Before(until) })
		m.swept = now
	}
	return now.Before(m.separate[tenant])
}

func (m *merger) keepSeparate(tenant uuid.UUID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.separate[tenant] = time.Now().Add(separateFor)
}
