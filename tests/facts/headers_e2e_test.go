//go:build e2e

package facts

import (
	"fmt"
	"testing"
	"time"

	"spillway/broker/batch"
)

// Which header fields brokers take as sent, change, or refuse (experiments F).
var headerFacts = []fact{
	{
		name: "base offset 5",
		probe: func(t *testing.T, s *site) string {
			return s.produce(t, s.topic(t), shape{id: tag, offset: 5}.batch(t, "a")).String()
		},
		want: "87", kfake: "2",
	},
	{
		name: "leader epoch 77",
		probe: func(t *testing.T, s *site) string {
			topic := s.topic(t)
			got := s.produce(t, topic, shape{id: tag, leader: 77}.batch(t, "a"))
			header, whole := s.stored(t, topic, 0)
			return fmt.Sprintf("%s, stored as %d, checksum right: %v", got, header.LeaderEpoch, whole)
		},
		want: "accepted, stored as 0, checksum right: true", kfake: "accepted, stored as 0, checksum right: true",
	},
	{
		name:  "the bit of LogAppendTime, to a topic of CreateTime",
		probe: func(t *testing.T, s *site) string { return attribute(t, s, s.topic(t), batch.AttributeLogAppendTime) },
		want:  "accepted, stored without it, checksum right: true",
		kfake: "accepted, stored with it, checksum right: false",
	},
	{
		name: "the bit of LogAppendTime, to a topic of LogAppendTime",
		probe: func(t *testing.T, s *site) string {
			topic := s.topic(t, "message.timestamp.type", "LogAppendTime")
			return s.produce(t, topic, shape{id: tag, attributes: batch.AttributeLogAppendTime}.batch(t, "a")).String()
		},
		want: "32", kfake: "accepted",
	},
	{
		name:  "the bit of a delete horizon",
		probe: func(t *testing.T, s *site) string { return attribute(t, s, s.topic(t), batch.AttributeDeleteHorizon) },
		want:  "accepted, stored with it, checksum right: true",
		kfake: "accepted, stored with it, checksum right: true",
	},
	{
		name: "the bit of a control batch",
		probe: func(t *testing.T, s *site) string {
			return s.produce(t, s.topic(t), shape{id: tag, attributes: batch.AttributeControl}.batch(t, "a")).String()
		},
		want: "87", kfake: "87",
	},
	{
		name: "the bit of a transaction, without one",
		probe: func(t *testing.T, s *site) string {
			return s.produce(t, s.topic(t), shape{id: tag + 3, attributes: batch.AttributeTransactional}.batch(t, "a")).String()
		},
		want: "53",
	},
	{
		name: "a timestamp of 1970",
		probe: func(t *testing.T, s *site) string {
			return s.produce(t, s.topic(t), shape{id: tag, at: time.UnixMilli(1000)}.batch(t, "a")).String()
		},
		want: "accepted", kfake: "accepted",
	},
	{
		name: "a timestamp two hours ahead",
		probe: func(t *testing.T, s *site) string {
			return s.produce(t, s.topic(t), shape{id: tag, at: time.Now().Add(2 * time.Hour)}.batch(t, "a")).String()
		},
		want: "32", want392: "accepted", kfake: "accepted",
	},
}

// attribute produces a batch with one attribute bit and says what was stored.
func attribute(t *testing.T, s *site, topic string, bit int16) string {
	// A minute old: a broker that stamps its own time is seen to.
	got := s.produce(t, topic, shape{id: tag, at: time.Now().Add(-time.Minute), attributes: bit}.batch(t, "a"))
	if got.code != 0 {
		return got.String()
	}
	header, whole := s.stored(t, topic, 0)
	with := map[bool]string{true: "with", false: "without"}[header.Attributes&bit != 0]
	return fmt.Sprintf("%s, stored %s it, checksum right: %v", got, with, whole)
}
