package sitelog

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/conn"
)

// ProducePart is one batch for one partition: Produce takes no more than one.
type ProducePart struct {
	spillway.TopicPartition
	Batch []byte
}

// Produced is the answer for one partition.
type Produced struct {
	spillway.TopicPartition
	Err  error // one of kerr's, or nil
	Base spillway.LocalOffset
	Text string // the broker's explanation, if it gave one
}

// Produce appends with acks=all. timeout is the broker's bound for replication.
// Partitions that the broker left out are missing in the answer.
func Produce(ctx context.Context, c *conn.Conn, parts []ProducePart, timeout time.Duration) ([]Produced, error) {
	return Send(ctx, c, parts, timeout)(ctx)
}

// ProduceOne is Produce for one partition. An error is the broker's, or the
// connection's.
func ProduceOne(ctx context.Context, c *conn.Conn, part ProducePart, timeout time.Duration) (Produced, error) {
	answers, err := Produce(ctx, c, []ProducePart{part}, timeout)
	if err != nil {
		return Produced{}, err
	}
	if len(answers) != 1 {
		return Produced{}, fmt.Errorf("produce to %s: %d partitions in the answer for one", part.TopicPartition, len(answers))
	}
	return answers[0], answers[0].Err
}

// Send is Produce without the wait: requests go out in the order of the calls. The
// function that it returns waits for the answer.
func Send(ctx context.Context, c *conn.Conn, parts []ProducePart, timeout time.Duration) func(context.Context) ([]Produced, error) {
	req := kmsg.NewPtrProduceRequest()
	req.Version = min(produceVersionMax, c.MaxVersion(int16(kmsg.Produce)))
	req.Acks = -1
	req.TimeoutMillis = int32(timeout.Milliseconds())
	topics := make(map[string]int)
	for _, p := range parts {
		i, ok := topics[p.Topic]
		if !ok {
			i = len(req.Topics)
			topics[p.Topic] = i
			t := kmsg.NewProduceRequestTopic()
			t.Topic = p.Topic
			req.Topics = append(req.Topics, t)
		}
		rp := kmsg.NewProduceRequestTopicPartition()
		rp.Partition = p.Partition
		rp.Records = p.Batch
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, rp)
	}
	pending := c.Send(ctx, req.Key(), req.Version, true, req.AppendTo(nil))
	return func(ctx context.Context) ([]Produced, error) {
		body, err := pending.Wait(ctx)
		if err != nil {
			return nil, err
		}
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		if err := conn.Decode(resp, body); err != nil {
			return nil, fmt.Errorf("the answer to a produce: %w", err)
		}
		return produced(resp), nil
	}
}

func produced(resp *kmsg.ProduceResponse) (all []Produced) {
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			a := Produced{
				TopicPartition: spillway.TopicPartition{Topic: t.Topic, Partition: p.Partition},
				Err:            kerr.ErrorForCode(p.ErrorCode),
				Base:           spillway.LocalOffset(p.BaseOffset),
			}
			if p.ErrorMessage != nil {
				a.Text = *p.ErrorMessage
			}
			all = append(all, a)
		}
	}
	return all
}
