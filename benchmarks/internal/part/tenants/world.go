package tenants

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

// removeTimeout bounds the removal of a world; ten thousand queues take the broker a while.
const removeTimeout = 5 * time.Minute

// world is a platform of its own on the servers of the rig.
type world struct {
	plan
	rig      *rig.Rig // of the whole run
	own      *rig.Rig // the same servers with our services, to ask what processes use
	stack    *stack.Stack
	operator *client.Client
	database *pgxpool.Pool // of an operator
	amqpURL  string
	nats     *backing.Services
	name     string // of the database and of the virtual host

	tenants []uuid.UUID // that were created
}

func newWorld(ctx context.Context, r *rig.Rig, p plan) (w *world, err error) {
	w = &world{plan: p, rig: r, name: "bench_" + p.queueType + "_" + uuid.NewString()[:8]}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.stop(context.WithoutCancel(ctx)))
		}
	}()
	options := stack.Options{}
	if options.DatabaseURL, err = w.makeDatabase(ctx); err != nil {
		return nil, err
	}
	if options.RabbitMQURL, err = w.makeVHost(ctx); err != nil {
		return nil, err
	}
	w.amqpURL = options.RabbitMQURL
	// Buckets have fixed names, so two platforms cannot share a NATS server, and one in the environment may be shared.
	w.nats, err = backing.Start(ctx, backing.Options{
		Services: []backing.Name{backing.ServiceNATS}, Mode: backing.ModeNative, Durable: true, Log: func(string) {},
	})
	if err != nil {
		return nil, fmt.Errorf("start NATS: %w", err)
	}
	options.NATSURL = w.nats.NATSURL
	ingest := map[string]string{"INGEST_QUEUE_TYPE": p.queueType}
	if p.connections > 0 {
		ingest["RABBITMQ_CONNECTIONS"] = strconv.Itoa(p.connections)
	} else {
		w.connections = conn.Default().Connections
	}
	options.ServiceEnv = map[string]map[string]string{stack.IngestService: ingest}
	if w.stack, err = stack.New(ctx, options); err != nil {
		return nil, fmt.Errorf("start the services: %w", err)
	}
	w.own = &rig.Rig{Backing: r.Backing, Stack: w.stack}
	if w.operator, err = rig.Operator(w.stack, requests); err != nil {
		return nil, err
	}
	return w, nil
}

func (w *world) makeDatabase(ctx context.Context) (address string, err error) {
	if _, err := w.rig.Database.Exec(ctx, `CREATE DATABASE `+pgx.Identifier{w.name}.Sanitize()); err != nil {
		return "", fmt.Errorf("make a database: %w", err)
	}
	parsed, err := url.Parse(w.rig.Backing.DatabaseURL)
	if err != nil {
		return "", fmt.Errorf("parse the address of the database: %w", err)
	}
	parsed.Path = "/" + w.name
	config, err := pgxpool.ParseConfig(parsed.String())
	if err != nil {
		return "", fmt.Errorf("parse the address of the database: %w", err)
	}
	config.MaxConns = inFlight
	if w.database, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return "", fmt.Errorf("open the database: %w", err)
	}
	return parsed.String(), nil
}

func (w *world) makeVHost(ctx context.Context) (address string, err error) {
	parsed, err := url.Parse(w.rig.Backing.RabbitMQURL)
	if err != nil || parsed.User == nil {
		return "", errors.New("the address of RabbitMQ has no login")
	}
	if err := w.manage(ctx, http.MethodPut, "/api/vhosts/"+w.name, "{}"); err != nil {
		return "", err
	}
	permissions := "/api/permissions/" + w.name + "/" + url.PathEscape(parsed.User.Username())
	if err := w.manage(ctx, http.MethodPut, permissions, `{"configure":".*","write":".*","read":".*"}`); err != nil {
		return "", err
	}
	parsed.Path = "/" + w.name
	return parsed.String(), nil
}

// manage makes a request to the management API of RabbitMQ.
func (w *world) manage(ctx context.Context, method, path, body string) error {
	base, err := url.Parse(w.rig.Backing.RabbitMQManagementURL)
	if err != nil || base.Host == "" {
		return errors.New("the management API of RabbitMQ is needed, for a virtual host: set RABBITMQ_MANAGEMENT_URL")
	}
	got, err := raw.Do(ctx, http.DefaultTransport, raw.Request{
		Method: method, URL: strings.TrimSuffix(base.String(), "/") + path, ContentType: "application/json", Body: []byte(body),
	})
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if got.Status >= http.StatusMultipleChoices {
		return fmt.Errorf("%s %s: %w", method, path, refusal(got.Status))
	}
	return nil
}

// refusal is a status other than of success.
type refusal int

func (r refusal) Error() string { return fmt.Sprintf("status %d", int(r)) }

// stop ends the services and NATS. It may be called on a world that was only half made.
func (w *world) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	var errs []error
	if w.stack != nil {
		errs = append(errs, w.stack.Close(ctx))
	}
	if w.nats != nil {
		errs = append(errs, w.nats.Stop(ctx))
	}
	if w.database != nil {
		w.database.Close()
	}
	return errors.Join(errs...)
}

// remove removes the queues and the partitions of a world that was stopped: the next measurement is not to feel them.
func (w *world) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	err := w.removeVHost(ctx)
	if _, failed := w.rig.Database.Exec(ctx, `DROP DATABASE `+pgx.Identifier{w.name}.Sanitize()+` WITH (FORCE)`); failed != nil {
		err = errors.Join(err, fmt.Errorf("drop the database: %w", failed))
	}
	return err
}

// removePause is between two requests to remove a virtual host.
const removePause = time.Second

// removeVHost asks until the virtual host is gone. RabbitMQ breaks off a request that takes it more than a minute, and with
// it the removal of thousands of queues.
func (w *world) removeVHost(ctx context.Context) error {
	for {
		err := w.manage(ctx, http.MethodDelete, "/api/vhosts/"+w.name, "")
		status, refused := errors.AsType[refusal](err)
		switch {
		case err == nil, status == http.StatusNotFound:
			return nil
		case refused:
			return err
		}
		if retry.Sleep(ctx, removePause) != nil {
			return err
		}
	}
}
