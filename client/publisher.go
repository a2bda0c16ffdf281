package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// What goes into one request of many messages by default: well below what the services allow, 10,000 lines and 10 MiB.
const (
	defaultBatch      = 1000
	defaultBatchBytes = 4 << 20
)

// PublisherConfig bounds a publisher. A zero field has its default.
type PublisherConfig struct {
	// Linger is how long the first message of a batch waits for more while a request could be sent. Default: 5 milliseconds.
	Linger time.Duration
	// BatchMessages and BatchBytes bound a batch; a message that is longer goes alone. Defaults: 1,000 and 4 MiB.
	BatchMessages, BatchBytes int
	// Concurrency is the number of requests under way at once. Messages keep their order only with 1, and then only those that
	// need no repeat. Default: 4.
	Concurrency int
	// Timeout is how long a batch is repeated before its messages have failed. Default: 2 minutes. Messages that the tenant has no
	// room for ([ErrStorageFull]) fail at once, unless it has a retention.
	Timeout time.Duration
	// OnResult, if set, is called once for every enqueued message, from several goroutines at once. A sender waits until it
	// returns. It must not call Flush or Close.
	OnResult func(Result)
}

func (cfg PublisherConfig) withDefaults() PublisherConfig {
	if cfg.Linger <= 0 {
		cfg.Linger = 5 * time.Millisecond
	}
	if cfg.BatchMessages <= 0 {
		cfg.BatchMessages = defaultBatch
	}
	if cfg.BatchBytes <= 0 {
		cfg.BatchBytes = defaultBatchBytes
	}
	if cfg.Concurrency <= 0 {
		cfg.Concurrency = 4
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 2 * time.Minute
	}
	return cfg
}

// ErrClosed is the answer of a publisher that was closed, and the cause of the results of messages that were left when
// Close ran out of time.
var ErrClosed = errors.New("the publisher is closed")

// Publisher gathers the messages of many goroutines into batches. Every message that Publish enqueues gets exactly one
// result, at the latest when Close returns. A publisher holds at most Concurrency + 1 batches; when they are full, Publish
// waits.
//
// Three kinds of goroutines: callers hand a message over to the collector, the collector hands full or due batches over to
// the senders, and a sender resolves each message of its batch. Both channels have no buffer, so that a message is always
// in the hands of one of them.
type Publisher struct {
	client     *Client
	cfg        PublisherConfig
	in         chan *Pending     // to the collector
	flushes    chan chan<- *span // to the collector
	batches    chan []line       // to the senders
	closing    chan struct{}     // closed by the first Close
	close      func()
	cancelWork context.CancelCauseFunc // ends what is under way
	stopped    chan struct{}           // closed when all goroutines have ended
	total      span                    // of all messages, for Close
}

// Pending is an enqueued message, whose result comes later.
type Pending struct {
	line   line
	span   *span
	result error // to be read once done is closed
	done   chan struct{}
}

// ID is the id of the message.
func (p *Pending) ID() ID { return p.line.id }

// Done is closed when the message has its result.
func (p *Pending) Done() <-chan struct{} { return p.done }

