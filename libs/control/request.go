package control

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
)

// Connected is false while no request can succeed.
func (c *Conn) Connected() bool { return c.nc.IsConnected() }

// Request sends a request to whoever serves subject, and returns the answer. It is sent once, outside of any bucket, and fails at once
// while there is no connection or nobody serves the subject.
func (c *Conn) Request(ctx context.Context, subject string, request []byte) ([]byte, error) {
	answer, err := c.nc.RequestWithContext(ctx, subject, request)
	if err != nil {
		return nil, fmt.Errorf("request %s: %w", subject, err)
	}
	return answer.Data, nil
}

// Publish sends data to whoever serves subject, if anybody does. It fails at once while there is no connection.
func (c *Conn) Publish(subject string, data []byte) error {
	if err := c.nc.Publish(subject, data); err != nil {
		return fmt.Errorf("publish to %s: %w", subject, err)
	}
	return nil
}

// Serve answers requests to subject, one after the other, until stop is called, which waits for the one under way; a nil answer is not
// sent. It goes on after every reconnect.
func (c *Conn) Serve(subject string, answer func(request []byte) []byte) (stop func(), err error) {
	ended := make(chan struct{})
	serving, err := c.nc.Subscribe(subject, func(m *nats.Msg) {
		data := answer(m.Data)
		if data == nil {
			return
		}
		if err := m.Respond(data); err != nil {
			c.log.Debug("answer a request", zap.String("subject", subject), zap.Error(err))
		}
	})
	if err != nil {
		return nil, fmt.Errorf("serve %s: %w", subject, err)
	}
	serving.SetClosedHandler(func(string) { close(ended) })
	return func() {
		if serving.Unsubscribe() == nil { // else the connection is closed, and with it the subscription
			<-ended
		}
	}, nil
}
