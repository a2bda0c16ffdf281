package header

import (
	"encoding/binary"
	"math"
	"time"
)

// Cursor reads the values of AMQP 0-9-1 one after the other, without copying them. What it returns after it has met the end is
// zero; Failed says so.
type Cursor struct {
	// Left is what has not been read yet.
	Left   []byte
	Failed bool
}

// Bytes is the next n bytes, which are not copied.
func (c *Cursor) Bytes(n int) []byte {
	if n < 0 || n > len(c.Left) {
		c.Left, c.Failed = nil, true
		return nil
	}
	taken := c.Left[:n:n]
	c.Left = c.Left[n:]
	return taken
}

// Uint8 is the next value, an octet.
func (c *Cursor) Uint8() uint8 {
	if b := c.Bytes(1); b != nil {
		return b[0]
	}
	return 0
}

// Uint16 is the next value, a short integer.
func (c *Cursor) Uint16() uint16 {
	if b := c.Bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

// Uint32 is the next value, a long integer.
func (c *Cursor) Uint32() uint32 {
	if b := c.Bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// Uint64 is the next value, a long long integer.
func (c *Cursor) Uint64() uint64 {
	if b := c.Bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// Short is the next value, a short string: at most 255 bytes.
func (c *Cursor) Short() []byte { return c.Bytes(int(c.Uint8())) }

// Long is the next value, a long string or what else begins with a length of 32 bits.
func (c *Cursor) Long() []byte {
	n := c.Uint32()
	if n > math.MaxInt32 {
		c.Left, c.Failed = nil, true
		return nil
	}
	return c.Bytes(int(n))
}

func (c *Cursor) time() time.Time {
	return time.Unix(int64(c.Uint64()), 0)
}
