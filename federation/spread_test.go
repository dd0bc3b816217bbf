package federation_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/broker/conn"
	"spillway/federation"
	"spillway/federation/failover"
	"spillway/federation/gatewaytest"
	"spillway/lb"
)

// spreadWorld is a gateway over two sites with an unordered group: partitions 0 and 1
// live at the first, 2 and 3 at the second.
type spreadWorld struct {
	*gatewaytest.World
	mu      sync.Mutex
	picks   map[string]int // by share and reason
	ejected map[string]string
	held    int
}

func spreadOver(t *testing.T, balance string) *spreadWorld {
	return spreadAs(t, gatewaytest.Options{Sites: []spillway.SiteID{"east", "west"}, Topics: map[string]int32{"clicks": 4}, Balance: balance})
}

func spreadAs(t *testing.T, o gatewaytest.Options) *spreadWorld {
	w := &spreadWorld{picks: map[string]int{}, ejected: map[string]string{}}
	o.Spread = 2
	change := o.Gateway
	o.Gateway = func(c *federation.Config) {
		if change != nil {
			change(c)
		}
		c.Events.Router.Picked = func(id spillway.ShareID, reason string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.picks[id.Group+": "+reason]++
		}
		c.Events.Router.Ejected = func(id spillway.ShareID, _ time.Duration, why string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.ejected[id.Group] = why
		}
		c.Events.Router.Held = func(spillway.ShareID) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.held++
		}
	}
	w.World = gatewaytest.Start(t, o)
	return w
}

func shareAt(site spillway.SiteID) spillway.ShareID {
	return spillway.ShareID{Group: gatewaytest.Group + "-" + string(site)}
}

var eastShare, westShare = shareAt("east"), shareAt("west")

func fence(s *failover.Share) { s.State, s.Epoch, s.Target = failover.Fencing, s.Epoch+1, "east" }

// unfence gives the move up.
func unfence(s *failover.Share) {
	s.State, s.Epoch, s.Target = failover.Stable, s.Epoch+1, ""
	s.Terms = append(s.Terms, failover.Term{Epoch: s.Epoch, Site: s.Active, Mask: s.Terms[0].Mask, Continues: true})
}

// send writes one record of its own to a partition, and returns its offset.
func (w *spreadWorld) send(t *testing.T, cl *kgo.Client, partition int32, value string) int64 {
	t.Helper()
	r := &kgo.Record{Topic: "clicks", Partition: partition, Value: []byte(value)}
	if err := cl.ProduceSync(within(t, soon), r).FirstErr(); err != nil {
		t.Fatalf("%s to partition %d: %v", value, partition, err)
	}
	return r.Offset
}

// at lists the values in a partition of a site.
func (w *spreadWorld) at(t *testing.T, site spillway.SiteID, partition int32) (values []string) {
	t.Helper()
	tp := spillway.TopicPartition{Topic: "clicks", Partition: partition}
	ends, err := w.Direct[site].Admin().LogEnds(within(t, soon), []spillway.TopicPartition{tp})
	if err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"clicks": {partition: kgo.NewOffset().AtStart()}})}, w.Dial[site]...)...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for spillway.LocalOffset(len(values)) < ends[tp] {
		fs := cl.PollFetches(within(t, soon))
		if err := fs.Err(); err != nil {
			t.Fatal(err)
		}
		for _, r := range fs.Records() {
			if r.ProducerID >= 0 {
				t.Errorf("%s was written under producer id %x", r.Value, r.ProducerID)
			}
			values = append(values, string(r.Value))
		}
	}
	return values
}

func (w *spreadWorld) want(t *testing.T, site spillway.SiteID, partition int32, values ...string) {
	t.Helper()
	if got := w.at(t, site, partition); !slices.Equal(got, values) {
		t.Errorf("%s has %q in partition %d, want %q", site, got, partition, values)
	}
}

