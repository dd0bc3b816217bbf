package selection

import (
	"context"
	"maps"
	"testing"

	"spillway"
	"spillway/broker"
)

// sized is a cluster whose broker tells sizes of the logs that it is asked for.
type sized struct{ broker.Cluster }

type sizedAdmin struct{ broker.Admin }

func (s sized) Admin() broker.Admin { return sizedAdmin{} }

func (s sized) Metadata(context.Context, ...string) (broker.Metadata, error) {
	return broker.Metadata{Topics: map[string]broker.TopicMetadata{"orders": {Name: "orders"}, "carts": {Name: "carts"}}}, nil
}

func (sizedAdmin) LogDirs(_ context.Context, tps []spillway.TopicPartition) (map[int32][]broker.LogDir, error) {
	d := broker.LogDir{Sizes: map[spillway.TopicPartition]int64{}}
	for _, tp := range tps {
		d.Sizes[tp] = int64(len(tp.Topic))
	}
	return map[int32][]broker.LogDir{1: {d}}, nil
}

// Sizes are asked for by the names that topics have there, and told by those here.
func TestLogDirsByTheNamesHere(t *testing.T) {
	c := Of(sized{}, parse(t, ".*", "", "(.*)=east.$1"))
	if _, err := c.Metadata(t.Context()); err != nil {
		t.Fatal(err)
	}
	tp := spillway.TopicPartition{Topic: "east.carts", Partition: 2}
	brokers, err := c.Admin().LogDirs(t.Context(), []spillway.TopicPartition{tp})
	if err != nil || len(brokers[1]) != 1 || !maps.Equal(brokers[1][0].Sizes, map[spillway.TopicPartition]int64{tp: int64(len("carts"))}) {
		t.Errorf("%+v, %v", brokers, err)
	}
}
