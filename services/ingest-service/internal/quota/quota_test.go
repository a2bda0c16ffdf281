package quota

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const limit = 1000

var errAway = errors.New("the database is away")

// fake is a database: what is stored is counted when the test says so.
type fake struct {
	mu       sync.Mutex
	stored   map[uuid.UUID]int64
	counted  map[uuid.UUID]int64
	removed  map[uuid.UUID]int64
	fault    error
	busy     bool // another instance is counting
	known    int  // messages of each call that are stored already
	asked    [][]uuid.UUID
	rolledUp int
	reading  func() // runs before the answer is given
	writing  func() // runs between the commit and the answer
}

func newFake() *fake {
	return &fake{stored: make(map[uuid.UUID]int64), counted: make(map[uuid.UUID]int64), removed: make(map[uuid.UUID]int64)}
}

func (f *fake) StoredBytes(_ context.Context, tenants []uuid.UUID, observe func(tenant uuid.UUID, counted, removed int64)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, tenants)
	if f.fault != nil {
		return f.fault
	}
	if f.reading != nil {
		f.reading()
	}
	for _, tenant := range tenants {
		observe(tenant, f.counted[tenant], f.removed[tenant])
	}
	return nil
}

func (f *fake) RollUp(_ context.Context, tenant uuid.UUID) (store.RolledUp, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rolledUp++
	if f.fault != nil || f.busy {
		return store.RolledUp{More: true}, f.fault
	}
	f.count(tenant)
	return store.RolledUp{Counted: 1}, nil
}

func (f *fake) Insert(_ context.Context, tenant uuid.UUID, messages []store.Row) (int, error) {
	if f.fault != nil {
		return 0, f.fault
	}
	for _, m := range messages[f.known:] {
		f.stored[tenant] += int64(len(m.Payload))
	}
	if f.writing != nil {
		f.writing()
	}
	return len(messages) - f.known, nil
}

func (*fake) Attach(context.Context, uuid.UUID) error { return nil }

func (f *fake) count(tenant uuid.UUID) { f.counted[tenant] = f.stored[tenant] }

func rows(bytes ...int) []store.Row {
	messages := make([]store.Row, len(bytes))
	for i, n := range bytes {
		messages[i] = store.Row{ID: uuid.New(), Payload: make([]byte, n)}
	}
	return messages
}

// insert stores messages of so many bytes through what t counts.
func insert(t require.TestingT, tracker *Tracker, f *fake, tenant uuid.UUID, bytes ...int) {
	stored, err := tracker.Counting(f).Insert(context.Background(), tenant, rows(bytes...))
	require.NoError(t, err)
	require.Equal(t, len(bytes)-f.known, stored)
}

func requireRoom(t require.TestingT, want int64, tracker *Tracker, tenant uuid.UUID) {
	room, known := tracker.Room(tenant, limit)
	require.True(t, known)
	require.Equal(t, want, room)
}

func roomOf(tracker *Tracker, tenant uuid.UUID) int64 {
	room, _ := tracker.Room(tenant, limit)
	return room
}

// A tenant that stores through this process is at its limit at once, although nothing of that is counted yet, and stays there: what is
// read later and does not have it yet makes no room.
func TestWhatThisProcessHasStoredCountsAtOnce(t *testing.T) {
	tenant := uuid.New()
	f := newFake()
	tracker := NewTracker(f, zap.NewNop())
	_, known := tracker.Room(tenant, limit)
	require.False(t, known, "nobody has looked")
	insert(t, tracker, f, tenant, 50)
	f.count(tenant)

	look := func() { require.NoError(t, tracker.look(t.Context(), []uuid.UUID{tenant})) }
	look()
	requireRoom(t, 950, tracker, tenant)
	insert(t, tracker, f, tenant, 500, 400)
	requireRoom(t, 50, tracker, tenant)
	look()
	requireRoom(t, 50, tracker, tenant)
	insert(t, tracker, f, tenant, 51)
	requireRoom(t, -1, tracker, tenant)
	f.count(tenant)
	look()
	requireRoom(t, -1, tracker, tenant)

	f.stored[tenant] += 9 // by another instance
	f.count(tenant)
	look()
	requireRoom(t, -10, tracker, tenant)
	f.removed[tenant] = 600
	look()
	requireRoom(t, 590, tracker, tenant)
	room, _ := tracker.Room(tenant, 2000)
	require.EqualValues(t, 1590, room, "a raised limit acts without a look")
}