func TestUnorderedBatchesGoHome(t *testing.T) {
	t.Parallel()
	w := spreadOver(t, spillway.HomeFirst)
	cl := client(t, w.World)
	for p := range int32(4) {
		for n := range int64(2) {
			if got := w.send(t, cl, p, fmt.Sprint(p, "-", n)); got != gatewaytest.OffsetBase+n {
				t.Errorf("partition %d, record %d: offset %d", p, n, got)
			}
		}
	}
	w.want(t, "east", 0, "0-0", "0-1")
	w.want(t, "east", 1, "1-0", "1-1")
	w.want(t, "west", 2, "2-0", "2-1")
	w.want(t, "west", 3, "3-0", "3-1")
	w.want(t, "east", 2)
	w.want(t, "west", 0)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.picks) != 2 || w.picks[eastShare.Group+": home can take it"] != 4 {
		t.Errorf("picks: %v", w.picks)
	}
}

// A site is cut off, and nobody has found that out yet: batches for it go to the
// siblings of their partitions at once, without an offset, and consumers find them there.
func TestUnorderedBatchesAlwaysFindASite(t *testing.T) {
	t.Parallel()
	batchesAlwaysFindASite(t, spreadOver(t, spillway.HomeFirst), "east", "west")
}

func batchesAlwaysFindASite(t *testing.T, w *spreadWorld, first, second spillway.SiteID) {
	cl := client(t, w.World)
	w.send(t, cl, 2, "before")
	w.Wires[second].Cut(true)
	for n := range 8 {
		if got := w.send(t, cl, 2, fmt.Sprint("cut-", n)); got != -1 {
			t.Errorf("record %d was given offset %d", n, got)
		}
	}
	w.send(t, cl, 3, "cut-too")
	w.mu.Lock()
	if w.ejected[shareAt(second).Group] != "3 failures in a row" {
		t.Errorf("ejections: %v", w.ejected)
	}
	w.mu.Unlock()
	got := w.at(t, first, 0)
	for n := range 8 {
		if !slices.Contains(got, fmt.Sprint("cut-", n)) { // one may be there twice: at least once
			t.Errorf("record %d is not in partition 0 of %s: %q", n, first, got)
		}
	}
	if !slices.Contains(w.at(t, first, 1), "cut-too") {
		t.Error("partition 3 has another sibling than 1")
	}
	w.Wires[second].Mend()
	gatewaytest.Eventually(t, "batches go home again", func() bool { return w.send(t, cl, 2, "after") >= 0 })

	reader, err := kgo.NewClient(kgo.SeedBrokers(w.Addrs...), kgo.ConsumeTopics("clicks"), kgo.ConsumerGroup("readers"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reader.Close)
	read := map[string]int32{}
	for _, value := range []string{"before", "cut-0", "cut-7", "cut-too", "after"} {
		for _, there := read[value]; !there; _, there = read[value] {
			fs := reader.PollFetches(within(t, soon))
			if err := fs.Err(); err != nil {
				t.Fatalf("%s was not read: %v", value, err)
			}
			fs.EachRecord(func(r *kgo.Record) { read[string(r.Value)] = r.Partition })
		}
	}
	if read["before"] != 2 || read["cut-0"] != 0 || read["cut-too"] != 1 {
		t.Errorf("read in partitions %v", read)
	}
}

// While a share moves its batches go to siblings, and nothing is held. Where no share
// is served they wait, for whichever comes back first.
func TestUnorderedBatchesDoNotWaitForAMove(t *testing.T) {
	t.Parallel()
	w := spreadOver(t, spillway.HomeFirst)
	cl := client(t, w.World)
	w.SetShareOf(westShare, fence)
	w.send(t, cl, 1, "first")
	gatewaytest.Eventually(t, "the share is closed", func() bool { return w.send(t, cl, 2, "moving") == -1 })
	w.mu.Lock()
	if w.held > 0 {
		t.Errorf("%d requests were held", w.held)
	}
	w.mu.Unlock()
	w.SetShareOf(eastShare, fence)
	done := make(chan *kgo.Record, 1)
	go func() {
		for n := 0; ; n++ {
			r := &kgo.Record{Topic: "clicks", Partition: 3, Value: fmt.Append(nil, "held-", n)}
			err := cl.ProduceSync(within(t, soon), r).FirstErr()
			if err != nil {
				t.Error(err)
			}
			w.mu.Lock()
			held := w.held > 0
			w.mu.Unlock()
			if held || err != nil {
				done <- r
				return
			}
		}
	}()
	gatewaytest.Eventually(t, "a request is held", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.held > 0
	})
	w.SetShareOf(eastShare, unfence)
	last := <-done
	if last.Offset != -1 {
		t.Errorf("offset %d", last.Offset)
	}
	if !slices.Contains(w.at(t, "east", 1), string(last.Value)) {
		t.Errorf("%s is not at the site that came back", last.Value)
	}
}

