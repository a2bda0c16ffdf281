package backing

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

func TestOwnServersAreNeverThoseOfTheEnvironment(t *testing.T) {
	// A chaos run kills its servers: never those that somebody has named for something else.
	t.Setenv("NATS_URL", "nats://somebody.else.example:4222")
	t.Setenv("BACKING", "external")
	_, err := StartOwn(t.Context(), Options{Services: []Name{ServiceNATS}})
	require.ErrorIs(t, err, ErrExternal)
	require.ErrorContains(t, err, "docker or native")

	eachOwnMode(t, func(t *testing.T, mode Mode) {
		t.Helper()
		services, err := StartOwn(t.Context(), Options{Services: []Name{ServiceNATS}})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, services.Stop(context.WithoutCancel(t.Context()))) })
		require.Equal(t, Source(mode), services.Process(ServiceNATS).Source())
	})
}

func TestAWipedServerStartsWithNothing(t *testing.T) {
	eachOwnMode(t, func(t *testing.T, _ Mode) {
		t.Helper()
		services := Dedicated(t, ServicePostgres, ServiceNATS)
		execute(t, services.DatabaseURL, "CREATE TABLE keep AS SELECT 'kept'::text AS value")
		put(t, services.NATSURL, "keep")
		before := services.Env()
		for _, name := range []Name{ServicePostgres, ServiceNATS} {
			p := services.Process(name)
			require.NoError(t, p.Wipe(t.Context()))
			running, err := p.Running(t.Context())
			require.NoError(t, err)
			require.False(t, running)
			require.NoError(t, p.Start(t.Context()))
		}
		require.Equal(t, before, services.Env(), "addresses and logins stay")
		require.False(t, query[bool](t, services.DatabaseURL, "SELECT to_regclass('keep') IS NOT NULL"))

		client, err := nats.Connect(services.NATSURL)
		require.NoError(t, err)
		defer client.Close()
		stream, err := jetstream.New(client)
		require.NoError(t, err)
		_, err = stream.KeyValue(t.Context(), "keep")
		require.ErrorIs(t, err, jetstream.ErrBucketNotFound)
	})
	require.ErrorIs(t, (&Process{}).Wipe(t.Context()), ErrExternal)
}

func TestAPausedServerIsStillOnOpenConnections(t *testing.T) {
	// What a frozen machine looks like: connections stay, nobody answers, and afterwards they go on.
	eachOwnMode(t, func(t *testing.T, _ Mode) {
		t.Helper()
		p := Dedicated(t, ServicePostgres).Process(ServicePostgres)
		idle, err := pgx.Connect(t.Context(), p.URL())
		require.NoError(t, err)
		defer func() { _ = idle.Close(context.WithoutCancel(t.Context())) }() // its server has been killed
		for range 5 {
			require.NoError(t, p.Pause(t.Context()))
			answered := make(chan error, 1)
			go func() {
				_, err := idle.Exec(t.Context(), "SELECT 1")
				answered <- err
			}()
			select {
			case err := <-answered:
				require.Fail(t, "a paused server has answered", "%v", err)
			case <-time.After(100 * time.Millisecond):
			}
			running, err := p.Running(t.Context())
			require.NoError(t, err)
			require.True(t, running)
			require.NoError(t, p.Resume(t.Context()))
			require.NoError(t, <-answered)
		}
		require.NoError(t, p.Pause(t.Context()))
		require.NoError(t, p.Kill(t.Context()), "a paused server can be killed")
		require.NoError(t, p.Start(t.Context()))
		require.Equal(t, 1, query[int](t, p.URL(), "SELECT 1"))
	})
}
