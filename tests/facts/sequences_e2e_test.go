//go:build e2e

package facts

import (
	"fmt"
	"strings"
	"testing"
)

// What brokers make of producer ids and sequences (experiments A, D, G).
var sequenceFacts = []fact{
	{
		// Spillway starts its own at 0 in an empty partition, so a broker that
		// refuses this (KAFKA-15591, announced for 4.5) stops only clients that
		// move to a partition without a record; see docs/decisions/0003.
		name: "an unknown id starts at sequence 100 in a partition never written",
		probe: func(t *testing.T, s *site) string {
			return s.produce(t, s.topic(t), shape{id: tag, sequence: 100}.batch(t, "a")).String()
		},
		want: "accepted", kfake: "45",
	},
	{
		name: "an unknown id starts at sequence 100 in a partition with a record",
		probe: func(t *testing.T, s *site) string {
			topic := s.topic(t)
			s.produce(t, topic, shape{id: -1, epoch: -1, sequence: -1}.batch(t, "plain"))
			return s.produce(t, topic, shape{id: tag, sequence: 100}.batch(t, "a")).String()
		},
		want: "accepted", kfake: "accepted",
	},
	{
		name: "eight batches are sent again, the newest first",
		probe: func(t *testing.T, s *site) string {
			topic := s.topic(t)
			for i := range int32(8) {
				s.produce(t, topic, shape{id: tag, sequence: i}.batch(t, fmt.Sprint(i)))
			}
			return resend(t, s, topic, 8) + fmt.Sprintf(", log end %d", s.end(t, topic))
		},
		want: "5 get their old offset, 3 get 45, log end 8", kfake: "5 get their old offset, 3 get 45, log end 8",
	},
	{
		name: "a gap of one sequence",
		probe: func(t *testing.T, s *site) string {
			topic := s.topic(t)
			s.produce(t, topic, shape{id: tag}.batch(t, "0"))
			return s.produce(t, topic, shape{id: tag, sequence: 2}.batch(t, "2")).String()
		},
		want: "45", kfake: "45",
	},
	{
		name: "sent again with other boundaries",
		probe: func(t *testing.T, s *site) string {
			topic := s.topic(t)
			s.produce(t, topic, shape{id: tag}.batch(t, "0", "1", "2"))
			part := s.produce(t, topic, shape{id: tag, sequence: 1}.batch(t, "1", "2"))
			more := s.produce(t, topic, shape{id: tag, sequence: 0}.batch(t, "0", "1", "2", "3"))
			return fmt.Sprintf("a part: %s, more: %s", part, more)
		},
		want: "a part: 45, more: 45", kfake: "a part: 45, more: 45",
	},
	{
		name: "sent again with other content",
		probe: func(t *testing.T, s *site) string {
			topic := s.topic(t)
			s.produce(t, topic, shape{id: tag}.batch(t, "one"))
			again := s.produce(t, topic, shape{id: tag}.batch(t, "other"))
			return fmt.Sprintf("%s at %d, the log holds %s", again, again.offset, strings.Join(s.log(t, topic), " "))
		},
		want: "accepted at 0, the log holds one", kfake: "accepted at 0, the log holds one",
	},
	{
		name: "two producers with the same small id",
		probe: func(t *testing.T, s *site) string {
			topic := s.topic(t)
			first := s.produce(t, topic, shape{id: 1}.batch(t, "x", "x", "x"))
			second := s.produce(t, topic, shape{id: 1}.batch(t, "y", "y", "y"))
			next := s.produce(t, topic, shape{id: 1, sequence: 3}.batch(t, "y3"))
			other := s.produce(t, topic, shape{id: 1, sequence: 3}.batch(t, "x3", "x4"))
			return fmt.Sprintf("%s at %d and %s at %d; the next ones %s and %s; the log holds %s",
				first, first.offset, second, second.offset, next, other, strings.Join(s.log(t, topic), " "))
		},
		want:  "accepted at 0 and accepted at 0; the next ones accepted and 45; the log holds x x x y3",
		kfake: "accepted at 0 and accepted at 0; the next ones accepted and 45; the log holds x x x y3",
	},
	{
		name: "a new producer epoch: at sequence 5, at 0, then the old epoch",
		probe: func(t *testing.T, s *site) string {
			topic := s.topic(t)
			// An id of its own: kfake keeps the epoch of an id for the whole cluster.
			const id = tag + 1
			s.produce(t, topic, shape{id: id}.batch(t, "0"))
			at5 := s.produce(t, topic, shape{id: id, epoch: 1, sequence: 5}.batch(t, "5"))
			at0 := s.produce(t, topic, shape{id: id, epoch: 1}.batch(t, "0"))
			old := s.produce(t, topic, shape{id: id, sequence: 1}.batch(t, "1"))
			return fmt.Sprintf("%s, %s, %s", at5, at0, old)
		},
		want: "45, accepted, 47", kfake: "45, accepted, 47",
	},
	{
		name: "the largest id and producer epoch",
		probe: func(t *testing.T, s *site) string {
			return s.produce(t, s.topic(t), shape{id: 1<<63 - 1, epoch: 32767}.batch(t, "a")).String()
		},
		want: "accepted", kfake: "accepted",
	},
	{
		name: "sequences run over 2^31-1: ten from 2147483640, then 1, then 2",
		probe: func(t *testing.T, s *site) string {
			topic := s.topic(t)
			s.produce(t, topic, shape{id: -1, epoch: -1, sequence: -1}.batch(t, "so that kfake takes the first one"))
			const id = tag + 2
			over := s.produce(t, topic, shape{id: id, sequence: 2147483640}.batch(t, strings.Fields("0 1 2 3 4 5 6 7 8 9")...))
			one := s.produce(t, topic, shape{id: id, sequence: 1}.batch(t, "10"))
			two := s.produce(t, topic, shape{id: id, sequence: 2}.batch(t, "10"))
			return fmt.Sprintf("%s, %s, %s", over, one, two)
		},
		want: "accepted, 45, accepted", kfake: "accepted, 45, 45",
	},
	{
		name: "two batches in one record set",
		probe: func(t *testing.T, s *site) string {
			set := append(shape{id: tag}.batch(t, "0"), shape{id: tag, sequence: 1}.batch(t, "1")...)
			return s.produce(t, s.topic(t), set).String()
		},
		want: "87", kfake: "2",
	},
	{
		name: "a fetch beyond the end",
		probe: func(t *testing.T, s *site) string {
			_, code := s.fetch(t, s.topic(t), 5)
			return fmt.Sprint("error ", code, " at once")
		},
		want: "error 1 at once", kfake: "error 1 at once",
	},
	competition,
}

// resend sends the single-record batches 0..n−1 of the tag again, the newest first.
func resend(t *testing.T, s *site, topic string, n int32) string {
	known, refused := 0, 0
	for i := n - 1; i >= 0; i-- {
		switch got := s.produce(t, topic, shape{id: tag, sequence: i}.batch(t, fmt.Sprint(i))); {
		case got.code == 0 && got.offset == int64(i):
			known++
		case got.code == 45:
			refused++
		default:
			t.Errorf("batch %d sent again: %s at %d", i, got, got.offset)
		}
	}
	return fmt.Sprintf("%d get their old offset, %d get 45", known, refused)
}
