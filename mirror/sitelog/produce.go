package sitelog

import (
	"context"
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
	kresp, err := c.DoVersion(ctx, req)
	if err != nil {
		return nil, err
	}
	produced := make([]Produced, 0, len(parts))
	for _, t := range kresp.(*kmsg.ProduceResponse).Topics {
		for _, p := range t.Partitions {
			a := Produced{
				TopicPartition: spillway.TopicPartition{Topic: t.Topic, Partition: p.Partition},
				Err:            kerr.ErrorForCode(p.ErrorCode),
				Base:           spillway.LocalOffset(p.BaseOffset),
			}
			if p.ErrorMessage != nil {
				a.Text = *p.ErrorMessage
			}
			produced = append(produced, a)
		}
	}
	return produced, nil
}
