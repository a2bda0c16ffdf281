package store

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres/sqlstate"
)

// socketBuffer is what can be written to a socket, with any usual settings, while nobody reads at its other end.
const socketBuffer = 64 << 10

// exchange sends requests of the simple query protocol in one write, and reads until the server is ready for the next one.
// All queries in one request are one transaction. copied is how many times COPY was done before there was an error, if any.
// After an error that does not come from the server the connection is closed.
//
// pgx copies in another way: it asks, waits until the server says that it expects rows, and has them sent by a goroutine.
// For one message that is three writes and a round trip more. That rows may follow the request at once, and are passed
// over should the COPY be refused, is in the PostgreSQL documentation, "Message Flow", "COPY Operations".
func exchange(ctx context.Context, connection *pgconn.PgConn, requests []byte) (copied int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	// Reading and writing end with a deadline in the past. To set it fails only on a socket that is closed: both have ended then.
	stop := context.AfterFunc(ctx, func() { _ = connection.Conn().SetDeadline(time.Unix(1, 0)) })
	written := make(chan error, 1)
	send := func() {
		_, err := connection.Conn().Write(requests)
		written <- err
	}
	if len(requests) <= socketBuffer {
		send()
	} else {
		// A server that has much to say, such as the notices of a trigger, reads on once somebody listens.
		go send()
	}
	reading := context.WithoutCancel(ctx) // the deadline is enough, and pgx would watch it anew for every message
	copied, err = await(reading, connection)
	answered := err == nil || sqlstate.Of(err) != ""
	if !answered {
		cancelRequest(reading, connection) // which ends the writing as well
	}
	unwritten := <-written
	interrupted := !stop()
	if interrupted || unwritten != nil {
		cancelRequest(reading, connection)
	}
	if interrupted && !answered {
		return copied, ctx.Err()
	}
	return copied, err
}

// await reads the answer to one request to its end. An error of the server comes first.
func await(ctx context.Context, connection *pgconn.PgConn) (copied int, err error) {
	for {
		message, broken := connection.ReceiveMessage(ctx)
		if broken != nil {
			return copied, errors.Join(err, broken)
		}
		switch message := message.(type) {
		case *pgproto3.CommandComplete:
			if bytes.HasPrefix(message.CommandTag, []byte("COPY")) {
				copied++
			}
		case *pgproto3.ErrorResponse:
			err = pgconn.ErrorResponseToPgError(message)
		case *pgproto3.ReadyForQuery:
			return copied, err
		}
	}
}

// cancelRequest closes a connection in the middle of a request and has the server cancel that: closing the socket below pgx
// makes its next read fail, and it does the rest. What has been received before is read first.
func cancelRequest(ctx context.Context, connection *pgconn.PgConn) {
	socket := connection.Conn()
	if secured, ok := socket.(*tls.Conn); ok {
		socket = secured.NetConn() // TLS says goodbye first, and gives a frozen server five seconds for it
	}
	_ = socket.Close() // what closing says changes nothing: the connection is given up
	for {
		if _, err := connection.ReceiveMessage(ctx); err != nil {
			return
		}
	}
}