// What an instance that has died has left uncounted is counted before the first look, and not by any other: that would be the work of
// usage, at twice the cost. Many tenants at a start are known in parts, so that the first need not wait for the last.
func TestCountedBeforeTheFirstLook(t *testing.T) {
	var all []uuid.UUID
	f := newFake()
	for range 2*newTenants + 1 {
		tenant := uuid.New()
		all = append(all, tenant)
		f.stored[tenant] = limit
	}
	tracker := NewTracker(f, zap.NewNop())
	for _, known := range []int{newTenants, 2 * newTenants, len(all), len(all)} {
		require.NoError(t, tracker.look(t.Context(), all))
		require.Equal(t, known, f.rolledUp)
		require.Len(t, tracker.tenants, known)
		require.Equal(t, known < len(all), len(tracker.wake) == 1, "the next look comes soon")
		select {
		case <-tracker.wake:
		default:
		}
	}
	requireRoom(t, 0, tracker, all[0])

	f.busy = true
	other := uuid.New()
	require.NoError(t, tracker.look(t.Context(), append(all, other)))
	requireRoom(t, limit, tracker, other)
}

// What was stored before changes nothing, and neither does what was not stored.
func TestOnlyWhatIsNewIsCounted(t *testing.T) {
	tenant, unlimited := uuid.New(), uuid.New()
	f := newFake()
	tracker := NewTracker(f, zap.NewNop())
	require.NoError(t, tracker.look(t.Context(), []uuid.UUID{tenant}))
	f.known = 1
	insert(t, tracker, f, tenant, 10, 20) // nobody knows which of them: the next count does
	requireRoom(t, limit, tracker, tenant)
	f.known, f.fault = 0, errAway
	_, err := tracker.Counting(f).Insert(t.Context(), tenant, rows(10))
	require.ErrorIs(t, err, errAway)
	requireRoom(t, limit, tracker, tenant)
	f.fault = nil
	insert(t, tracker, f, unlimited, 10)
	_, known := tracker.Room(unlimited, limit)
	require.False(t, known)

	require.NoError(t, tracker.look(t.Context(), []uuid.UUID{unlimited}))
	_, known = tracker.Room(tenant, limit)
	require.False(t, known, "its limit is gone")
}

// A message whose commit a look may have seen must not count twice: it would for ever, and the tenant be refused below its limit.
func TestNothingCountsTwice(t *testing.T) {
	tenant := uuid.New()
	f := newFake()
	tracker := NewTracker(f, zap.NewNop())
	look := func() { require.NoError(t, tracker.look(t.Context(), []uuid.UUID{tenant})) }
	look()
	f.writing = func() {
		f.count(tenant)
		look()
	}
	insert(t, tracker, f, tenant, 100)
	requireRoom(t, 900, tracker, tenant)

	f.writing = nil
	f.reading = func() { // stored and counted while the statement waits for a connection
		insert(t, tracker, f, tenant, 100)
		f.count(tenant)
	}
	look()
	requireRoom(t, 800, tracker, tenant)

	f.reading = nil
	f.writing = look // which does not see it yet
	insert(t, tracker, f, tenant, 100)
	requireRoom(t, 700, tracker, tenant)
}

// After a restore from a backup less is counted than before, and that is what counts.
func TestRestoredDatabase(t *testing.T) {
	tenant := uuid.New()
	f := newFake()
	tracker := NewTracker(f, zap.NewNop())
	f.stored[tenant] = limit
	require.NoError(t, tracker.look(t.Context(), []uuid.UUID{tenant}))
	requireRoom(t, 0, tracker, tenant)
	f.counted[tenant] = 10
	require.NoError(t, tracker.look(t.Context(), []uuid.UUID{tenant}))
	requireRoom(t, limit-10, tracker, tenant)
}

