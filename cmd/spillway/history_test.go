package main

import (
	"strings"
	"testing"

	"spillway/federation/failover"
	"spillway/federation/history"
)

func TestTheMoveOfAReport(t *testing.T) {
	records := []history.Record{{Kind: failover.Switchover, Epoch: 2}, {Kind: failover.Failover, Epoch: 4}, {Kind: failover.Degrade, Epoch: 4}, {Kind: failover.Degrade, Epoch: 5}}
	if r, err := moveOf(records, 0); err != nil || r.Epoch != 4 || r.Kind != failover.Failover {
		t.Errorf("the last: %+v, %v", r, err)
	}
	if r, err := moveOf(records, 2); err != nil || r.Kind != failover.Switchover {
		t.Errorf("epoch 2: %+v, %v", r, err)
	}
	if _, err := moveOf(records, 5); err == nil || !strings.Contains(err.Error(), "those to 2, 4") {
		t.Errorf("a degrade is no move: %v", err)
	}
	if _, err := moveOf(nil, 0); err == nil {
		t.Error("no move, and a report of it")
	}
}

func TestHistoryRowsShowWhatWasForetoldAndFound(t *testing.T) {
	rows := historyRows([]history.Record{{Kind: failover.Failover, Epoch: 4, HeldMillis: 900, LostMost: 61, Known: &history.Known{Forecast: history.Forecast{PauseMillis: 800}},
		Found: []history.Found{{Site: "east", Records: 7}, {Site: "north", Records: -1}}}})
	if !strings.Contains(rows[1], "\t900 ms\t800 ms\t61\t7 at east, not counted at north\t") {
		t.Errorf("%q", rows)
	}
}