func TestUnorderedBatchesAreBalanced(t *testing.T) {
	t.Parallel()
	w := spreadOver(t, string(lb.RoundRobin))
	cl := client(t, w.World, kgo.ProducerLinger(0))
	for n := range 20 {
		w.send(t, cl, 0, fmt.Sprint(n))
	}
	if east, west := w.at(t, "east", 0), w.at(t, "west", 2); len(east) != 10 || len(west) != 10 {
		t.Errorf("%d at east, %d at west", len(east), len(west))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.picks[eastShare.Group+": in turn"] != 10 || w.picks[westShare.Group+": in turn"] != 10 {
		t.Errorf("picks: %v", w.picks)
	}
}

// introduced is a connection of a client that says what it is.
func introduced(t *testing.T, w *gatewaytest.World, name, version string) *conn.Conn {
	c := raw(t, w.Addrs[0])
	req := kmsg.NewPtrApiVersionsRequest()
	req.Version, req.ClientSoftwareName, req.ClientSoftwareVersion = 3, name, version
	do[*kmsg.ApiVersionsResponse](t, c, req)
	return c
}

func toPartitions(change func(*batch.Header), partitions ...int32) *kmsg.ProduceRequest {
	req := produceRequest("clicks", change)
	one := req.Topics[0].Partitions[0]
	req.Topics[0].Partitions = nil
	for _, p := range partitions {
		next := one
		next.Partition, next.Records = p, slices.Clone(one.Records)
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, next)
	}
	return req
}

func byProducer(h *batch.Header) {
	h.ProducerID, h.ProducerEpoch, h.BaseSequence = spillway.ClientProducerID(7), 0, 0
}

// What lies elsewhere has no offset that the client could use.
func TestAnswersWithoutAnOffset(t *testing.T) {
	t.Parallel()
	w := spreadOver(t, spillway.HomeFirst)
	w.SetShareOf(westShare, fence)
	cl := client(t, w.World)
	gatewaytest.Eventually(t, "the share is closed", func() bool { return w.send(t, cl, 2, "moving") == -1 })
	for _, c := range []struct {
		name, version string
		header        func(*batch.Header)
		code          int16
	}{
		{"apache-kafka-java", "4.3.1", byProducer, 0},
		{"kgo", "1.20.0", byProducer, 0},
		{"librdkafka", "2.11.0", byProducer, kerr.DuplicateSequenceNumber.Code},
		{"confluent-kafka-python", "2.11.0-librdkafka-2.11.0", byProducer, kerr.DuplicateSequenceNumber.Code},
		{"sarama", "1.46.0", byProducer, kerr.DuplicateSequenceNumber.Code},
		{"librdkafka", "2.11.0", nil, 0},
	} {
		answer := do[*kmsg.ProduceResponse](t, introduced(t, w.World, c.name, c.version), toPartitions(c.header, 3))
		if code, offset := produced(answer); code != c.code || offset != -1 {
			t.Errorf("%s %s: code %d, offset %d", c.name, c.version, code, offset)
		}
		answer = do[*kmsg.ProduceResponse](t, introduced(t, w.World, c.name, c.version), toPartitions(c.header, 1))
		if code, offset := produced(answer); code != 0 || offset < gatewaytest.OffsetBase {
			t.Errorf("%s at home: code %d, offset %d", c.name, code, offset)
		}
	}
	config := sarama.NewConfig()
	config.Producer.Return.Successes, config.Producer.Idempotent, config.Net.MaxOpenRequests = true, true, 1
	config.Producer.RequiredAcks, config.Version, config.Producer.Partitioner = sarama.WaitForAll, sarama.V4_0_0_0, sarama.NewManualPartitioner
	p, err := sarama.NewSyncProducer(w.Addrs, config)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for i := range 5 {
		if _, _, err := p.SendMessage(&sarama.ProducerMessage{Topic: "clicks", Partition: 2, Value: sarama.StringEncoder(fmt.Sprint("sarama-", i))}); err != nil {
			t.Fatal(err)
		}
	}
}