// Whatever the order in which instances store, count, remove and look: nobody takes more for stored than is stored, or was at the last
// look. One instance alone knows exactly, but for what was stored together with messages that came again; and once all is counted, everybody does.
func TestNeverRefusedBelowTheLimit(t *testing.T) {
	tenant := uuid.New()
	rapid.Check(t, func(t *rapid.T) {
		f := newFake()
		var trackers []*Tracker
		for range rapid.IntRange(1, 2).Draw(t, "instances") {
			trackers = append(trackers, NewTracker(f, zap.NewNop()))
		}
		again := false
		atLook := make([]int64, len(trackers)) // removed by then
		look := func(i int) {
			require.NoError(t, trackers[i].look(context.Background(), []uuid.UUID{tenant}))
			atLook[i] = f.removed[tenant]
		}
		for i := range trackers {
			look(i)
		}
		for _, what := range rapid.SliceOfN(rapid.SampledFrom([]string{"store", "store", "again", "count", "remove", "look"}), 1, 40).Draw(t, "events") {
			i := rapid.IntRange(0, len(trackers)-1).Draw(t, "instance")
			switch what {
			case "store":
				if rapid.Bool().Draw(t, "beside a look") {
					f.writing = func() {
						if rapid.Bool().Draw(t, "counted") {
							f.count(tenant)
						}
						look(i)
					}
				}
				insert(t, trackers[i], f, tenant, rapid.IntRange(1, 300).Draw(t, "bytes"))
				f.writing = nil
			case "again":
				again = true // what is new among what comes again is counted late
				f.known = 1
				insert(t, trackers[i], f, tenant, 100, 50)
				f.known = 0
			case "count":
				f.count(tenant)
			case "remove":
				f.removed[tenant] += min(100, f.counted[tenant]-f.removed[tenant])
			case "look":
				look(i)
			}
			if len(trackers) == 1 && !again {
				require.Equal(t, limit-(f.stored[tenant]-atLook[0]), roomOf(trackers[0], tenant), "nobody else stores")
			}
			for i, tracker := range trackers {
				room, known := tracker.Room(tenant, limit)
				require.True(t, known)
				require.GreaterOrEqual(t, room, limit-(f.stored[tenant]-atLook[i]))
			}
		}
		f.count(tenant)
		for i := range trackers {
			look(i)
			requireRoom(t, limit-(f.stored[tenant]-f.removed[tenant]), trackers[i], tenant)
		}
	})
}

// What is stored is looked at every second, and at once if somebody asks about a tenant that is new; without tenants that have a limit
// nobody asks the database. While it is away, what was known counts, and questions make no more looks.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tenant, late := uuid.New(), uuid.New()
		f := newFake()
		core, lines := observer.New(zapcore.InfoLevel)
		tracker := NewTracker(f, zap.New(core))
		var mu sync.Mutex
		var limited []uuid.UUID
		set := func(tenants ...uuid.UUID) {
			mu.Lock()
			defer mu.Unlock()
			limited = tenants
		}
		fail := func(err error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.fault = err
		}
		asked := func() int {
			f.mu.Lock()
			defer f.mu.Unlock()
			return len(f.asked)
		}
		after := func(d time.Duration) {
			<-time.After(d)
			synctest.Wait()
		}
		looked := 0
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- tracker.Run(ctx, func() []uuid.UUID {
				mu.Lock()
				defer mu.Unlock()
				return limited
			}, func() { looked++ })
		}()
		after(10*interval + time.Millisecond)
		require.Zero(t, asked())
		require.Equal(t, 11, looked)

		set(tenant)
		_, known := tracker.Room(tenant, limit)
		require.False(t, known)
		refreshed := tracker.Refreshed()
		after(minPause)
		requireRoom(t, limit, tracker, tenant)
		<-refreshed
		before := asked()
		after(10 * interval)
		require.Equal(t, before+10, asked())

		fail(errAway)
		f.counted[tenant] = limit
		after(interval)
		refreshed = tracker.Refreshed()
		before = asked()
		for range 100 {
			_, known = tracker.Room(late, limit)
			require.False(t, known)
			after(interval / 50)
		}
		require.Equal(t, before+2, asked())
		requireRoom(t, limit, tracker, tenant)
		select {
		case <-refreshed:
			t.Fatal("nothing new is known")
		default:
		}
		fail(nil)
		after(interval)
		requireRoom(t, 0, tracker, tenant)
		require.Equal(t, 2, lines.Len(), "once that it fails, and once that it no longer does")

		cancel()
		require.NoError(t, <-ended)
	})
}
