package sitelog

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/broker/embedded"
)

func TestSession(t *testing.T) {
	t.Parallel()
	c, err := embedded.Start(embedded.Config{Site: "east"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	sessionContract(t, c)
}

// sessionContract is what brokers do with a session.
func sessionContract(t *testing.T, cluster broker.Cluster) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(cluster.Admin().CreateTopic(ctx, "orders", 3, 1, nil))
	node, err := cluster.Leader(ctx, spillway.TopicPartition{Topic: "orders"})
	must(err)
	c, err := cluster.Dial(ctx, node)
	must(err)
	defer c.Close()
	write := func(partition int32) {
		t.Helper()
		b, err := batch.Rebuild(batch.Header{BaseTimestamp: time.Now().UnixMilli(), LeaderEpoch: -1, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, []batch.Record{{Value: []byte("order")}}, batch.None)
		must(err)
		answers, err := Produce(ctx, c, []ProducePart{{spillway.TopicPartition{Topic: "orders", Partition: partition}, b}}, 10*time.Second)
		must(err)
		must(answers[0].Err)
	}
	named, o := "orders", FetchOptions{MaxWait: 100 * time.Millisecond, BytesMax: 1 << 20}
	o.OnWire = func(string) (string, bool) { return "orders", named == "orders" }
	s, at := NewSession(c), map[int32]spillway.LocalOffset{0: 0, 1: 0, 2: 0}
	// ask fetches all of at, and returns which partitions were answered, with records as
	// they are and without as their negatives less one.
	ask := func() (answered []int32) {
		t.Helper()
		var parts []FetchPart
		for p, offset := range at {
			parts = append(parts, FetchPart{TopicPartition: spillway.TopicPartition{Topic: "shown", Partition: p}, Offset: offset, BytesMax: 1 << 20})
		}
		fetched, err := s.Fetch(ctx, parts, o)
		must(err)
		for _, f := range fetched {
			must(f.Err)
			if f.Topic != "shown" || f.Asked != at[f.Partition] {
				t.Errorf("an answer about %s at %d, which was asked for at %d", f.TopicPartition, f.Asked, at[f.Partition])
			}
			if len(f.Records) > 0 {
				answered = append(answered, f.Partition)
			} else {
				answered = append(answered, -f.Partition-1)
			}
		}
		slices.Sort(answered)
		return answered
	}
	expect := func(what string, want ...int32) {
		t.Helper()
		if got := ask(); !slices.Equal(got, want) {
			t.Errorf("%s: answers for %v, want %v", what, got, want)
		}
	}
	write(0)
	expect("the first request", -3, -2, 0)
	expect("the same again", 0)
	at[0] = 1
	expect("no news")
	write(1)
	expect("one has news", 1)
	at[1] = 1
	expect("it was taken")
	delete(at, 2)
	write(2)
	expect("one is left out that has news")
	at[2] = 0
	expect("it is asked for again", 2)
	at[2] = 1

	other := Session{conn: c, id: s.id}
	other.Forget()
	_, err = other.Fetch(ctx, []FetchPart{{TopicPartition: spillway.TopicPartition{Topic: "shown"}, BytesMax: 1 << 20}}, o)
	must(err)
	expect("the broker has forgotten the session", -3, -2, -1)
	expect("and knows it again")
	if !s.Remembers(spillway.TopicPartition{Topic: "shown", Partition: 2}) || s.Remembers(spillway.TopicPartition{Topic: "shown", Partition: 3}) {
		t.Error("the broker remembers what was asked for")
	}
	s.Forget()
	expect("all is told anew", -3, -2, -1)
	expect("and once only")

	s.epoch += 7
	expect("the broker counts otherwise", -3, -2, -1)
	expect("and goes on from there")

	former := &Session{conn: c, id: s.id, parts: map[spillway.TopicPartition]FetchPart{}, wire: map[string]string{}, names: map[string]string{}, epoch: 1}
	next, err := cluster.Dial(ctx, node)
	must(err)
	defer next.Close()
	s.Move(next)
	expect("over another connection", -3, -2, -1)
	expect("it is known there")
	if _, err := former.fetch(ctx, []FetchPart{{TopicPartition: spillway.TopicPartition{Topic: "shown"}, BytesMax: 1 << 20}}, o); !errors.Is(err, kerr.FetchSessionIDNotFound) {
		t.Errorf("the session over the former connection is there still: %v", err)
	}

	named = "other"
	fetched, err := s.Fetch(ctx, []FetchPart{{TopicPartition: spillway.TopicPartition{Topic: "shown"}, Offset: 1}}, o)
	must(err)
	if len(fetched) != 1 || !errors.Is(fetched[0].Err, kerr.UnknownTopicOrPartition) {
		t.Errorf("a topic that has no name there any more: %+v", fetched)
	}
	named = "orders"
	expect("it has one again", -3, -2, -1)
}

func TestSessionAsksForNoLess(t *testing.T) {
	had := FetchPart{Offset: 5, BytesMax: 1000, LastEpoch: 3, CheckEpoch: true}
	for _, test := range []struct {
		change func(*FetchPart)
		same   bool
	}{
		{func(*FetchPart) {}, true},
		{func(p *FetchPart) { p.BytesMax = 2000 }, true},
		{func(p *FetchPart) { p.BytesMax = 2002 }, false},
		{func(p *FetchPart) { p.BytesMax = 999 }, false},
		{func(p *FetchPart) { p.Offset++ }, false},
		{func(p *FetchPart) { p.LastEpoch++ }, false},
		{func(p *FetchPart) { p.CheckEpoch = false }, false},
	} {
		now := had
		test.change(&now)
		if had.same(now) != test.same {
			t.Errorf("%+v for %+v: %t", had, now, !test.same)
		}
	}
}
