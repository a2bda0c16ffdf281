package rest

import "time"

// SetDrain shortens the time that Run waits for requests in flight.
func (s *Server) SetDrain(d time.Duration) { s.drain = d }

// Unpack decompresses a body that is gzip or zstd.
func Unpack(body []byte, zstandard bool, limit int) ([]byte, error) {
	u := newUnpacker(limit)
	if zstandard {
		return u.unzstd(body, limit)
	}
	return u.gunzip(body, limit)
}
