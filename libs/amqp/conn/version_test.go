package conn

import (
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
)

// A decision by the version must know that it is unknown, whatever the broker has sent.
func TestVersionIsThatOfTheBroker(t *testing.T) {
	for sent, version := range map[any]string{"4.0.5": "4.0.5", "": "", nil: "", int32(4): ""} {
		require.Equal(t, version, (&Session{conn: &amqp.Connection{Properties: amqp.Table{"version": sent}}}).Version())
	}
	require.Empty(t, (&Session{conn: &amqp.Connection{}}).Version(), "no properties at all")
}
