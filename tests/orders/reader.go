package orders

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/tests/orders/history"
)

// Reader is one consuming application, named as in the history.
type Reader struct {
	// Name of the client; members of a group get "-1", "-2", … behind it.
	Name    string
	Library string // Franz (default) or Sarama
	// Group is the consumer group. Without one the reader uses assign() and
	// keeps its positions itself, outside of Kafka.
	Group string
	// Members of the group; 0 means 1.
	Members int
	// CommitEvery is the time between two commits of a group; 0 means 1 s.
	// Sarama does not say what its commits come to, so its history has none.
	CommitEvery time.Duration
	// RestartEvery makes a reader with assign() close its client and go on
	// with a new one at its stored positions; 0 means never.
	RestartEvery time.Duration
}

const defaultCommitEvery = time.Second

// place is a partition, as readers' positions are kept by.
type place struct {
	topic     string
	partition int32
}

// positions are the next offsets of a reader, all members together.
type positions struct {
	mu   sync.Mutex
	next map[place]int64
	last time.Time // when a record came last
}

func newPositions() *positions { return &positions{next: map[place]int64{}, last: time.Now()} }

func (p *positions) advance(at place, next int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next[at] = next
	p.last = time.Now()
}

func (p *positions) all() map[place]int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.next)
}

// reached tells whether all ends were read. Behind a burnt range an end lies
// above the last record; so a reader that has all that was acknowledged, and
// then gets nothing more for a while, has come to the end too. One that still
// lacks something has not, however long it is quiet.
func (p *positions) reached(ends, acked map[place]int64, quiet time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	isQuiet := time.Since(p.last) > quiet
	for at, end := range ends {
		if next := p.next[at]; next < end && (!isQuiet || next < acked[at]) {
			return false
		}
	}
	return true
}

// desk is one running client of a reader.
type desk struct {
	spec      Reader
	client    string // its name in the history
	bootstrap []string
	rec       *history.Recorder
	counts    *counts
	positions *positions
	// handle is told of each record, in the order of its partition.
	handle func(history.Payload)
}

func (d *desk) options() []kgo.Opt {
	return []kgo.Opt{
		kgo.SeedBrokers(d.bootstrap...),
		kgo.ClientID(d.client),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxWait(500 * time.Millisecond),
	}
}

// take writes down what was read, then lets the application have it.
func (d *desk) take(fetches kgo.Fetches) {
	fetches.EachError(d.readError)
	fetches.EachPartition(func(ftp kgo.FetchTopicPartition) {
		got := make([]message, len(ftp.Records))
		for i, r := range ftp.Records {
			got[i] = message{r.Offset, r.Value}
		}
		d.got(place{ftp.Topic, ftp.Partition}, got)
	})
}

// message is a record as any library gives it.
type message struct {
	offset int64
	value  []byte
}

// got takes the next records of one partition.
func (d *desk) got(at place, messages []message) {
	var events []history.Event
	var payloads []history.Payload
	for _, m := range messages {
		p, err := history.Decode(m.value)
		if err != nil && p.ID.IsZero() {
			d.counts.foreign.Add(1)
			continue
		}
		events = append(events, history.Event{Kind: history.Consume, Client: d.client, Topic: at.topic, Partition: at.partition, Offset: m.offset, Payload: p.ID})
		payloads = append(payloads, p)
	}
	d.rec.RecordAll(events)
	d.counts.read.Add(int64(len(events)))
	for _, p := range payloads {
		d.handle(p)
	}
	if n := len(messages); n > 0 {
		d.positions.advance(at, messages[n-1].offset+1)
	}
}

// readError writes down what a reader's library complains of. It is no
// anomaly by itself; what follows of it shows in the records.
func (d *desk) readError(topic string, partition int32, err error) {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, kgo.ErrClientClosed) {
		return
	}
	d.counts.readErrors.Add(1)
	d.rec.Record(history.Event{Kind: history.Mark, Client: d.client, Name: "read-error", Topic: topic, Partition: partition, Offset: history.NoOffset, Note: err.Error()})
}

// run reads until ctx ends. A client that cannot go on is replaced by another,
// as whoever supervises an application would do.
func (d *desk) run(ctx context.Context, partitions int32) {
	once := func(ctx context.Context) error { return d.assign(ctx, partitions) }
	switch {
	case d.spec.Group != "" && d.spec.Library == Sarama:
		once = d.saramaMember
	case d.spec.Group != "":
		once = d.member
	case d.spec.Library == Sarama:
		once = func(ctx context.Context) error { return d.saramaAssign(ctx, partitions) }
	}
	for ctx.Err() == nil {
		life, cancel := ctx, context.CancelFunc(func() {})
		if d.spec.RestartEvery > 0 && d.spec.Group == "" {
			life, cancel = context.WithTimeout(ctx, d.spec.RestartEvery)
		}
		err := once(life)
		cancel()
		if err != nil && ctx.Err() == nil {
			d.readError("", 0, err)
			pause(ctx)
		}
	}
}

