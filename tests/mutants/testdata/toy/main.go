// Command toy stands for the product in the runner's own test: a mirror of
// three lines, judged like the real one.
package main

import (
	"os"

	"spillway/tests/orders/check"
	"spillway/tests/orders/history"
)

// mirror copies a log. Mutants spoil it.
func mirror(source []check.Record) []check.Record {
	var target []check.Record
	for _, r := range source {
		target = append(target, r)
	}
	return target
}

func main() {
	at := check.Partition{Topic: "orders"}
	events := []history.Event{{Time: 1, Kind: history.Start, Client: "p", Role: history.Producer, Idempotent: true}}
	var log []check.Record
	for i := range int64(5) {
		id := history.ID{Producer: "p", Topic: at.Topic, Counter: i}
		events = append(events, history.Event{Time: 2, Kind: history.Invoke, Client: "p", Payload: id},
			history.Event{Time: 3, Kind: history.Ack, Client: "p", Payload: id, Offset: i})
		log = append(log, check.Record{Offset: i, ID: id})
	}
	east := &check.Site{Name: "east", Logs: map[check.Partition]*check.Log{at: {End: 5, Records: log}}}
	west := &check.Site{Name: "west", Logs: map[check.Partition]*check.Log{at: {End: 5, Records: mirror(log)}}}
	report, err := check.Run(history.All(events), []*check.Site{east, west}, check.Expect{Home: "east"})
	if err != nil || report.JSON(os.Stdout) != nil || !report.OK {
		os.Exit(1)
	}
}
