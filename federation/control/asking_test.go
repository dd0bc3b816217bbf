package control

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/federation/failover"
	"spillway/federation/preflight"
)

// cramped is a site with disks of which little is left, and of which a byte stands for a
// MiB. With silent, its brokers do not answer when they are asked for them.
type cramped struct {
	broker.Cluster
	usable int64
	silent *atomic.Bool
}

type crampedAdmin struct {
	broker.Admin
	of cramped
}

func (c cramped) Admin() broker.Admin { return crampedAdmin{c.Cluster.Admin(), c} }

func (a crampedAdmin) LogDirs(ctx context.Context, tps []spillway.TopicPartition) (map[int32][]broker.LogDir, error) {
	if a.of.silent.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	brokers, err := a.Admin.LogDirs(ctx, tps)
	for _, dirs := range brokers {
		for i := range dirs {
			dirs[i].Path, dirs[i].TotalBytes, dirs[i].UsableBytes = "/data", a.of.usable, a.of.usable
			for tp := range dirs[i].Sizes {
				dirs[i].Sizes[tp] <<= 20
			}
		}
	}
	return brokers, err
}

// A target without room for what the group writes is refused, unless a person says to go
// on. One that does not tell of its disks in time is told of, and delays the move no more
// than any other look at the sites.
func TestASwitchoverToASiteWithoutRoom(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	silent := &atomic.Bool{}
	w.operator.Sites = map[spillway.SiteID]broker.Cluster{}
	for id, s := range w.sites {
		w.operator.Sites[id] = cramped{s.cluster, 1 << 30, silent}
	}
	w.operator.Waiting = nil
	w.settled(1)
	for _, n := range []int{40, 5} {
		w.produce("east", strings.Repeat("a", n), n)
	}
	dry := func() (Plan, bool) {
		plan, err := w.operator.Switchover(within(t), "orders", "west", "ann", "", true)
		return plan, err == nil
	}
	told := func(plan Plan, about string) []preflight.Finding {
		return slices.DeleteFunc(slices.Clone(plan.Findings), func(f preflight.Finding) bool { return f.About != about })
	}
	var plan Plan
	w.eventually("it would be refused", func() (ok bool) { plan, ok = dry(); return ok && len(plan.Refused) == 1 })
	if f := told(plan, preflight.AboutDisks); len(f) != 1 || !strings.Contains(f[0].What, "disks of west have no room for 1h of what the group writes: disk of broker 0 (/data) has 1.0 GiB left, the group writes ") {
		t.Errorf("%+v", plan.Findings)
	}
	w.eventually("it is refused", func() bool {
		_, err := w.operator.Switchover(within(t), "orders", "west", "ann", "", false)
		return err != nil && strings.Contains(err.Error(), "--accept disks")
	})

	silent.Store(true)
	began := time.Now()
	w.eventually("not told in time", func() (ok bool) { began = time.Now(); plan, ok = dry(); return ok })
	if f := told(plan, preflight.AboutDisks); len(f) != 2 || f[0].Refuses || !strings.HasPrefix(f[0].What, "disks of west could not be checked: ") {
		t.Errorf("%+v", plan.Findings)
	}
	if took := time.Since(began); took < forecastMax || took > 2*forecastMax {
		t.Errorf("it took %s", took)
	}
	silent.Store(false)

	w.operator.Accept = []string{preflight.AboutDisks}
	w.eventually("it begins where a person says so", func() bool {
		var err error
		plan, err = w.operator.Switchover(within(t), "orders", "west", "ann", "", false)
		return err == nil
	})
	if f := told(plan, preflight.AboutDisks); len(f) != 1 || !f[0].Accepted {
		t.Errorf("%+v", plan.Findings)
	}
	if share, err := w.operator.Await(within(t), "orders", plan.Epoch, nil); err != nil || share.Active != "west" || share.State != failover.Stable {
		t.Errorf("%+v, %v", share, err)
	}
	audit, err := w.operator.Audit(within(t))
	if err != nil || !slices.ContainsFunc(audit, func(a failover.AuditEntry) bool {
		return a.What == "switchover of orders from east to west, accepted: disks"
	}) {
		t.Errorf("%+v, %v", audit, err)
	}
}
