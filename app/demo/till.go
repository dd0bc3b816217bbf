package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker/conn"
	"spillway/tests/orders"
	"spillway/tests/orders/history"
)

const (
	tillName = "till"
	// tillRecords are what the till reads before each of its commits.
	tillRecords = 20
	tillMax     = 10 * time.Second
	// commitMax is longer than a gateway may hang: the commit stays on its way.
	commitMax = 40 * time.Second
	// commitVersion is the newest one that names topics.
	commitVersion = 9
)

// till reads one partition by assign() and keeps its position in a consumer
// group of which it is no member. So it takes nothing but an answer to its
// commit to be sure that it need not read again. It commits on a connection of
// its own to one gateway, as clients in the midst of their work do, and neither
// looks for another one nor asks twice.
type till struct {
	bootstrap   []string
	recorder    *history.Recorder
	coordinator *conn.Conn
	next        int64 // of the partition
}

func openTill(ctx context.Context, bootstrap []string, gateway string, recorder *history.Recorder) (*till, error) {
	c, err := conn.Open(ctx, conn.Config{Address: gateway, ClientID: tillName})
	if err != nil {
		return nil, err
	}
	t := &till{bootstrap: bootstrap, recorder: recorder, coordinator: c, next: history.NoOffset}
	t.record(history.Event{Kind: history.Start, Role: history.Member})
	t.record(history.Event{Kind: history.Position, Offset: history.NoOffset})
	return t, nil
}

func (t *till) close() {
	t.record(history.Event{Kind: history.Stop})
	_ = t.coordinator.Close() // nothing is on its way
}

func (t *till) record(e history.Event) {
	e.Client, e.Group, e.Topic = tillName, tillName, orders.Topics[0]
	t.recorder.Record(e)
}

// again begins anew at the stored position, as after a restart.
func (t *till) again(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, tillMax)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(t.bootstrap...), kgo.ClientID(tillName))
	if err != nil {
		return err
	}
	defer cl.Close()
	stored, err := kadm.NewClient(cl).FetchOffsets(ctx, tillName)
	if err != nil {
		return fmt.Errorf("the till asks for its position: %w", err)
	}
	o, ok := stored.Lookup(orders.Topics[0], 0)
	if !ok {
		return errors.New("the till finds no position, though it has committed")
	}
	if o.Err != nil {
		return fmt.Errorf("the till asks for its position: %w", o.Err)
	}
	t.next = o.At
	t.record(history.Event{Kind: history.Position, Offset: history.NoOffset})
	return nil
}

// read takes the next records, at first from the partition's beginning.
func (t *till) read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, tillMax)
	defer cancel()
	from := kgo.NewOffset().AtStart()
	if t.next != history.NoOffset {
		from = kgo.NoResetOffset().At(t.next)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(t.bootstrap...), kgo.ClientID(tillName), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{orders.Topics[0]: {0: from}}))
	if err != nil {
		return err
	}
	defer cl.Close()
	for n := 0; n < tillRecords; {
		for _, r := range cl.PollRecords(ctx, tillRecords-n).Records() {
			p, err := history.Decode(r.Value)
			if err != nil && p.ID.IsZero() {
				return fmt.Errorf("the till reads at %d what is no record of the workload: %w", r.Offset, err)
			}
			t.record(history.Event{Kind: history.Consume, Offset: r.Offset, Payload: p.ID})
			t.next = r.Offset + 1
			n++
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the till has got %d of %d records: %w", n, tillRecords, ctx.Err())
		}
	}
	return nil
}

// commit stores the position.
func (t *till) commit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, commitMax)
	defer cancel()
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Version, req.Group = commitVersion, tillName
	topic := kmsg.NewOffsetCommitRequestTopic()
	topic.Topic = orders.Topics[0]
	part := kmsg.NewOffsetCommitRequestTopicPartition()
	part.Offset = t.next
	topic.Partitions = append(topic.Partitions, part)
	req.Topics = append(req.Topics, topic)
	answer, err := t.coordinator.DoVersion(ctx, req)
	if err == nil {
		err = commitError(answer.(*kmsg.OffsetCommitResponse))
	}
	e := history.Event{Kind: history.Commit, Offset: t.next}
	if err != nil {
		e.Error = err.Error()
		err = fmt.Errorf("the till commits: %w", err)
	}
	t.record(e)
	return err
}

func commitError(answer *kmsg.OffsetCommitResponse) error {
	for _, topic := range answer.Topics {
		for _, p := range topic.Partitions {
			return kerr.ErrorForCode(p.ErrorCode)
		}
	}
	return errors.New("the answer names no partition")
}
