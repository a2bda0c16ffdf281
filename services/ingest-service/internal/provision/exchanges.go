package provision

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

// ExchangesPage is how many tenants [ExchangesWanted] names at most.
const ExchangesPage = 1000

// ExchangesWanted names tenants that are to have an exchange of their own; store.Store does.
type ExchangesWanted interface {
	// ExchangesWanted are up to [ExchangesPage] tenants that have wanted one since within ago, behind the one given in the order of
	// their ids; all tenants that want one if within is 0.
	ExchangesWanted(ctx context.Context, behind uuid.UUID, within time.Duration) ([]uuid.UUID, error)
}

const (
	// exchangesPause is between two looks at which tenants want an exchange: a client waits for it.
	exchangesPause = time.Second
	// exchangesRecent is how far such a look goes back. What it misses, since a transaction has committed later than that, the next
	// look at all of them finds.
	exchangesRecent = time.Minute
	// exchangesInterval is how often all are verified.
	exchangesInterval = 5 * time.Minute
)

// Exchanges makes the exchanges of the tenants that want one, which are those that have had credentials, and verifies them on every
// new connection and every five minutes. All tenants would pay for it with as much time as all else that is made for them in the
// broker takes (docs/adr/0016-an-exchange-for-each-tenant.md). They are removed with the queue of their tenant.
//
// What is wanted is read from the database alone. Several instances may make the same exchange.
type Exchanges struct {
	topology *Topology
	wanted   ExchangesWanted
	ready    func(ctx context.Context, tenant uuid.UUID) bool
	log      *zap.Logger

	// Owned by the goroutine of Run.
	session  *conn.Session      // on which all were verified
	verified time.Time          // when
	failing  bool               // the last look has failed, which was logged
	made     map[uuid.UUID]bool // those wanted: made on session or not
}

// NewExchanges returns what makes exchanges on the connection of topology. ready reports whether the queue of a tenant is there and
// can be trusted (see [Topology.Bind]).
func NewExchanges(topology *Topology, wanted ExchangesWanted, ready func(ctx context.Context, tenant uuid.UUID) bool, log *zap.Logger) *Exchanges {
	return &Exchanges{topology: topology, wanted: wanted, ready: ready, log: log, made: make(map[uuid.UUID]bool)}
}

// Run makes and verifies exchanges until ctx ends. Whatever fails is tried again a second later.
func (e *Exchanges) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := e.look(ctx)
		if ctx.Err() == nil && (err != nil) != e.failing {
			e.failing = err != nil
			e.log.Info("exchanges of tenants", zap.NamedError("fault", err))
		}
		_ = retry.Sleep(ctx, exchangesPause) // the loop ends with ctx
	}
	return nil
}

// look finds out which tenants want an exchange and makes those that are missing.
func (e *Exchanges) look(ctx context.Context) error {
	declaring, cancel := context.WithTimeout(ctx, requestTimeout)
	session, err := e.topology.DeclareShared(declaring)
	cancel()
	if err != nil {
		return err
	}
	all := session != e.session || time.Since(e.verified) > exchangesInterval
	within := exchangesRecent
	if all {
		within = 0
	}
	if err := e.read(ctx, within, all); err != nil {
		return err
	}
	if all {
		e.session, e.verified = session, time.Now()
	}
	var failed error
	for tenant, made := range e.made {
		if made {
			continue
		}
		if err := e.declare(ctx, session, tenant); err != nil && failed == nil {
			failed = err
		}
	}
	return failed
}

// read notes the tenants that have wanted an exchange since within ago. all: those are all, and none is taken to be made.
func (e *Exchanges) read(ctx context.Context, within time.Duration, all bool) error {
	var found []uuid.UUID
	for behind := uuid.Nil; ; behind = found[len(found)-1] {
		page, err := e.wanted.ExchangesWanted(ctx, behind, within)
		if err != nil {
			return err
		}
		found = append(found, page...)
		if len(page) < ExchangesPage {
			break
		}
	}
	if all {
		e.made = make(map[uuid.UUID]bool, len(found))
	}
	for _, tenant := range found {
		if _, known := e.made[tenant]; !known {
			e.made[tenant] = false
		}
	}
	return nil
}

// declare makes the exchange of a tenant whose queue is there. One whose tenant is deleted meanwhile is taken away again.
func (e *Exchanges) declare(ctx context.Context, session *conn.Session, tenant uuid.UUID) error {
	if !e.ready(ctx, tenant) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	screened := Screened(e.topology.screen, session.Version())
	err := session.Do(ctx, func(ch *amqp.Channel) error { return DeclareTenantExchange(ch, tenant.String(), screened) })
	if isNotFound(err) { // the queue, or what all share
		e.topology.forgetShared(session)
	}
	if err == nil && !e.ready(ctx, tenant) {
		err = session.Do(ctx, func(ch *amqp.Channel) error { return DeleteTenantExchange(ch, tenant.String()) })
	}
	if err != nil {
		return fmt.Errorf("make the exchange of tenant %s: %w", tenant, err)
	}
	e.made[tenant] = true
	return nil
}
