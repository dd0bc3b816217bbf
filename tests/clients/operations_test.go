package clients_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker/batch"
	"spillway/federation"
	"spillway/federation/failover"
	"spillway/federation/gatewaytest"
	"spillway/mirror/sitelog"
	"spillway/tests/clients"
)

const (
	// written are the records of one operation.
	written = 10
	// foreign are records that the second site has before anything begins, so
	// that no offset is the same at both sites.
	foreign = 7
)

// stage is where clients do everything that they can.
type stage struct {
	*gatewaytest.World
	t    *testing.T
	tap  *clients.Tap
	rows map[[2]string][]string // by client and operation
	mu   sync.Mutex             // of rows; clients work at the same time
}

// topicOf is a topic of the client's own.
func topicOf(kind string) string { return "orders-" + kind }

func topicsOf(kinds []string) map[string]int32 {
	topics := make(map[string]int32)
	for _, kind := range kinds {
		topics[topicOf(kind)] = 1
	}
	return topics
}

// newStage starts a gateway over sites, of which all but the first have foreign
// records in each topic.
func newStage(t *testing.T, o gatewaytest.Options) *stage {
	t.Helper()
	s := &stage{t: t, rows: make(map[[2]string][]string)}
	o.Gateway = func(c *federation.Config) {
		s.tap = clients.NewTap(c.Listener)
		c.Listener = s.tap
	}
	s.World = gatewaytest.Start(t, o)
	for _, site := range o.Sites[1:] {
		cl, err := kgo.NewClient(s.Dial[site]...)
		if err != nil {
			t.Fatal(err)
		}
		for topic := range o.Topics {
			for n := range foreign {
				if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: fmt.Append(nil, "foreign ", n)}).FirstErr(); err != nil {
					t.Fatal(err)
				}
			}
		}
		cl.Close()
	}
	return s
}

// play lets all clients do everything at the first site, moves the group, and
// lets them do it again at the second, from positions that they kept themselves.
func (s *stage) play(kinds []string, next map[string]bool) {
	s.t.Helper()
	outside := make(map[string]int64) // by client: a position that it noted at the first site
	sites := s.Topology.Groups()[0].Sites
	for i, site := range sites {
		if i > 0 {
			s.Fence(site, failover.Switchover)
			s.Open(0, 0)
		}
		var mu sync.Mutex
		s.together(kinds, func(ctx context.Context, kind string) error {
			task := clients.Task{Kind: kind, Bootstrap: s.Addrs, Topic: topicOf(kind), Tag: "at-" + string(site), Dir: s.t.TempDir(), Write: true, Records: written}
			told, err := clients.Operate(ctx, task)
			if err != nil {
				return err
			}
			log, err := s.whole(ctx, site, kind, (i+1)*written*len(clients.ProducingOf(kind)))
			if err != nil {
				return err
			}
			s.judgeProducing(site, task, log, told)
			mu.Lock()
			from, ok := outside[kind]
			if !ok {
				from = log[len(log)/3].offset
				outside[kind] = from
			}
			mu.Unlock()
			task.Write, task.Total, task.From, task.Consumer = false, len(log), from, next[kind]
			task.Rest = len(log) - int(from-gatewaytest.OffsetBase)
			task.Times = []int64{1, log[len(log)/2].time, log[len(log)-1].time}
			if told, err = clients.Operate(ctx, task); err != nil {
				return err
			}
			s.judgeReading(site, task, log, told)
			return nil
		})
	}
	s.judgeNumbers(kinds)
	s.tell(kinds)
}

func (s *stage) together(kinds []string, work func(context.Context, string) error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	defer cancel()
	var all sync.WaitGroup
	for _, kind := range kinds {
		all.Go(func() {
			if err := work(ctx, kind); err != nil {
				s.t.Errorf("%s: %v", kind, err)
			}
		})
	}
	all.Wait()
	if s.t.Failed() {
		s.t.FailNow()
	}
}

// logged is a record as the site has it, with the offset that a client must see.
type logged struct {
	value  string
	offset int64
	time   int64
	header batch.Header
}

// read reads a client's topic behind the gateway's back. The foreign records
// are below everything that clients of the virtual cluster see.
func (s *stage) read(ctx context.Context, site spillway.SiteID, kind string) ([]logged, error) {
	tp := spillway.TopicPartition{Topic: topicOf(kind)}
	ends, err := s.Direct[site].Admin().LogEnds(ctx, []spillway.TopicPartition{tp})
	if err != nil {
		return nil, err
	}
	first := int64(0)
	if site != s.Topology.Groups()[0].Sites[0] {
		first = foreign
	}
	var all []logged
	err = sitelog.Scan(ctx, s.Direct[site], tp, spillway.LocalOffset(first), ends[tp], func(b sitelog.Batch) error {
		records, err := batch.Records(b.Bytes, 1<<20)
		if err != nil {
			return err
		}
		for _, r := range records {
			all = append(all, logged{
				string(r.Value), gatewaytest.OffsetBase + b.BaseOffset - first + int64(r.OffsetDelta), b.BaseTimestamp + r.TimestampDelta, b.Header,
			})
		}
		return nil
	})
	return all, err
}

