//go:build e2e

package facts

import (
	"fmt"
	"testing"
	"time"
)

// What brokers remember of a producer, and for how long (experiments A, C).
var memoryFacts = []fact{
	{
		name:  "producers are forgotten by the age of their records, not by the clock",
		probe: expiry,
		want:  "23 h old: known; 25 h old: forgotten, a resend is appended; 25 h old under LogAppendTime: known",
	},
	{
		name:  "DescribeProducers of an id outside transactions",
		probe: func(t *testing.T, s *site) string { return described(t, s, written(t, s)) },
		want:  "producer epoch 0, last sequence 7", kfake: "not listed",
	},
	{
		name: "after a restart in order: DescribeProducers; all eight sent again",
		probe: func(t *testing.T, s *site) string {
			topic := written(t, s)
			s.restart(t)
			return afterRestart(t, s, topic)
		},
		want: "producer epoch 0, last sequence 7; 1 get their old offset, 7 get 45, log end 8",
	},
	{
		name: "after SIGKILL: DescribeProducers; all eight sent again",
		probe: func(t *testing.T, s *site) string {
			topic := written(t, s)
			s.kill(t)
			return afterRestart(t, s, topic)
		},
		want: "producer epoch 0, last sequence 7; 1 get their old offset, 7 get 45, log end 8",
	},
}

// written makes a topic with eight batches of one record under the tag.
func written(t *testing.T, s *site) string {
	topic := s.topic(t)
	for i := range int32(8) {
		if got := s.produce(t, topic, shape{id: tag, sequence: i}.batch(t, fmt.Sprint(i))); got.code != 0 {
			t.Fatalf("batch %d: %s", i, got)
		}
	}
	return topic
}

func described(t *testing.T, s *site, topic string) string {
	state, listed := s.producer(t, topic, tag)
	if !listed {
		return "not listed"
	}
	return fmt.Sprintf("producer epoch %d, last sequence %d", state.ProducerEpoch, state.LastSequence)
}

func afterRestart(t *testing.T, s *site, topic string) string {
	eventually(t, "the partition has a leader again", func() bool { return s.end(t, topic) == 8 })
	state := described(t, s, topic)
	return fmt.Sprintf("%s; %s, log end %d", state, resend(t, s, topic, 8), s.end(t, topic))
}

// expiry writes records of three ages, waits until the broker has looked, and
// sends the last batch again.
func expiry(t *testing.T, s *site) string {
	young, old, stamped := s.topic(t), s.topic(t), s.topic(t, "message.timestamp.type", "LogAppendTime")
	age := map[string]time.Duration{young: 23 * time.Hour, old: 25 * time.Hour, stamped: 25 * time.Hour}
	now := time.Now()
	send := func(topic string, sequence int32) outcome {
		return s.produce(t, topic, shape{id: tag, sequence: sequence, at: now.Add(-age[topic])}.batch(t, fmt.Sprint(sequence)))
	}
	for _, topic := range []string{old, young, stamped} {
		for i := range int32(3) {
			if got := send(topic, i); got.code != 0 {
				t.Fatalf("batch %d: %s", i, got)
			}
		}
	}
	eventually(t, "the producer with records 25 h old is forgotten", func() bool {
		_, listed := s.producer(t, old, tag)
		return !listed
	})
	// One look takes in all partitions, but not at one instant: a partition that
	// was looked at before it was written would show nothing. So wait for a
	// second producer to be forgotten too, which takes another look.
	second := s.topic(t)
	age[second] = 25 * time.Hour
	send(second, 0)
	eventually(t, "a second one is forgotten", func() bool {
		_, listed := s.producer(t, second, tag)
		return !listed
	})
	say := func(topic string) string {
		again, end := send(topic, 2), s.end(t, topic)
		switch {
		case again.code == 0 && again.offset == 2 && end == 3:
			return "known"
		case again.code == 0 && again.offset == 3 && end == 4:
			return "forgotten, a resend is appended"
		}
		return fmt.Sprintf("%s at %d, log end %d", again, again.offset, end)
	}
	return fmt.Sprintf("23 h old: %s; 25 h old: %s; 25 h old under LogAppendTime: %s", say(young), say(old), say(stamped))
}
