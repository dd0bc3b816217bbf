package control

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"spillway"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
)

// replicasBehind is the mirror of a site whose leaders have everything. What its in-sync
// replicas have is told from the outside, below 0 that nobody answers.
type replicasBehind struct {
	Mirror
	durable chan spillway.Offset
}

func (m *replicasBehind) Ends(spillway.ShareID) map[spillway.TopicPartition]spillway.Offset {
	return map[spillway.TopicPartition]spillway.Offset{orders0: 100}
}

func (m *replicasBehind) DurableEnds(ctx context.Context, _ spillway.ShareID) (map[spillway.TopicPartition]spillway.Offset, error) {
	select {
	case o := <-m.durable:
		if o < 0 {
			return nil, errors.New("nobody answers")
		}
		return map[spillway.TopicPartition]spillway.Offset{orders0: o}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// A site has again what was acknowledged by fewer sites when all of its in-sync replicas
// have it, not when its leaders do: one of these may be lost next.
func TestASiteIsRestoredWhenItsReplicasAre(t *testing.T) {
	t.Parallel()
	store, keys, id := coordtest.NewMemory(), failover.Keys("shop"), spillway.ShareID{Group: "orders"}
	m := &replicasBehind{durable: make(chan spillway.Offset)}
	s := &followed{f: &Follower{cfg: FollowerConfig{Store: store, Mirror: m}, keys: keys, site: "west"}, id: id, reports: map[spillway.Epoch]*siteReport{}}
	restore := failover.PartitionOffsets{}
	restore.Set(orders0, 100)
	done := make(chan error, 1)
	go func() {
		done <- s.restore(within(t), failover.Share{Group: "orders", Epoch: 3, Degrades: 2, Restore: restore})
	}()
	for _, durable := range []spillway.Offset{99, -1, 99, 100} {
		select {
		case m.durable <- durable:
		case err := <-done:
			t.Fatalf("it was restored before its replicas had all: %v", err)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	e, err := store.Get(within(t), keys.SiteReport(id, 3, "west"))
	var r failover.SiteReport
	if err != nil || json.Unmarshal(e.Value, &r) != nil || r.Restored != 2 {
		t.Errorf("it says %s, %v", e.Value, err)
	}
}
