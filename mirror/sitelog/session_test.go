package sitelog

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/broker/embedded"
	"spillway/broker/kafka"
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
	const outOfRange = 100
	// ask fetches all of at, and returns which partitions were answered, with records as
	// they are, without as their negatives less one, and errors from outOfRange on.
	ask := func() (answered []int32) {
		t.Helper()
		var parts []FetchPart
		for p, offset := range at {
			parts = append(parts, FetchPart{TopicPartition: spillway.TopicPartition{Topic: "shown", Partition: p}, Offset: offset, BytesMax: 1 << 20})
		}
		fetched, err := s.Fetch(ctx, parts, o)
		must(err)
		for _, f := range fetched {
			if errors.Is(f.Err, kerr.OffsetOutOfRange) {
				answered = append(answered, outOfRange+f.Partition)
				continue
			}
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

	at[0] = 50
	expect("an offset that is not there", outOfRange)
	expect("that is said each time", outOfRange)
	at[0] = 1
	expect("one that is", -1)
	expect("that is said once")

	o.BytesMax = 1
	came := make(map[int32]bool)
	for p := range int32(3) {
		write(p)
	}
	for range 3 {
		for _, p := range ask() {
			if p >= 0 {
				came[p] = true
				at[p]++
			}
		}
	}
	if len(came) != 3 {
		t.Errorf("answers that are cut off brought records of %v", came)
	}
	o.BytesMax = 1 << 20
	ask() // it may be said once that all is there

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

// A session counts on behind answers of each kind, and says only what is new.
func TestASessionKeepsStep(t *testing.T) {
	t.Parallel()
	server, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "orders"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	cluster, err := kafka.New(kafka.Config{Site: "east", Bootstrap: server.ListenAddrs(), Capabilities: embedded.Capabilities(false)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cluster.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tp := spillway.TopicPartition{Topic: "orders"}
	node, err := cluster.Leader(ctx, tp)
	if err != nil {
		t.Fatal(err)
	}
	c, err := cluster.Dial(ctx, node)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	type request struct {
		id, epoch int32
		parts     int
	}
	type answer struct {
		id       int32
		pause    time.Duration
		about    bool // the partition
		code     int16
		diverged int64
	}
	var mu sync.Mutex
	var asked request
	var says answer
	server.ControlKey(int16(kmsg.Fetch), func(r kmsg.Request) (kmsg.Response, error, bool) {
		server.KeepControl()
		mu.Lock()
		defer mu.Unlock()
		req := r.(*kmsg.FetchRequest)
		asked = request{req.SessionID, req.SessionEpoch, len(req.Topics)}
		resp := req.ResponseKind().(*kmsg.FetchResponse)
		resp.SessionID, resp.ThrottleMillis = says.id, int32(says.pause.Milliseconds())
		if says.about {
			p := kmsg.NewFetchResponseTopicPartition()
			p.ErrorCode, p.DivergingEpoch.EndOffset = says.code, says.diverged
			topic := kmsg.NewFetchResponseTopic()
			topic.Topic, topic.Partitions = "orders", append(topic.Partitions, p)
			resp.Topics = append(resp.Topics, topic)
		}
		return resp, nil, true
	})
	s := NewSession(c)
	for _, step := range []struct {
		what string
		says answer
		want request
	}{
		{"it begins", answer{7, 0, true, 0, -1}, request{0, 0, 1}},
		{"the broker wants a pause", answer{id: 7, pause: time.Millisecond}, request{7, 1, 0}},
		{"an error", answer{7, 0, true, kerr.OffsetOutOfRange.Code, -1}, request{7, 2, 0}},
		{"another log", answer{7, 0, true, 0, 3}, request{7, 3, 0}},
		{"the last epoch", answer{id: 7}, request{7, math.MaxInt32, 0}},
		{"behind it", answer{id: 0}, request{7, 1, 0}},
		{"no room", answer{7, 0, true, 0, -1}, request{0, 0, 1}},
		{"there is room", answer{id: 7}, request{7, 1, 0}},
	} {
		mu.Lock()
		says = step.says
		mu.Unlock()
		if step.want.epoch == math.MaxInt32 {
			s.epoch = math.MaxInt32
		}
		fetched, err := s.Fetch(ctx, []FetchPart{{TopicPartition: tp, Offset: 5, BytesMax: 1 << 20, LastEpoch: 2, CheckEpoch: true}}, FetchOptions{BytesMax: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		if asked != step.want {
			t.Errorf("%s: the request was %+v, want %+v", step.what, asked, step.want)
		}
		mu.Unlock()
		switch {
		case len(fetched) > 1 || (len(fetched) == 1) != step.says.about:
			t.Errorf("%s: %d answers", step.what, len(fetched))
		case len(fetched) == 1 && (fetched[0].Asked != 5 || fetched[0].Diverged != spillway.LocalOffset(step.says.diverged) || !errors.Is(fetched[0].Err, kerr.ErrorForCode(step.says.code))):
			t.Errorf("%s: %+v", step.what, fetched[0])
		}
	}
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