// Wait waits for the result and returns its error, nil if the message was accepted, or the error of ctx if that ends before.
func (p *Pending) Wait(ctx context.Context) error {
	select {
	case <-p.done: // first, since a select between ready channels is random
		return p.result
	default:
	}
	select {
	case <-p.done:
		return p.result
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// NewPublisher starts a publisher. It has to be closed.
func (c *Client) NewPublisher(cfg PublisherConfig) *Publisher {
	ctx, cancelWork := context.WithCancelCause(context.Background())
	p := &Publisher{
		client: c, cfg: cfg.withDefaults(),
		in: make(chan *Pending), flushes: make(chan chan<- *span), batches: make(chan []line),
		closing: make(chan struct{}), stopped: make(chan struct{}), cancelWork: cancelWork,
	}
	p.close = sync.OnceFunc(func() { close(p.closing) })
	var working sync.WaitGroup
	working.Go(p.collect)
	for range p.cfg.Concurrency {
		working.Go(func() { p.sendAll(ctx) })
	}
	go func() {
		working.Wait()
		close(p.stopped)
	}()
	return p
}

// Publish enqueues a message; while the publisher is full it waits. An error, of encoding, of ctx or [ErrClosed], says that
// the message was not enqueued. The end of ctx does not concern a message that was.
func (p *Publisher) Publish(ctx context.Context, m Publishing) (*Pending, error) {
	l, err := encode(m)
	if err != nil {
		return nil, err
	}
	pending := &Pending{line: l, done: make(chan struct{})}
	pending.line.resolve = func(err error) { p.resolve(pending, err) }
	select {
	case <-p.closing: // first, since a select between ready channels is random
		return nil, ErrClosed
	default:
	}
	select {
	case p.in <- pending:
		return pending, nil
	case <-p.closing:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, fmt.Errorf("enqueue message: %w", context.Cause(ctx))
	}
}

// Flush sends what was enqueued before, without lingering, and waits until all of it has its result. The error is that of
// ctx, or says how many of the messages since the last Flush were not accepted.
func (p *Publisher) Flush(ctx context.Context) error {
	reply := make(chan *span, 1)
	select {
	case p.flushes <- reply:
	case <-p.closing: // which flushes
		return await(ctx, p.stopped, &p.total)
	case <-ctx.Done():
		return fmt.Errorf("flush the publisher: %w", context.Cause(ctx))
	}
	s := <-reply
	return await(ctx, s.done, s)
}

// await waits until s is done.
func await(ctx context.Context, done <-chan struct{}, s *span) error {
	select {
	case <-done:
		return s.err()
	case <-ctx.Done():
		return fmt.Errorf("flush the publisher: %w", context.Cause(ctx))
	}
}

// Close enqueues nothing more, sends what is left and waits for the results. If ctx ends before, the rest is cancelled: its
// results wrap [ErrClosed], its messages may or may not have been accepted. When Close returns, every message has its
// result and no goroutine is left. The error says how many of all messages were not accepted. Closing again waits for the
// same end.
func (p *Publisher) Close(ctx context.Context) error {
	p.close()
	select {
	case <-p.stopped:
	case <-ctx.Done():
		p.cancelWork(fmt.Errorf("%w before this message had a result: %w", ErrClosed, context.Cause(ctx)))
		<-p.stopped
	}
	p.cancelWork(ErrClosed) // lets go of the context
	return p.total.err()
}

// resolve gives a message its result.
func (p *Publisher) resolve(m *Pending, err error) {
	m.result = err
	m.line.body = nil
	p.total.count(err)
	m.span.count(err)
	close(m.done)
	if p.cfg.OnResult != nil {
		p.cfg.OnResult(Result{ID: m.line.id, Err: err})
	}
	m.span.release()
}

// sendAll is a sender.
func (p *Publisher) sendAll(ctx context.Context) {
	for batch := range p.batches {
		ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
		p.client.publishLines(ctx, batch)
		cancel()
	}
}

// collect is the collector: it owns the batch that is being filled and the present span.
func (p *Publisher) collect() {
	defer close(p.batches)
	var (
		batch []line
		size  int      // bytes of batch, and of over
		over  *Pending // did not fit into batch
		due   bool     // batch goes as soon as a sender is free
		rush  bool     // over does, too, once it is in a batch
	)
	linger := time.NewTimer(0)
	<-linger.C
	add := func(m *Pending) {
		if len(batch) == 0 {
			linger.Reset(p.cfg.Linger)
		}
		if size += len(m.line.body) + 1; len(batch) > 0 && size > p.cfg.BatchBytes {
			over, due = m, true
			return
		}
		batch = append(batch, m.line)
		due = due || len(batch) >= p.cfg.BatchMessages || size >= p.cfg.BatchBytes
	}
	present, closing := newSpan(nil), p.closing
	for closing != nil || len(batch) > 0 {
		in, flushes, out := p.in, p.flushes, p.batches
		if len(batch) >= p.cfg.BatchMessages || size >= p.cfg.BatchBytes {
			in = nil
		}
		if closing == nil {
			in, flushes = nil, nil
		}
		if len(batch) == 0 || !due && closing != nil {
			out = nil
		}
		select {
		case m := <-in:
			m.span = present
			present.pending.Add(1)
			add(m)
		case reply := <-flushes:
			sealed := present
			present = newSpan(sealed)
			sealed.release() // its own hold
			due, rush = len(batch) > 0, over != nil
			reply <- sealed
		case out <- batch:
			batch, size, due = nil, 0, false
			if m := over; m != nil {
				over = nil
				add(m)
				due, rush = due || rush, false
			}
		case <-linger.C:
			due = len(batch) > 0
		case <-closing:
			closing = nil
		}
	}
}

// span is the messages that were enqueued between two flushes. It is done when all of them, and all before them, have
// their results. Holds keep it open: one for each message, one until the next flush, one of the span before.
type span struct {
	pending atomic.Int64 // holds
	next    *span        // set before the hold until the next flush is released
	done    chan struct{}

	mu       sync.Mutex
	messages int
	failed   failures
}

// newSpan begins a span behind another, if there is one.
func newSpan(before *span) *span {
	s := &span{done: make(chan struct{})}
	s.pending.Store(1)
	if before != nil {
		s.pending.Add(1)
		before.next = s
	}
	return s
}

// release gives a hold back.
func (s *span) release() {
	for ; s != nil && s.pending.Add(-1) == 0; s = s.next {
		close(s.done)
	}
}

// count adds the result of a message.
func (s *span) count(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.messages++
	s.failed.add(err)
}

func (s *span) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed.err(s.messages)
}
