package fault

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

const (
	// latency is enough to be felt by everything that takes several round trips, and far below every timeout.
	latency = 150 * time.Millisecond
	jitter  = 50 * time.Millisecond
	// bandwidth is in kB/s: a tenth of what the load of a run needs.
	bandwidth = 32
	// queueAge is how long a queue must have existed when RabbitMQ is killed. It keeps the names of quorum queues in a file
	// that it writes half a second later (names.dets of Ra, auto_save 500 ms); a queue that is not in it when the broker
	// starts again becomes a new, empty one that never elects a leader ("configured member … was not found on this node"),
	// and basic.consume on it is never answered. No client can heal that, so a run does not provoke it.
	queueAge = 2 * time.Second
)

// inject brings a fault about, keeps it up, and undoes it. The fault is over when it returns: the server answers again, the
// process has been started again, the network is as it was.
func (r *run) inject(ctx context.Context, event Event, result *Result) error {
	switch event.Kind {
	case KillTenantService, KillIngestService, KillQueryService:
		return r.kill(ctx, event)
	case TermTenantService, TermIngestService, TermQueryService:
		return r.term(ctx, event)
	case KillRabbitMQ:
		return r.restart(ctx, event, backing.ServiceRabbitMQ)
	case CloseAMQPConnections:
		return bounded(ctx, actTimeout, func(ctx context.Context) error {
			return closeConnections(ctx, r.platform.Backing.RabbitMQManagementURL)
		})
	case StopPostgresImmediate:
		return r.restart(ctx, event, backing.ServicePostgres)
	case FreezePostgres:
		return r.freeze(ctx, event)
	case TerminateBackends:
		return bounded(ctx, actTimeout, r.terminateBackends)
	case KillNATS, WipeNATS:
		return r.restart(ctx, event, backing.ServiceNATS)
	case ChannelDisagrees:
		return bounded(ctx, actTimeout, r.disagree)
	case Latency, Bandwidth, HalfOpen, Cut:
		return r.network(ctx, event)
	case ResizeStorm:
		return bounded(ctx, churnTimeout, r.churn.ResizeStorm)
	case TenantChurn:
		return bounded(ctx, churnTimeout, func(ctx context.Context) (err error) {
			result.Created, err = r.churn.CreateUseDelete(ctx)
			return err
		})
	case SuspendResume:
		return bounded(ctx, churnTimeout, r.churn.SuspendResume)
	case DeletedTenantInRetry:
		return bounded(ctx, churnTimeout, r.churn.DeletedTenantInRetry)
	case ForeignTransaction:
		return r.foreignTransaction(ctx, event)
	default:
		return errors.New("nobody knows this kind of fault")
	}
}

func bounded(ctx context.Context, timeout time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return do(ctx)
}

// undo is bounded, also when ctx has ended: what a fault has taken away has to come back.
func undo(ctx context.Context, do func(context.Context) error) error {
	return bounded(context.WithoutCancel(ctx), undoTimeout, do)
}

func (r *run) serviceOf(kind Kind) *stack.Service {
	for _, service := range r.platform.Services() {
		if service.Name == kind.service() {
			return service
		}
	}
	return nil
}

// kill ends a service as a crash does, and starts it again. That it gets ready is part of the recovery.
func (r *run) kill(ctx context.Context, event Event) error {
	service := r.serviceOf(event.Kind)
	if !service.Running() {
		return errors.Join(errors.New("the service had ended without being told to"), service.Launch())
	}
	if err := undo(ctx, service.Kill); err != nil { // which leaves nothing half done when ctx ends
		return err
	}
	return errors.Join(retry.Sleep(ctx, event.Lasts), service.Launch())
}

// term asks a service to end, demands that it ends with 0, and starts it again.
func (r *run) term(ctx context.Context, event Event) error {
	service := r.serviceOf(event.Kind)
	if !service.Running() {
		return errors.Join(errors.New("the service had ended without being told to"), service.Launch())
	}
	// One that has only just been started does not hear signals yet, and would end as if it had been killed.
	if err := bounded(ctx, undoTimeout, func(ctx context.Context) error { return answers(ctx, service) }); err != nil {
		return err
	}
	status := 0
	err := undo(ctx, func(ctx context.Context) (err error) {
		status, err = service.Term(ctx)
		return err
	})
	if err == nil && status != 0 {
		err = fmt.Errorf("the service ended with %d rather than 0", status)
	}
	if service.Running() { // it could not even be killed
		return err
	}
	return errors.Join(err, retry.Sleep(ctx, event.Lasts), service.Launch())
}

// answers returns when a service answers at all, ready or not.
func answers(ctx context.Context, service *stack.Service) error {
	address := strings.TrimPrefix(service.OpsURL, "http://")
	for {
		connection, err := (&net.Dialer{Timeout: readyTimeout}).DialContext(ctx, "tcp", address)
		if err == nil {
			return connection.Close()
		}
		if retry.Sleep(ctx, recoveryPoll) != nil {
			return fmt.Errorf("it does not listen: %w", err)
		}
	}
}

