// Package sitelog reads what a site's brokers hold, for the checker: directly,
// with a client of its own, every record of every partition, transactions and
// their markers included. It shares no code with mirror and gateway.
package sitelog

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/tests/orders/check"
	"spillway/tests/orders/history"
)

// StallMax is how long a log may give nothing before its end is reached.
const StallMax = 20 * time.Second

// Site says how a site's brokers are reached.
type Site struct {
	Name      string
	Bootstrap []string
	Options   []kgo.Opt // TLS and SASL, as the brokers ask for
}

// seed makes digests comparable within one process.
var seed = maphash.MakeSeed()

// Read reads the topics from their beginnings to the ends that they have at
// the call. A topic that the site lacks has no logs.
func Read(ctx context.Context, site Site, topics ...string) (*check.Site, error) {
	out, err := read(ctx, site, topics)
	if err != nil {
		return nil, fmt.Errorf("read the logs of site %s: %w", site.Name, err)
	}
	return out, nil
}

func read(ctx context.Context, site Site, topics []string) (*check.Site, error) {
	out := &check.Site{Name: site.Name, Logs: map[check.Partition]*check.Log{}}
	opts := append([]kgo.Opt{kgo.SeedBrokers(site.Bootstrap...)}, site.Options...)
	from, err := bounds(ctx, opts, topics, out)
	if err != nil || len(from) == 0 {
		return out, err
	}
	cl, err := kgo.NewClient(append(opts,
		kgo.ConsumePartitions(from),
		kgo.FetchIsolationLevel(kgo.ReadUncommitted()),
		kgo.KeepControlRecords(),
		kgo.FetchMaxWait(250*time.Millisecond),
	)...)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	return out, drain(ctx, cl, out)
}

// bounds finds start and end of each partition, and makes an empty log for it.
func bounds(ctx context.Context, opts []kgo.Opt, topics []string, out *check.Site) (map[string]map[int32]kgo.Offset, error) {
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	admin := kadm.NewClient(cl)
	starts, err := admin.ListStartOffsets(ctx, topics...)
	if err != nil {
		return nil, err
	}
	ends, err := admin.ListEndOffsets(ctx, topics...)
	if err != nil {
		return nil, err
	}
	from := map[string]map[int32]kgo.Offset{}
	for topic, byPartition := range ends {
		for p, end := range byPartition {
			start, ok := starts.Lookup(topic, p)
			if err := errors.Join(end.Err, start.Err); err != nil || !ok {
				if missingTopic(err) {
					continue
				}
				return nil, fmt.Errorf("bounds of %s-%d: %w", topic, p, err)
			}
			out.Logs[check.Partition{Topic: topic, Index: p}] = &check.Log{Start: start.Offset, End: end.Offset}
			if start.Offset < end.Offset {
				if from[topic] == nil {
					from[topic] = map[int32]kgo.Offset{}
				}
				from[topic][p] = kgo.NewOffset().At(start.Offset)
			}
		}
	}
	return from, nil
}

// drain reads until every log's last record is there. Offsets at which a log
// holds nothing (transaction markers, compacted records) are passed over by
// the client; the last offset of a log always holds a record or a marker.
func drain(ctx context.Context, cl *kgo.Client, out *check.Site) error {
	builders := map[check.Partition]*builder{}
	for p, log := range out.Logs {
		if log.Start < log.End {
			builders[p] = &builder{log: log, next: log.Start, open: map[int64][]int{}}
		}
	}
	last := time.Now()
	for left := len(builders); left > 0; {
		pollCtx, cancel := context.WithTimeout(ctx, time.Second)
		fetches := cl.PollFetches(pollCtx)
		cancel()
		if err := ctx.Err(); err != nil {
			return err
		}
		var failed error
		fetches.EachError(func(topic string, p int32, err error) {
			if !errors.Is(err, context.DeadlineExceeded) {
				failed = fmt.Errorf("%s-%d: %w", topic, p, err)
			}
		})
		if failed != nil {
			return failed
		}
		fetches.EachRecord(func(r *kgo.Record) {
			b := builders[check.Partition{Topic: r.Topic, Index: r.Partition}]
			if b == nil || b.next >= b.log.End {
				return
			}
			last = time.Now()
			if b.add(r); b.next >= b.log.End {
				left--
			}
		})
		if time.Since(last) > StallMax {
			for p, b := range builders {
				if b.next < b.log.End {
					return fmt.Errorf("%s gives nothing for %s after offset %d, its end is %d", p, StallMax, b.next-1, b.log.End)
				}
			}
		}
	}
	return nil
}

// builder turns the records of one partition into a log.
type builder struct {
	log  *check.Log
	next int64
	// open lists, by producer id, the records of a transaction that has no
	// marker yet.
	open map[int64][]int
}

func (b *builder) add(r *kgo.Record) {
	b.next = r.Offset + 1
	if r.Attrs.IsControl() {
		b.marker(r)
		return
	}
	rec := record(r)
	if r.Attrs.IsTransactional() {
		rec.State = check.InOpen
		b.open[r.ProducerID] = append(b.open[r.ProducerID], len(b.log.Records))
	}
	b.log.Records = append(b.log.Records, rec)
}

// marker ends a transaction. A control record's key is two int16: version and
// type, 0 for abort and 1 for commit (KIP-98).
func (b *builder) marker(r *kgo.Record) {
	if len(r.Key) < 4 {
		return
	}
	state := check.InAborted
	switch r.Key[3] {
	case 1:
		state = check.Visible
	case 0:
	default:
		return
	}
	for _, i := range b.open[r.ProducerID] {
		b.log.Records[i].State = state
	}
	delete(b.open, r.ProducerID)
}

func record(r *kgo.Record) check.Record {
	rec := check.Record{Offset: r.Offset, ProducerID: r.ProducerID, Key: maphash.Bytes(seed, r.Key), Digest: digest(r)}
	p, err := history.Decode(r.Value)
	switch {
	case err != nil:
		rec.Damage = err.Error()
	case p.Order != "" && p.Order != string(r.Key):
		rec.Damage = fmt.Sprintf("its key is %.80q, its order %q", r.Key, p.Order)
	}
	rec.ID, rec.Order, rec.Step, rec.After = p.ID, p.Order, p.Step, p.After
	return rec
}

func digest(r *kgo.Record) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	field := func(b []byte) {
		n := len(b)
		if b == nil {
			n = -1 // no value is something else than an empty one
		}
		maphash.WriteComparable(&h, n)
		h.Write(b)
	}
	field(r.Key)
	field(r.Value)
	for _, header := range r.Headers {
		field([]byte(header.Key))
		field(header.Value)
	}
	maphash.WriteComparable(&h, r.Timestamp.UnixMilli())
	return h.Sum64()
}

func missingTopic(err error) bool { return errors.Is(err, kerr.UnknownTopicOrPartition) }
