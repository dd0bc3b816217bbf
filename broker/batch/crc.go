package batch

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CRC computes the checksum (CRC-32C) of a whole batch.
func CRC(b []byte) uint32 { return crc32.Checksum(b[atAttributes:], castagnoli) }

// Verify compares the checksum of a whole batch with the stored one. The error
// is ErrCorrupt.
func Verify(b []byte) error {
	if stored, computed := binary.BigEndian.Uint32(b[atCRC:]), CRC(b); stored != computed {
		return fmt.Errorf("%w: checksum %08x, stored %08x", ErrCorrupt, computed, stored)
	}
	return nil
}

// Polynomials over GF(2) modulo the Castagnoli polynomial, reflected: bit 31
// is the coefficient of x^0. Appending n zero bytes to a message multiplies
// its remainder by x^(8n).
const (
	one        = uint32(1) << 31
	polynomial = crc32.Castagnoli
)

// shiftOf[k] is x^(8·2^k): the effect of 2^k zero bytes.
var shiftOf = func() (shifts [31]uint32) {
	shifts[0] = one >> 8
	for k := 1; k < len(shifts); k++ {
		shifts[k] = multiply(shifts[k-1], shifts[k-1])
	}
	return shifts
}()

// difference is what the checksum changes by when the bits set in delta are
// flipped and after more bytes follow. It takes O(len(delta) + log after).
func difference(delta []byte, after int) uint32 {
	r := uint32(0)
	for _, d := range delta {
		r = castagnoli[byte(r)^d] ^ r>>8
	}
	for k := 0; after > 0 && r != 0; k, after = k+1, after>>1 {
		if after&1 != 0 {
			r = multiply(r, shiftOf[k])
		}
	}
	return r
}

// multiply two polynomials.
func multiply(a, b uint32) uint32 {
	product := uint32(0)
	for ; a != 0; a <<= 1 {
		if a&one != 0 {
			product ^= b
		}
		// b · x: the highest power, bit 0, wraps around by the polynomial.
		b = b>>1 ^ polynomial&-(b&1)
	}
	return product
}