// whole waits until all records are in a log: a client that wants no answers
// does not know when its own are.
func (s *stage) whole(ctx context.Context, site spillway.SiteID, kind string, want int) ([]logged, error) {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		log, err := s.read(ctx, site, kind)
		if err != nil || len(log) == want {
			return log, err
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%d records are in the log of %s, want %d", len(log), site, want)
		}
	}
}

func (s *stage) judgeProducing(site spillway.SiteID, task clients.Task, log []logged, told []clients.Told) {
	heard, _ := s.tap.Heard(task.Kind)
	mask := s.Share().Current().Mask
	for _, op := range clients.ProducingOf(task.Kind) {
		ours := slices.DeleteFunc(slices.Clone(log), func(r logged) bool { return !strings.HasPrefix(r.value, task.Kind+"/"+task.Tag+"/"+op+"/") })
		wrong := func(format string, args ...any) { s.wrong(task.Kind, op, fmt.Sprintf(format, args...)) }
		answers := of(told, op, "")
		if len(answers) != written || len(ours) != written {
			wrong("%d records were sent, %d are in the log, want %d", len(answers), len(ours), written)
			continue
		}
		acks := map[string]int16{clients.ProduceNone: 0, clients.ProduceOne: 1}
		want, ok := acks[op]
		if !ok {
			want = -1
		}
		sent := sentAs(heard, answers[0].Value)
		if sent == nil || sent.Acks != want || sent.Header.ProducerID >= 0 != (op == clients.ProduceIdempotent) {
			wrong("the client did not send what it was asked for: %+v", sent)
			continue
		}
		shown := 0
		for n, r := range ours {
			if a := answers[n]; a.Value != r.value || a.Offset >= 0 && a.Offset != r.offset {
				wrong("record %d is %q at %d in the log, and the client was told of %q at %d", n, r.value, r.offset, a.Value, a.Offset)
			}
			if answers[n].Offset >= 0 {
				shown++
			}
			if err := producerOf(op, heard, sent, r, mask); err != nil {
				wrong("record %d: %v", n, err)
			}
		}
		if op == clients.ProduceNone && shown > 0 {
			wrong("offsets were told to who wants no answer")
		}
		result := fmt.Sprintf("%d at %s, %d offsets told", written, site, shown)
		if op == clients.ProduceIdempotent {
			result += fmt.Sprintf(", id %x, in the log %x", sent.Header.ProducerID, ours[0].header.ProducerID)
		}
		s.row(task.Kind, op, result)
	}
}

// sentAs finds the batch in which a record was first sent.
func sentAs(heard clients.Heard, value string) *clients.SentBatch {
	i := slices.IndexFunc(heard.Batches, func(b clients.SentBatch) bool { return b.First == value })
	if i < 0 {
		return nil
	}
	return &heard.Batches[i]
}

// producerOf compares the producer id in the broker's log with the one that the
// client was given and used.
func producerOf(op string, heard clients.Heard, sent *clients.SentBatch, r logged, mask uint64) error {
	given, kept := sent.Header.ProducerID, r.header.ProducerID
	switch {
	case op != clients.ProduceIdempotent && kept != -1:
		return fmt.Errorf("producer id %x of a producer that is not idempotent", kept)
	case op != clients.ProduceIdempotent:
		return nil
	case !slices.Contains(heard.ProducerIDs, given):
		return fmt.Errorf("the client wrote as producer %x, which it never was given", given)
	case !spillway.IsClientProducerID(given) || kept == given || kept != spillway.MaskProducerID(given, mask):
		return fmt.Errorf("producer id %x in the log for %x, want %x", kept, given, spillway.MaskProducerID(given, mask))
	case r.header.BaseSequence < 0 || r.header.ProducerEpoch < 0:
		return fmt.Errorf("sequence %d of producer epoch %d in the log", r.header.BaseSequence, r.header.ProducerEpoch)
	}
	return nil
}

func of(told []clients.Told, op, step string) []clients.Told {
	var some []clients.Told
	for _, one := range told {
		if one.Op == op && one.Step == step {
			some = append(some, one)
		}
	}
	return some
}

