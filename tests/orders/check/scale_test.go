package check_test

import (
	"fmt"
	"iter"
	"testing"

	"spillway/tests/orders/check"
	"spillway/tests/orders/history"
)

// million makes a history of n records of three producers, read by one reader,
// and the logs of two sites, without ever holding the events.
func million(n int64) (iter.Seq2[history.Event, error], []*check.Site) {
	sites := []*check.Site{{Name: "east", Logs: map[check.Partition]*check.Log{}}, {Name: "west", Logs: map[check.Partition]*check.Log{}}}
	id := func(i int64) history.ID {
		return history.ID{Producer: fmt.Sprintf("p%d", i%3), Topic: "orders", Partition: int32(i / 3 % 8), Counter: i / 24}
	}
	for _, s := range sites {
		for i := range n {
			p := check.Partition{Topic: "orders", Index: id(i).Partition}
			if s.Logs[p] == nil {
				s.Logs[p] = &check.Log{}
			}
			log := s.Logs[p]
			log.Records = append(log.Records, check.Record{Offset: log.End, ID: id(i), Digest: 1})
			log.End++
		}
	}
	return func(yield func(history.Event, error) bool) {
		for _, p := range []string{"p0", "p1", "p2"} {
			yield(history.Event{Time: 1, Kind: history.Start, Client: p, Role: history.Producer, Idempotent: true}, nil)
		}
		yield(history.Event{Time: 1, Kind: history.Start, Client: "r", Role: history.Assigned}, nil)
		at := map[int32]int64{}
		for i := range n {
			x := id(i)
			v := at[x.Partition]
			at[x.Partition]++
			for _, e := range []history.Event{
				{Time: i + 2, Kind: history.Invoke, Client: x.Producer, Payload: x},
				{Time: i + 3, Kind: history.Ack, Client: x.Producer, Payload: x, Offset: v},
				{Time: i + 4, Kind: history.Consume, Client: "r", Topic: x.Topic, Partition: x.Partition, Offset: v, Payload: x},
			} {
				if !yield(e, nil) {
					return
				}
			}
		}
		yield(history.Event{Time: n + 5, Kind: history.Stop, Client: "r", Drained: true}, nil)
	}, sites
}

func BenchmarkCheckOfAMillion(b *testing.B) {
	for range b.N {
		events, sites := million(1_000_000)
		r, err := check.Run(events, sites, check.Expect{Home: "west"})
		if err != nil || !r.OK {
			b.Fatal(err, r.Text())
		}
	}
}

func TestLargeHistoryIsClean(t *testing.T) {
	events, sites := million(60_000)
	r, err := check.Run(events, sites, check.Expect{Home: "west"})
	if err != nil || !r.OK {
		t.Fatal(err, r.Text())
	}
}
