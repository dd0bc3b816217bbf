package mirror

import (
	"testing"
	"time"

	"spillway"
	"spillway/broker/batch"
)

// A range may be a million transactions of one producer.
func TestWhatBecameOfATransactionIsFoundAtOnce(t *testing.T) {
	const transactions = 1 << 20
	m := make(markers)
	for n := range int64(transactions) {
		m[7] = append(m[7], marker{spillway.LocalOffset(2*n + 1), n%3 == 0})
	}
	began := time.Now()
	for n := range int64(transactions) {
		if got, want := m.committed(batch.Header{ProducerID: 7, BaseOffset: 2 * n}), n%3 != 0; got != want {
			t.Fatalf("transaction %d: committed %t", n, got)
		}
		if n%1024 == 0 && time.Since(began) > time.Minute { // one by one they take an hour
			t.Fatalf("%d of %d after %s", n, transactions, time.Since(began))
		}
	}
	for _, h := range []batch.Header{{ProducerID: 7, BaseOffset: 2 * transactions}, {ProducerID: 8}} {
		if m.committed(h) {
			t.Errorf("%+v has no end, and counts", h)
		}
	}
}
