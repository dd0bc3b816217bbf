package batch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
)

// Starts of LZ4 frames: magic, flags, size of blocks, checksum of both.
var (
	independentFrame = []byte{0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82}
	dependentFrame   = []byte{0x04, 0x22, 0x4d, 0x18, 0x40, 0x40, 0xc0}
)

// frame is an LZ4 frame of one block.
func frame(start, block []byte, compressed bool) []byte {
	size := uint32(len(block))
	if !compressed {
		size |= 1 << 31
	}
	b := binary.LittleEndian.AppendUint32(bytes.Clone(start), size)
	return append(append(b, block...), 0, 0, 0, 0)
}

// A block of LZ4 that points to what lies before its payload is corrupt; it shows nothing
// of the payload that was read before.
func TestAnLZ4PayloadShowsNothingOfAnother(t *testing.T) {
	secret := bytes.Repeat([]byte("of another topic "), 30)
	// No literals, a match of 4+15+200 bytes from 400 back on, then five literals.
	thief := []byte{0x0f, 400 & 0xff, 400 >> 8, 200, 0x50, 'a', 'b', 'c', 'd', 'e'}
	first := frame(dependentFrame, secret, false)
	behindAnother := append(frame(independentFrame, []byte("first"), false), first...)
	for i, before := range [][]byte{first, behindAnother} {
		for j, start := range [][]byte{independentFrame, dependentFrame} {
			t.Run(fmt.Sprint(i, j), func(t *testing.T) {
				for range 10 { // a pool may have lost what it was given
					if out, err := decompress(LZ4, before, 1<<20); err != nil || !bytes.HasSuffix(out, secret) {
						t.Fatalf("%q, %v", out, err)
					}
					if out, err := decompress(LZ4, frame(start, thief, true), 1<<20); !errors.Is(err, ErrCorrupt) || len(out) > 0 {
						t.Fatalf("%q, %v", out, err)
					}
				}
			})
		}
	}
}