// Two partitions of a request have the same sibling: both are written there. A batch
// that comes again is written again.
func TestBatchesForOneSibling(t *testing.T) {
	t.Parallel()
	w := spreadOver(t, spillway.HomeFirst)
	w.SetShareOf(westShare, fence)
	cl := client(t, w.World)
	gatewaytest.Eventually(t, "the share is closed", func() bool { return w.send(t, cl, 3, "moving") == -1 })
	c := raw(t, w.Addrs[0])
	for range 2 {
		answer := do[*kmsg.ProduceResponse](t, c, toPartitions(byProducer, 0, 2))
		for _, p := range answer.Topics[0].Partitions {
			if p.ErrorCode != 0 || (p.BaseOffset < 0) != (p.Partition == 2) {
				t.Errorf("partition %d: code %d, offset %d", p.Partition, p.ErrorCode, p.BaseOffset)
			}
		}
	}
	if got := w.at(t, "east", 0); len(got) != 8 {
		t.Errorf("%d records, want two batches of two for each partition: %q", len(got), got)
	}
}

// The coordinator of a group stands at one site, and partitions of the group are served at
// another: their positions are stored by what the coordinator's site has mirrored of them.
func TestGroupsCommitWhatIsServedElsewhere(t *testing.T) {
	t.Parallel()
	w := spreadOver(t, spillway.HomeFirst)
	at := func(partition int32) spillway.TopicPartition {
		return spillway.TopicPartition{Topic: "clicks", Partition: partition}
	}
	const from = gatewaytest.OffsetBase + 500 // the first that east has of partition 2; of 3 it has nothing
	w.Follow("east", at(2), from, 5)
	c := raw(t, w.Addrs[0])
	commit := commitRequest("readers", 0)
	commit.Topics[0].Topic, commit.Topics[0].Partitions = "clicks", nil
	for p := range int32(4) {
		part := kmsg.NewOffsetCommitRequestTopicPartition()
		part.Partition, part.Offset, part.LeaderEpoch = p, from+3, -1
		commit.Topics[0].Partitions = append(commit.Topics[0].Partitions, part)
	}
	positions := func() map[spillway.TopicPartition]broker.GroupOffset {
		found, err := w.Direct["east"].Admin().FetchGroupOffsets(within(t, soon), "readers")
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	gatewaytest.Eventually(t, "the gateway has read the map", func() bool {
		for _, p := range do[*kmsg.OffsetCommitResponse](t, c, commit).Topics[0].Partitions {
			if p.ErrorCode != 0 {
				t.Fatalf("commit of partition %d: code %d", p.Partition, p.ErrorCode)
			}
		}
		return positions()[at(2)].Offset == 3
	})
	if local := positions()[at(3)].Offset; local != 503 {
		t.Errorf("partition 3 is stored at %d", local)
	}
	fetched := func(partition int32) int64 {
		fetch := kmsg.NewPtrOffsetFetchRequest()
		fetch.Version, fetch.Group = 5, "readers"
		fetch.Topics = []kmsg.OffsetFetchRequestTopic{{Topic: "clicks", Partitions: []int32{partition}}}
		p := do[*kmsg.OffsetFetchResponse](t, c, fetch).Topics[0].Partitions[0]
		if p.ErrorCode != 0 {
			t.Fatalf("fetch of partition %d: code %d", partition, p.ErrorCode)
		}
		return p.Offset
	}
	for p := range int32(4) {
		if got := fetched(p); got != from+3 {
			t.Errorf("partition %d is at %d, committed was %d", p, got, from+3)
		}
	}
	if err := w.Direct["east"].Admin().CommitGroupOffsets(within(t, soon), "readers", map[spillway.TopicPartition]broker.GroupOffset{at(2): {Offset: 4, LeaderEpoch: -1}}); err != nil {
		t.Fatal(err)
	}
	if got := fetched(2); got != from+4 {
		t.Errorf("a position of a tool at the site is %d, want %d", got, from+4)
	}
}

// Topics that a client invents, and batches whose checksum is wrong, say nothing of a site.
func TestWhatAClientDoesWrongEjectsNoSite(t *testing.T) {
	t.Parallel()
	w := spreadOver(t, spillway.HomeFirst)
	c := raw(t, w.Addrs[0])
	for range 4 {
		req := toPartitions(nil, 0, 2)
		req.Topics[0].Topic = "nonsense"
		for _, p := range do[*kmsg.ProduceResponse](t, c, req).Topics[0].Partitions {
			if p.ErrorCode != kerr.UnknownTopicOrPartition.Code {
				t.Errorf("a topic that is not there: code %d", p.ErrorCode)
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.ejected) > 0 {
		t.Errorf("ejections: %v", w.ejected)
	}
	if len(w.picks) > 0 {
		t.Errorf("batches that were not sent are counted: %v", w.picks)
	}
}

// A request with batches for many partitions of a site that cannot be reached dials it once.
func TestARequestFindsOutOnceThatASiteIsDead(t *testing.T) {
	t.Parallel()
	w := spreadAs(t, gatewaytest.Options{Sites: []spillway.SiteID{"east", "west"}, Topics: map[string]int32{"clicks": 4, "views": 4}})
	req := toPartitions(nil, 2, 3)
	more := toPartitions(nil, 2, 3).Topics[0]
	more.Topic = "views"
	req.Topics = append(req.Topics, more)
	send := func() {
		t.Helper()
		for _, topic := range do[*kmsg.ProduceResponse](t, raw(t, w.Addrs[0]), req).Topics {
			for _, p := range topic.Partitions {
				if p.ErrorCode != 0 {
					t.Errorf("%s-%d: code %d", topic.Topic, p.Partition, p.ErrorCode)
				}
			}
		}
	}
	send()
	w.Wires["west"].Cut(true)
	send()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.ejected) > 0 {
		t.Errorf("one request has found out more than once: %v", w.ejected)
	}
	if n := w.picks[eastShare.Group+": the only one that can take it"]; n != 4 {
		t.Errorf("picks: %v", w.picks)
	}
}

// A partition beyond those that the sites share out belongs to nobody.
func TestPartitionsBeyondTheSiblings(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Sites: []spillway.SiteID{"east", "west"}, Topics: map[string]int32{"clicks": 5}, Spread: 2})
	c := raw(t, w.Addrs[0])
	md := do[*kmsg.MetadataResponse](t, c, &kmsg.MetadataRequest{Version: 9, Topics: []kmsg.MetadataRequestTopic{{Topic: kmsg.StringPtr("clicks")}}})
	if n := len(md.Topics[0].Partitions); n != 4 {
		t.Errorf("%d partitions are shown", n)
	}
	if code, _ := produced(do[*kmsg.ProduceResponse](t, c, toPartitions(nil, 4))); code != kerr.UnknownTopicOrPartition.Code {
		t.Errorf("code %d", code)
	}
}