// pauseAfterError keeps a client that is refused from asking without end.
const pauseAfterError = 100 * time.Millisecond

func pause(ctx context.Context) {
	t := time.NewTimer(pauseAfterError)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// starts gives the offset from which each partition is to be read, and writes
// it down. NoOffset: from its beginning.
func (d *desk) starts(partitions int32) map[place]int64 {
	stored := d.positions.all()
	from := map[place]int64{}
	for _, topic := range Topics {
		for p := range partitions {
			offset, ok := stored[place{topic, p}]
			if !ok {
				offset = history.NoOffset
			}
			from[place{topic, p}] = offset
			d.rec.Record(history.Event{Kind: history.Position, Client: d.client, Topic: topic, Partition: p, Offset: offset})
		}
	}
	return from
}

// assign reads all partitions from the stored positions on, until ctx ends.
func (d *desk) assign(ctx context.Context, partitions int32) error {
	from := map[string]map[int32]kgo.Offset{}
	for at, offset := range d.starts(partitions) {
		if from[at.topic] == nil {
			from[at.topic] = map[int32]kgo.Offset{}
		}
		from[at.topic][at.partition] = kgo.NewOffset().AtStart()
		if offset != history.NoOffset {
			from[at.topic][at.partition] = kgo.NoResetOffset().At(offset)
		}
	}
	cl, err := kgo.NewClient(append(d.options(), kgo.ConsumePartitions(from))...)
	if err != nil {
		return err
	}
	defer cl.Close()
	for ctx.Err() == nil {
		d.take(cl.PollFetches(ctx))
	}
	return nil
}

// member reads as a member of the group, until ctx ends. It commits in
// intervals and before it gives a partition away, so that an orderly rebalance
// repeats nothing.
func (d *desk) member(ctx context.Context) error {
	cl, err := kgo.NewClient(append(d.options(),
		kgo.ConsumerGroup(d.spec.Group),
		kgo.ConsumeTopics(Topics...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, got map[string][]int32) {
			for topic, ps := range got {
				for _, p := range ps {
					d.rec.Record(history.Event{Kind: history.Position, Client: d.client, Group: d.spec.Group, Topic: topic, Partition: p, Offset: history.NoOffset})
				}
			}
		}),
		kgo.OnPartitionsRevoked(func(ctx context.Context, cl *kgo.Client, _ map[string][]int32) { d.commit(ctx, cl) }),
	)...)
	if err != nil {
		return err
	}
	defer cl.CloseAllowingRebalance()
	every := d.spec.CommitEvery
	if every <= 0 {
		every = defaultCommitEvery
	}
	last := time.Now()
	for ctx.Err() == nil {
		pollCtx, cancel := context.WithTimeout(ctx, every)
		fetches := cl.PollFetches(pollCtx)
		cancel()
		d.take(fetches)
		if time.Since(last) >= every {
			d.commit(ctx, cl)
			last = time.Now()
		}
		cl.AllowRebalance()
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitMax)
	defer cancel()
	d.commit(end, cl)
	return nil
}

// commitMax bounds the last commit of a member that ends.
const commitMax = 5 * time.Second

func (d *desk) commit(ctx context.Context, cl *kgo.Client) {
	offsets := cl.UncommittedOffsets()
	if len(offsets) == 0 {
		return
	}
	cl.CommitOffsetsSync(ctx, offsets, func(_ *kgo.Client, req *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		if resp == nil || err != nil {
			d.counts.commitErrors.Add(1)
			return
		}
		for _, e := range committed(req, resp) {
			e.Client, e.Group, e.Offset = d.client, d.spec.Group, offsets[e.Topic][e.Partition].Offset
			if e.Error != "" {
				d.counts.commitErrors.Add(1)
			}
			d.rec.Record(e)
		}
	})
}

// committed is the answer to a commit, without client, group and offset. From
// version 10 on an answer has topic ids only; the client puts the names in, but
// not where it has left the group meanwhile.
func committed(req *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse) []history.Event {
	var out []history.Event
	for _, t := range resp.Topics {
		i := slices.IndexFunc(req.Topics, func(asked kmsg.OffsetCommitRequestTopic) bool {
			return asked.Topic == t.Topic || t.Topic == "" && asked.TopicID == t.TopicID
		})
		if i < 0 {
			continue // about nothing that was asked
		}
		for _, p := range t.Partitions {
			e := history.Event{Kind: history.Commit, Topic: req.Topics[i].Topic, Partition: p.Partition}
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				e.Error = err.Error()
			}
			out = append(out, e)
		}
	}
	return out
}
