package batch_test

import (
	"fmt"
	"testing"

	"spillway/broker/batch"
)

// BenchmarkSetProducer shows invariant A: the same for every size.
func BenchmarkSetProducer(b *testing.B) {
	for _, size := range []int{100, 16 << 10, 1 << 20, 16 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			set, err := batch.Rebuild(batch.Header{}, []batch.Record{{Value: make([]byte, size)}}, batch.None)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for i := int32(0); b.Loop(); i++ {
				batch.SetProducer(set, int64(i)<<30, 0, i)
			}
		})
	}
}
