package backing

import (
	"context"
	"errors"
	"slices"

	"github.com/srireskianita/multi-tenant-messaging/testkit/internal/agent"
)

// Set is what [Postgres], [RabbitMQ] and [NATS] give to one test, for several of them.
type Set struct {
	DatabaseURL, NATSURL string
	Broker               Broker

	release []func(context.Context) error
}

// NewSet makes a set. [Set.Release] removes it.
func NewSet(ctx context.Context) (_ *Set, err error) {
	s := &Set{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Release(context.WithoutCancel(ctx)))
		}
	}()
	postgres, err := shared.server(ServicePostgres, nil) //nolint:contextcheck // it outlives whoever asks first
	if err != nil {
		return nil, err
	}
	database, err := postgres.template.clone(ctx, postgres.services.DatabaseURL)
	if err != nil {
		return nil, err
	}
	s.DatabaseURL, s.release = database.url, append(s.release, database.drop)
	rabbitmq, err := shared.server(ServiceRabbitMQ, nil) //nolint:contextcheck // likewise
	if err != nil {
		return nil, err
	}
	if s.Broker, err = newVHost(ctx, rabbitmq.services); err != nil {
		return nil, err
	}
	s.release = append(s.release, s.Broker.remove)
	return s, s.startNATS(ctx)
}

// startNATS starts the server that [NATS] would.
func (s *Set) startNATS(ctx context.Context) error {
	mode, err := ModeFromEnv()
	if err != nil {
		return err
	}
	if mode == ModeDocker {
		services, err := StartOwn(ctx, Options{Services: []Name{ServiceNATS}})
		if err != nil {
			return err
		}
		s.NATSURL, s.release = services.NATSURL, append(s.release, services.Stop)
		return nil
	}
	scratch, err := NewScratch(ctx)
	if err != nil {
		return err
	}
	s.release = append(s.release, scratch.Remove)
	lease, reply, err := agent.Hold(ctx, scratch.socket, agent.Request{Do: agent.StartNATS, Data: scratch.Dir}, nil)
	if err != nil {
		return err
	}
	s.NATSURL, s.release = reply.URL, append(s.release, lease.Release)
	return nil
}

// Release removes the set.
func (s *Set) Release(ctx context.Context) error {
	var failed error
	for _, release := range slices.Backward(s.release) {
		failed = errors.Join(failed, release(ctx))
	}
	s.release = nil
	return failed
}