func (s *stage) judgeReading(site spillway.SiteID, task clients.Task, log []logged, told []clients.Told) {
	consumed := func(op, step string, want []logged) bool {
		got := of(told, op, step)
		for i, one := range got {
			if i < len(want) && (one.Value != want[i].value || one.Offset != want[i].offset) {
				s.wrong(task.Kind, op, fmt.Sprintf("%s record %d is %q at %d, want %q at %d", step, i, one.Value, one.Offset, want[i].value, want[i].offset))
				return false
			}
		}
		if len(got) != len(want) {
			s.wrong(task.Kind, op, fmt.Sprintf("%s: %d records, want %d", step, len(got), len(want)))
		}
		return len(got) == len(want)
	}
	committed := func(op, step string, want int64) {
		for _, one := range of(told, op, step+" committed") {
			if one.Offset != want {
				s.wrong(task.Kind, op, fmt.Sprintf("the %s member's position is %d, want %d", step, one.Offset, want))
			}
		}
	}
	groups := []string{clients.GroupClassic}
	if task.Consumer {
		groups = append(groups, clients.GroupConsumer)
	}
	half, end := task.Half(), gatewaytest.OffsetBase+int64(len(log))
	for _, op := range groups {
		if consumed(op, "first", log[:half]) && consumed(op, "second", log[half:]) {
			s.row(task.Kind, op, fmt.Sprintf("%d + %d at %s, second member from %d", half, len(log)-half, site, log[half].offset))
		}
		committed(op, "first", log[half].offset)
		committed(op, "second", end)
	}
	if consumed(clients.Assign, "", log[len(log)-task.Rest:]) {
		s.row(task.Kind, clients.Assign, fmt.Sprintf("%d at %s from %d", task.Rest, site, task.From))
	}
	times := of(told, clients.OffsetByTime, "")
	if len(times) != len(task.Times) {
		s.wrong(task.Kind, clients.OffsetByTime, fmt.Sprintf("%d answers to %d questions", len(times), len(task.Times)))
	}
	for _, one := range times {
		i := slices.IndexFunc(log, func(r logged) bool { return r.time >= one.Time })
		if one.Offset != log[i].offset {
			s.wrong(task.Kind, clients.OffsetByTime, fmt.Sprintf("from %d on is %d, want %d", one.Time, one.Offset, log[i].offset))
		}
		s.row(task.Kind, clients.OffsetByTime, strconv.FormatInt(one.Offset, 10))
	}
	s.judgeIdentities(task, told)
}

// judgeIdentities compares what the client's own calls showed.
func (s *stage) judgeIdentities(task clients.Task, told []clients.Told) {
	want := map[string]string{
		clients.ClusterID: gatewaytest.ClusterID, clients.NodeID: "1000", clients.Leader: "1000",
		clients.TopicID: clients.Base64ID(s.Topology.TopicID(task.Topic)), clients.Setting: "delete",
	}
	nodes := 0
	for _, one := range told {
		if id, ok := want[one.Op]; ok && one.ID != id {
			s.wrong(task.Kind, one.Op, fmt.Sprintf("%s, want %s", one.ID, id))
		}
		if one.Op == clients.NodeID {
			nodes++
		}
	}
	if nodes == 0 {
		s.wrong(task.Kind, clients.NodeID, "the client names no node")
	}
	if task.Kind != "kcat" && len(of(told, clients.Setting, "")) != 1 {
		s.wrong(task.Kind, clients.Setting, "the client reads no setting of the topic")
	}
}

// neverTold are numbers that are not in the versions of the protocol that a library speaks.
var neverTold = map[string][]string{
	"kcat":     {clients.TopicNumber}, // librdkafka 2.0 asks by name
	"kafka-go": {clients.TopicNumber},
	"kafkajs":  {clients.TopicNumber},
	"aiokafka": {clients.TopicNumber},
}

// judgeNumbers goes through every number that went over the wire to a client:
// none is the broker's.
func (s *stage) judgeNumbers(kinds []string) {
	s.t.Helper()
	brokers := s.brokers()
	for _, kind := range kinds {
		heard, faults := s.tap.Heard(kind)
		if err := errors.Join(faults...); err != nil {
			s.t.Fatal(err)
		}
		count := make(map[string]int)
		for n, times := range heard.Numbers {
			if n.Value == -1 && n.Text == "" {
				continue // says that there is none
			}
			count[n.Kind] += times
			if why := s.shown(n, brokers); why != "" {
				s.wrong(kind, "numbers", fmt.Sprintf("%s %s is %d%s: %s", n.Where, n.Kind, n.Value, n.Text, why))
			}
		}
		var parts []string
		for _, what := range []string{clients.OffsetNumber, clients.EpochNumber, clients.NodeNumber, clients.TopicNumber, clients.ClusterNumber} {
			untold := slices.Contains(neverTold[kind], what)
			if count[what] == 0 && !untold {
				s.wrong(kind, "numbers", "the client was told no "+what+": the test shows nothing")
			}
			if count[what] > 0 && untold {
				s.wrong(kind, "numbers", "the client is told a "+what+" by now: neverTold is out of date")
			}
			parts = append(parts, fmt.Sprintf("%d × %s", count[what], what))
		}
		s.row(kind, "numbers", strings.Join(parts, ", ")+"; none is the broker's")
	}
}

