package adopt

import (
	"encoding/binary"
	"testing"
)

// numbers is a log of n different records, of which every tenth has an aborted one before it.
type numbers struct {
	next, n int64
	aborted bool
	target  bool
}

func (l *numbers) Next() (r Record, ok bool, err error) {
	if l.next == l.n {
		return r, false, nil
	}
	r.Offset = l.next
	l.next++
	binary.BigEndian.PutUint64(r.Digest[:], uint64(r.Offset)*0x9e3779b97f4a7c15)
	r.Aborted = !l.target && l.aborted && r.Offset%10 == 0
	return r, true, nil
}

func BenchmarkMatch(b *testing.B) {
	for name, aborted := range map[string]bool{"plain": false, "aborted": true} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			ranges := 0
			if _, err := Match(DefaultLimits(), &numbers{n: int64(b.N), aborted: aborted}, &numbers{n: int64(b.N), target: true}, func(Range) { ranges++ }); err != nil {
				b.Fatal(err)
			}
		})
	}
}
