package conn_test

import (
	"net/url"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// A password that is being changed, or a virtual host that is not there yet, is an outage like any other: the link continues
// trying, says why, and does not say the password.
func TestRefusedConnectionsAreTriedAgain(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	for name, change := range map[string]func(u *url.URL){
		"wrong password":  func(u *url.URL) { u.User = url.UserPassword(u.User.Username(), "topsecret") },
		"no virtual host": func(u *url.URL) { u.Path = "/nowhere" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u, err := url.Parse(broker.URL)
			require.NoError(t, err)
			change(u)
			var seen amqptest.Reports
			amqptest.StartLink(t, u.String(), seen.Add)
			require.Eventually(t, func() bool {
				n, _ := seen.Last()
				return n >= 3
			}, amqptest.WaitLimit, time.Millisecond, "it gives up")
			_, err = seen.Last()
			require.ErrorIs(t, err, conn.ErrUnavailable)
			require.NotContains(t, err.Error(), "topsecret")
			var refused *amqp.Error
			require.ErrorAs(t, err, &refused)
			require.Contains(t, []int{amqp.AccessRefused, amqp.NotAllowed}, refused.Code)
		})
	}
}