// restart takes a server away and starts it again.
func (r *run) restart(ctx context.Context, event Event, name backing.Name) error {
	server := r.platform.Backing.Process(name)
	end := server.Kill
	switch event.Kind {
	case KillRabbitMQ:
		// Nothing that makes queues is in force beside this one, see needs.
		if err := retry.Sleep(ctx, queueAge); err != nil {
			return err
		}
	case StopPostgresImmediate:
		end = func(ctx context.Context) error { return stopImmediately(ctx, server) }
	case WipeNATS:
		end = server.Wipe
	default: // killed
	}
	err := bounded(ctx, actTimeout, end)
	if err == nil {
		err = retry.Sleep(ctx, event.Lasts)
	}
	return errors.Join(err, undo(ctx, server.Start))
}

// stopImmediately is PostgreSQL's "immediate" shutdown: no checkpoint, no goodbye to its clients, recovery at the next
// start.
func stopImmediately(ctx context.Context, server *backing.Process) error {
	if err := server.Signal(ctx, syscall.SIGQUIT); err != nil {
		return err
	}
	for {
		running, err := server.Running(ctx)
		if err != nil || !running {
			return err
		}
		if err := retry.Sleep(ctx, recoveryPoll); err != nil {
			return fmt.Errorf("wait for its end: %w", err)
		}
	}
}

// freeze stops all processes of PostgreSQL where they are. Their connections stay open.
func (r *run) freeze(ctx context.Context, event Event) error {
	server := r.platform.Backing.Process(backing.ServicePostgres)
	err := bounded(ctx, actTimeout, server.Pause)
	if err == nil {
		err = retry.Sleep(ctx, event.Lasts)
	}
	return errors.Join(err, undo(ctx, server.Resume))
}

// terminateBackends ends every connection to PostgreSQL but its own.
func (r *run) terminateBackends(ctx context.Context) error {
	operator, err := pgx.Connect(ctx, r.platform.Backing.DatabaseURL)
	if err != nil {
		return fmt.Errorf("connect as operator: %w", err)
	}
	defer disconnect(ctx, operator)
	for {
		ended := 0
		err = operator.QueryRow(ctx, `
			SELECT count(*) FILTER (WHERE pg_terminate_backend(pid))
			FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()`).Scan(&ended)
		if err != nil {
			return fmt.Errorf("terminate backends: %w", err)
		}
		if ended > 0 {
			return nil
		}
		if err := retry.Sleep(ctx, recoveryPoll); err != nil { // the services may be about to come back
			return fmt.Errorf("nobody is connected to the database: %w", err)
		}
	}
}

// foreignTransaction keeps a transaction with a transaction id open in another database of the cluster. Readers cannot
// pass it while it lasts, wherever it is: they must wait for it, and must not skip what was written meanwhile.
func (r *run) foreignTransaction(ctx context.Context, event Event) error {
	config, err := pgx.ParseConfig(r.platform.Backing.DatabaseURL)
	if err != nil {
		return fmt.Errorf("read the address of the database: %w", err)
	}
	config.Database = "postgres"
	var foreign *pgx.Conn
	err = bounded(ctx, actTimeout, func(ctx context.Context) error {
		if foreign, err = pgx.ConnectConfig(ctx, config); err != nil {
			return fmt.Errorf("connect to the other database: %w", err)
		}
		_, err = foreign.Exec(ctx, "BEGIN; SELECT pg_current_xact_id()")
		return err
	})
	if foreign == nil {
		return err
	}
	if err == nil {
		err = retry.Sleep(ctx, event.Lasts)
	}
	// Ends the transaction, too.
	return errors.Join(err, bounded(context.WithoutCancel(ctx), actTimeout, foreign.Close))
}

// disconnect closes a connection whose work is done.
func disconnect(ctx context.Context, connection *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyTimeout)
	defer cancel()
	_ = connection.Close(ctx) // the server ends it otherwise
}

// network disturbs the connections between the services and one server.
func (r *run) network(ctx context.Context, event Event) error {
	name := event.server()
	err := bounded(ctx, actTimeout, func(ctx context.Context) error {
		switch event.Kind {
		case Latency:
			return r.platform.Delay(ctx, name, latency, jitter)
		case Bandwidth:
			return r.platform.Throttle(ctx, name, bandwidth)
		case HalfOpen:
			return r.platform.HalfOpen(ctx, name)
		default:
			return r.platform.Cut(ctx, name)
		}
	})
	if err == nil {
		err = retry.Sleep(ctx, event.Lasts)
	}
	return errors.Join(err, undo(ctx, func(ctx context.Context) error { return r.platform.Heal(ctx, name) }))
}
