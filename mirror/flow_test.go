package mirror

import (
	"testing"

	"spillway"
	"spillway/broker/embedded"
)

// pair is a share served at east and followed by west.
type pair struct {
	east, west   *embedded.Cluster
	eastM, westM *Mirror
}

func newPair(t *testing.T, topics map[string]int32) *pair {
	t.Helper()
	p := &pair{east: embeddedSite(t, "east", topics), west: embeddedSite(t, "west", nil)}
	p.eastM = testMirror(t, p.east, p.west)
	p.westM = testMirror(t, p.west, p.east)
	assign(t, p.eastM, ordersAssignment("", 1))
	assign(t, p.westM, ordersAssignment("east", 1))
	return p
}

func (p *pair) wait(t *testing.T) {
	t.Helper()
	ctx := testContext(t)
	eventually(t, "west has what east has", func() bool {
		return caughtUp(ctx, p.east, p.eastM, p.westM, ordersAssignment("", 1))
	})
}

func TestMirrorsRecordForRecord(t *testing.T) {
	t.Parallel()
	p := newPair(t, map[string]int32{"orders": 3, "orders-audit": 1, "other": 1})
	l := newLoad(t, p.east.Addresses(), 1)
	for range 4 {
		if err := l.write(testContext(t), "orders", 3, 40); err != nil {
			t.Fatal(err)
		}
		p.wait(t)
	}
	for i := range int32(3) {
		compareSites(t, p.east, p.west, p.eastM, p.westM, spillway.TopicPartition{Topic: "orders", Partition: i})
	}
	if md, err := p.west.Metadata(testContext(t)); err != nil || len(md.Topics["orders"].Partitions) != 3 || len(md.Topics["other"].Partitions) != 0 {
		t.Errorf("topics at west: %v %v", md.Topics, err)
	}
	if gaps := p.westM.Map().Gaps(); len(gaps) != 0 {
		t.Errorf("gaps: %v", gaps)
	}
}
