package rest

import "time"

// SetDrain shortens the time that Run waits for requests in flight.
func (s *Server) SetDrain(d time.Duration) { s.drain = d }
