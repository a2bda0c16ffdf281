package rate

import (
	"context"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
)

// OverNATS carries requests over the connection of the control channel, outside of JetStream: what is lost there is asked for again.
func OverNATS(conn *control.Conn) Transport { return overNATS{conn} }

type overNATS struct{ *control.Conn }

// Request is that of [Transport].
func (n overNATS) Request(ctx context.Context, instance string, request []byte) ([]byte, error) {
	return n.Conn.Request(ctx, contract.RateSubject(instance), request)
}

// Serve is that of [Transport].
func (n overNATS) Serve(instance string, answer func(request []byte) []byte) (stop func(), err error) {
	return n.Conn.Serve(contract.RateSubject(instance), answer)
}
