package control

import (
	"testing"

	"spillway"
)

func TestWhatIsReadAgain(t *testing.T) {
	orders1 := spillway.TopicPartition{Topic: "orders", Partition: 1}
	ends := map[spillway.TopicPartition]spillway.Offset{orders0: 1100, orders1: 1100}
	at := func(offsets ...spillway.Offset) map[spillway.TopicPartition]spillway.Offset {
		m := map[spillway.TopicPartition]spillway.Offset{}
		for i, o := range offsets {
			m[spillway.TopicPartition{Topic: "orders", Partition: int32(i)}] = o
		}
		return m
	}
	since := "what each consumer has read since its last commit"
	for name, c := range map[string]struct {
		here, there positions
		want        string
	}{
		"no groups":                  {nil, nil, since},
		"all commits are there":      {positions{"a": at(1050, 1060)}, positions{"a": at(1050, 1060)}, since},
		"some are not there yet":     {positions{"a": at(1050, 1060), "b": at(1050), "c": at(1000)}, positions{"a": at(1040, 1055), "b": at(1049), "c": at(1000)}, "at least 16 records in 2 groups, whose last commits west does not have yet, and " + since},
		"what is lost is not read":   {positions{"a": at(1150)}, positions{"a": at(1090)}, "at least 10 records in 1 groups, whose last commits west does not have yet, and " + since},
		"the target is further":      {positions{"a": at(1050)}, positions{"a": at(1060)}, since},
		"a group that it never had":  {positions{"a": at(1050, 1060), "b": at(1)}, positions{"b": at(1)}, since + "; west knows no position of a (2 of 2 partitions), which begin there where auto.offset.reset says"},
		"one that is only there":     {positions{}, positions{"a": at(1050)}, since},
		"a partition without commit": {positions{"a": at(1050, 1060)}, positions{"a": at(1050)}, since + "; west knows no position of a (1 of 2 partitions), which begin there where auto.offset.reset says"},
	} {
		if got := reread(c.here, c.there, "west", ends); got != c.want {
			t.Errorf("%s: %q, not %q", name, got, c.want)
		}
	}
}
