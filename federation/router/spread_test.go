package router

import (
	"context"
	"fmt"
	"syscall"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker"
	"spillway/lb"
)

// Brokers take one batch for a partition in a request.
func TestDistinct(t *testing.T) {
	var parts []*part
	for _, n := range []int32{0, 1, 0, 2, 0, 1} {
		parts = append(parts, &part{spread: &spread{}, tp: spillway.TopicPartition{Topic: "clicks", Partition: n}})
	}
	var rounds [][]*part
	for len(parts) > 0 {
		var once []*part
		once, parts = distinct(parts)
		rounds = append(rounds, once)
	}
	if len(rounds) != 3 || len(rounds[0]) != 3 || len(rounds[1]) != 2 || len(rounds[2]) != 1 {
		t.Errorf("rounds %v", rounds)
	}
}

// What a client did wrong does not eject its site.
func TestOutcomes(t *testing.T) {
	for code, want := range map[int16]lb.Outcome{
		0: lb.Succeeded, kerr.NotEnoughReplicas.Code: lb.Failed, kerr.RequestTimedOut.Code: lb.Failed, kerr.NotLeaderForPartition.Code: lb.Failed,
		kerr.KafkaStorageError.Code: lb.Failed, kerr.MessageTooLarge.Code: lb.Unknown, kerr.InvalidRecord.Code: lb.Unknown, kerr.InvalidTimestamp.Code: lb.Unknown,
		kerr.CorruptMessage.Code: lb.Unknown, kerr.UnknownTopicOrPartition.Code: lb.Unknown,
	} {
		if got := outcomeOf(code); got != want {
			t.Errorf("code %d is outcome %d, want %d", code, got, want)
		}
	}
}

func TestWhatSaysNothingOfASite(t *testing.T) {
	for err, want := range map[error]bool{
		broker.ErrUnknownTopic: true, broker.ErrNoLeader: true, errNumbersUnknown: true,
		broker.ErrUnknownNode: false, context.DeadlineExceeded: false, syscall.ECONNREFUSED: false,
	} {
		if got := saysNothingOfSite(fmt.Errorf("site east: %w", err)); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}
