package rate

import (
	"context"

	"github.com/srireskianita/multi-tenant-messaging/libs/control"
)

// OverNATS carries requests over the connection of the control channel, outside of JetStream, each instance on the subject that is
// its own: what is lost there is asked for again.
func OverNATS(conn *control.Conn, subject func(instance string) string) Transport {
	return overNATS{conn, subject}
}

type overNATS struct {
	*control.Conn

	subject func(instance string) string
}

// Request is that of [Transport].
func (n overNATS) Request(ctx context.Context, instance string, request []byte) ([]byte, error) {
	return n.Conn.Request(ctx, n.subject(instance), request)
}

// Serve is that of [Transport].
func (n overNATS) Serve(instance string, answer func(request []byte) []byte) (stop func(), err error) {
	return n.Conn.Serve(n.subject(instance), answer)
}
