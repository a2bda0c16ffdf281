package telemetry

import "time"

// SetTimeouts shortens the time that a client may take.
func (o *Ops) SetTimeouts(d time.Duration) {
	o.server.ReadHeaderTimeout, o.server.ReadTimeout, o.server.WriteTimeout, o.server.IdleTimeout = d, d, d, d
}
