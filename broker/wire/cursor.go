package wire

import (
	"encoding/binary"
	"fmt"
)

// Bounds for tagged fields (KIP-482). The sizes are for fields that are not
// known and can only be skipped; no client sends a tenth.
const (
	TagsMax          = 64        // in one place
	TagBytesMax      = 64 << 10  // of one field
	TagBytesTotalMax = 256 << 10 // of one message
)

// tagBudget counts over a whole message.
type tagBudget struct{ bytes int }

// cursor walks over bytes. After a fault it has nothing left, so every loop
// over it ends.
type cursor struct {
	rest []byte
	err  error
}

func (c *cursor) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
	}
	c.rest = nil
}

func (c *cursor) take(n int) []byte {
	if n < 0 || n > len(c.rest) {
		c.fail("%d bytes wanted, %d left", n, len(c.rest))
		return nil
	}
	b := c.rest[:n]
	c.rest = c.rest[n:]
	return b
}

func (c *cursor) int16() int16 {
	if b := c.take(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (c *cursor) int32() int32 {
	if b := c.take(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

// uvarint reads at most five bytes and 32 bits, as kmsg and Java do.
func (c *cursor) uvarint() uint32 {
	v := uint64(0)
	for i := range 5 {
		if i >= len(c.rest) {
			break
		}
		b := c.rest[i]
		v |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			if v > 1<<32-1 {
				break
			}
			c.rest = c.rest[i+1:]
			return uint32(v)
		}
	}
	c.fail("bad variable-length number")
	return 0
}

// tags walks over a section of tagged fields; known, if not nil, checks the
// body of a field whose structure is known and says so. Tags must ascend, so
// none is there twice.
func (c *cursor) tags(budget *tagBudget, known func(tag uint32, body *cursor) bool) {
	n := c.uvarint()
	if n > TagsMax {
		c.fail("%d tagged fields, at most %d", n, TagsMax)
	}
	last := int64(-1)
	for i := uint32(0); i < n && c.err == nil; i++ {
		tag, size := c.uvarint(), c.uvarint()
		if int64(tag) <= last {
			c.fail("tagged field %d after %d", tag, last)
		}
		last = int64(tag)
		body := cursor{rest: c.take(int(size))}
		if c.err != nil {
			return
		}
		if known != nil && known(tag, &body) {
			if body.err != nil {
				c.err, c.rest = body.err, nil
			}
			continue
		}
		budget.bytes += int(size)
		if size > TagBytesMax {
			c.fail("tagged field of %d bytes, at most %d", size, TagBytesMax)
		} else if budget.bytes > TagBytesTotalMax {
			c.fail("tagged fields of more than %d bytes together", TagBytesTotalMax)
		}
	}
}