// brokers' own numbers, which no client may see.
type brokers struct {
	clusters map[string]bool
	nodes    map[int64]bool
	topics   map[string]bool
	topicIDs map[string]bool
	epochs   map[int64]bool
	offsets  int64 // all are below
}

func (s *stage) brokers() brokers {
	s.t.Helper()
	b := brokers{
		clusters: make(map[string]bool), nodes: make(map[int64]bool), topics: make(map[string]bool), topicIDs: make(map[string]bool),
		epochs: make(map[int64]bool),
	}
	for _, cluster := range s.Direct {
		md, err := cluster.Metadata(s.t.Context())
		if err != nil {
			s.t.Fatal(err)
		}
		b.clusters[md.ClusterID] = true
		for _, n := range md.Nodes {
			b.nodes[int64(n.ID)] = true
		}
		for name, topic := range md.Topics {
			b.topics[name], b.topicIDs[fmt.Sprintf("%x", topic.ID)] = true, true
			for p := range topic.Partitions {
				b.epochs[int64(topic.Partitions[p].LeaderEpoch)] = true
				tp := spillway.TopicPartition{Topic: name, Partition: int32(p)}
				ends, err := cluster.Admin().LogEnds(s.t.Context(), []spillway.TopicPartition{tp})
				if err != nil {
					s.t.Fatal(err)
				}
				b.offsets = max(b.offsets, int64(ends[tp]))
			}
		}
	}
	if b.offsets >= gatewaytest.OffsetBase || len(b.nodes) == 0 || len(b.topics) == 0 {
		s.t.Fatalf("the brokers' numbers cannot be told from the virtual ones: %+v", b)
	}
	return b
}

// shown says what is wrong with a number that a client was told.
func (s *stage) shown(n clients.Number, b brokers) string {
	virtual, own := false, false
	switch n.Kind {
	case clients.OffsetNumber:
		virtual, own = n.Value >= gatewaytest.OffsetBase, n.Value <= b.offsets
	case clients.EpochNumber:
		for _, t := range s.Share().Terms {
			virtual = virtual || n.Value == int64(spillway.VirtualLeaderEpoch(t.Epoch))
		}
		own = b.epochs[n.Value]
	case clients.NodeNumber:
		virtual, own = n.Value == 1000, b.nodes[n.Value]
	case clients.TopicNumber:
		for topic := range b.topics {
			virtual = virtual || n.Text == fmt.Sprintf("%x", s.Topology.TopicID(topic))
		}
		own = b.topicIDs[n.Text]
	case clients.ClusterNumber:
		virtual, own = n.Text == gatewaytest.ClusterID, b.clusters[n.Text]
	}
	switch {
	case own:
		return "it is the broker's"
	case !virtual:
		return "it is not the virtual cluster's"
	}
	return ""
}

func (s *stage) wrong(kind, op, why string) {
	s.t.Errorf("%s, %s: %s", kind, op, why)
	s.row(kind, op, "WRONG")
}

func (s *stage) row(kind, op, result string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rows[[2]string{kind, op}] = append(s.rows[[2]string{kind, op}], result)
}

// tell prints the table.
func (s *stage) tell(kinds []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, kind := range kinds {
		for _, op := range append(slices.Clone(clients.Producing), clients.GroupClassic, clients.GroupConsumer, clients.OffsetByTime, clients.Assign, "numbers") {
			if results := s.rows[[2]string{kind, op}]; len(results) > 0 {
				fmt.Printf("| %s | %s | %s |\n", kind, op, strings.Join(results, "; "))
			}
		}
	}
}

// The clients that are libraries of this module do everything on embedded sites,
// so that a fault of the test itself is found without a broker.
func TestLibrariesOnEmbeddedSites(t *testing.T) {
	kinds := []string{"sarama", "franz-go", "kafka-go"}
	s := newStage(t, gatewaytest.Options{Sites: []spillway.SiteID{"east", "west"}, Topics: topicsOf(kinds)})
	s.play(kinds, nil)
}
