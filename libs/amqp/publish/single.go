package publish

import (
	"context"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
)

// Single sends m on a channel of its own and returns nil once the broker has taken responsibility for it. It is for single, large
// messages, whose confirmation may take longer than a [Publisher] waits for any; the time limit is that of ctx. The errors are as of
// [Publisher.Publish].
func Single(ctx context.Context, session *conn.Session, m Message) error {
	if err := check(&m); err != nil {
		return err
	}
	ch, err := session.Channel(ctx)
	if err != nil {
		return err
	}
	defer session.Spawn(func() { session.CloseChannel(ch, conn.RequestTimeout) })
	returned := ch.NotifyReturn(make(chan amqp.Return, 1))
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	stop := session.GiveUpAfter(conn.RequestTimeout, "confirm.select")
	err = ch.Confirm(false)
	stop()
	if err != nil {
		return fmt.Errorf("publish to %s: %w: %w", m.Exchange, conn.ErrUnavailable, err)
	}
	confirmation, err := ch.PublishWithDeferredConfirmWithContext(ctx, m.Exchange, m.Key, true, false, m.Publishing)
	if err != nil {
		return fmt.Errorf("publish to %s: %w: %w", m.Exchange, conn.ErrUnavailable, err)
	}
	select {
	case <-confirmation.Done():
	case <-ctx.Done():
		return fmt.Errorf("publish to %s: %w: %w", m.Exchange, ErrUnconfirmed, ctx.Err())
	}
	switch {
	case !confirmation.Acked() && ch.IsClosed(): // that gives up the confirmation, too
		var cause error = amqp.ErrClosed
		if reason := <-closed; reason != nil {
			cause = reason
		}
		if missingExchange(cause, m.Exchange) {
			return fmt.Errorf("publish to %s: %w: %w", m.Exchange, ErrUnroutable, cause)
		}
		return fmt.Errorf("publish to %s: %w: %w", m.Exchange, conn.ErrUnavailable, cause)
	case !confirmation.Acked():
		return fmt.Errorf("publish to %s: %w", m.Exchange, ErrRejected)
	}
	select {
	case r := <-returned: // it comes before the confirmation
		return fmt.Errorf("publish to %s: %w: %s", m.Exchange, ErrUnroutable, r.ReplyText)
	default:
		return nil
	}
}
