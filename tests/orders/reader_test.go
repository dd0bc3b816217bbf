package orders

import (
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/tests/orders/history"
)

// A client that has left its group hands on the answer as it came: with topic ids only.
func TestAnAnswerToACommitNamesItsTopics(t *testing.T) {
	first, second := [16]byte{1}, [16]byte{2}
	req := &kmsg.OffsetCommitRequest{Version: 10, Topics: []kmsg.OffsetCommitRequestTopic{{Topic: "orders", TopicID: first}, {Topic: "carts", TopicID: second}}}
	answer := func(topic string, id [16]byte, partition int32, code int16) kmsg.OffsetCommitResponseTopic {
		return kmsg.OffsetCommitResponseTopic{Topic: topic, TopicID: id, Partitions: []kmsg.OffsetCommitResponseTopicPartition{{Partition: partition, ErrorCode: code}}}
	}
	resp := &kmsg.OffsetCommitResponse{Version: 10, Topics: []kmsg.OffsetCommitResponseTopic{
		answer("", second, 4, kerr.UnknownMemberID.Code), answer("orders", [16]byte{}, 1, 0), answer("", [16]byte{3}, 0, 0),
	}}
	want := []history.Event{
		{Kind: history.Commit, Topic: "carts", Partition: 4, Error: kerr.UnknownMemberID.Error()},
		{Kind: history.Commit, Topic: "orders", Partition: 1},
	}
	if got := committed(req, resp); !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}
