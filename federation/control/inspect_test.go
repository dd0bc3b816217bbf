package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
	"spillway/federation/layout"
	"spillway/federation/preflight"
)

// A target that would refuse what producers write is no target of a switchover. A
// failover is told of it, and goes where a person says.
func TestASwitchoverToASiteThatTakesNoWritesIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.operator.Sites = map[spillway.SiteID]broker.Cluster{}
	asked := &atomic.Int64{}
	for id, s := range w.sites {
		w.operator.Sites[id] = noting{s.cluster, asked}
	}
	w.settled(1)
	set := func(name string, value *string) {
		t.Helper()
		if err := w.sites["west"].cluster.Admin().SetTopicConfigs(within(t), "orders", map[string]*string{name: value}); err != nil {
			t.Fatal(err)
		}
	}
	two, small := "2", "1000"
	set("min.insync.replicas", &two) // of one
	set("max.message.bytes", &small)
	w.operator.Waiting = nil
	var plan Plan
	w.eventually("the dry run says so", func() bool {
		var err error
		plan, err = w.operator.Switchover(within(t), "orders", "west", "ann", "", true)
		return err == nil && len(plan.Refused) == 1
	})
	if !strings.Contains(plan.Refused[0], "orders-0 (1 of 2), orders-1 (1 of 2)") || len(plan.Findings) != 3 || plan.Findings[1].What != "how much room the disks of west have is not told, and was not checked: broker 0" || !strings.Contains(plan.Findings[2].What, "larger batches will be refused: orders (1000, not ") {
		t.Errorf("%+v", plan)
	}
	w.eventually("it is refused for that reason", func() bool { // and not since somebody was not heard for a moment
		_, err := w.operator.Switchover(within(t), "orders", "west", "ann", "", false)
		return errors.Is(err, failover.ErrBehind) && strings.Contains(err.Error(), "min.insync.replicas")
	})
	if s := w.record(); s.State != failover.Stable || s.Epoch != 1 {
		t.Fatalf("it began all the same: %+v", s)
	}
	w.eventually("a failover is told of it", func() bool {
		plan, err := w.operator.Failover(within(t), "orders", "west", -1, "ann", "", true)
		return err == nil && len(plan.Refused) == 0 && len(plan.Findings) == 3
	})
	// With Waiting, the switchover begins as soon as the site takes writes.
	told := make(chan string, 1000)
	var began time.Time
	var waited time.Duration
	w.operator.Waiting = func(why error) bool {
		if strings.Contains(why.Error(), "min.insync.replicas") {
			if told <- why.Error(); len(told) == 1 {
				began = time.Now()
			}
			if len(told) == 4 {
				set("min.insync.replicas", nil)
				waited = time.Since(began)
			}
		}
		return len(told) < 900
	}
	plan = w.switchover("west", "")
	share, err := w.operator.Await(within(t), "orders", plan.Epoch, nil)
	if err != nil || share.Active != "west" {
		t.Errorf("%+v, %v", share, err)
	}
	// Nobody was held while the sites were looked at, and no time is counted for it.
	if began := share.Passages[0].At; began.UnixNano() < asked.Load() || !share.Started.Equal(began) {
		t.Errorf("began %v, asked %v after that", began, time.Unix(0, asked.Load()).Sub(began))
	}
	if least := (1 + 2 + 4) * w.operator.look / 2; waited < least { // the lists are long, and not read at once again
		t.Errorf("looked four times in %s, at least %s", waited, least)
	}
}

// A plan warns of gateways that would tell all clients to come again.
func TestAPlanTellsWhoKnowsNoRightsAtTheTarget(t *testing.T) {
	store, ctx := coordtest.NewMemory(), t.Context()
	h := newHub(store, "shop", coordination.GoClock{}, time.Minute, time.Second)
	for _, beat := range []uint64{1, 2} { // who writes once only may have died
		for id, unread := range map[spillway.GatewayID][]spillway.SiteID{"one": {"west"}, "two": nil, "three": {"north", "west"}, "four": {"north"}} {
			value, err := json.Marshal(layout.GatewayLease{ID: id, Boot: "boot", Beat: beat, RightsUnread: unread})
			if err != nil {
				t.Fatal(err)
			}
			key := failover.Keys("shop").Gateway(id)
			e, _ := store.Get(ctx, key) // version 0 if absent
			if _, err := store.Put(ctx, key, value, e.Version); err != nil {
				t.Fatal(err)
			}
		}
		entries, err := store.List(ctx, h.keys.Gateways())
		if err != nil {
			t.Fatal(err)
		}
		h.take(h.keys.Gateways(), entries)
	}
	for target, want := range map[spillway.SiteID]string{"west": "one, three", "east": ""} {
		p := newPlan(spillway.FailoverGroup{}, h, failover.View{})
		if len(p.Gateways) != 4 {
			t.Fatalf("%q", p.Gateways)
		}
		next := failover.Share{Kind: failover.Switchover, Active: "north", Target: target}
		p.explain(spillway.FailoverGroup{}, next, next, failover.View{})
		told := ""
		for _, e := range p.Effects {
			if _, who, is := strings.Cut(e, "never read the access control list of "+string(target)+", and tell clients of what is served there to come again: "); is {
				told, _, _ = strings.Cut(who, ";")
			}
		}
		if told != want {
			t.Errorf("to %s: %q", target, p.Effects)
		}
	}
}

func TestPlansOfOthersAreNotRefused(t *testing.T) {
	for name, c := range map[string]struct {
		plan Plan
		max  int64
		want int
	}{
		"more than accepted":           {Plan{read: true, allRead: true, LostLeast: 5}, 4, 1},
		"as much as accepted":          {Plan{read: true, allRead: true, LostLeast: 5}, 5, 0},
		"any number is accepted":       {Plan{read: true, allRead: true, LostLeast: 5}, -1, 0},
		"a survivor could not be read": {Plan{read: true, LostLeast: 5}, 0, 0},
		"nothing was read":             {Plan{allRead: true, LostLeast: -1}, 0, 0},
	} {
		c.plan.refuse(failover.Request{Kind: failover.Failover, LossMax: c.max})
		if len(c.plan.Refused) != c.want {
			t.Errorf("%s: %v", name, c.plan.Refused)
		}
	}
	limits := failover.Limits{Group: spillway.FailoverGroup{Sites: []spillway.SiteID{"east", "west", "north"}}}
	known := failover.Known{Order: []spillway.SiteID{"west"}, Ends: map[spillway.SiteID]failover.PartitionOffsets{"west": {"orders": {10}}}, Reserved: failover.PartitionOffsets{"orders": {15}}}
	for _, north := range []failover.SiteView{{Mirror: true}, {Shared: true}, {}, {Judgement: failover.Judgement{Down: true}}} {
		var p Plan
		p.foreseen(known, "east", failover.View{Sites: map[spillway.SiteID]failover.SiteView{"north": north}}, limits)
		if !p.read || p.allRead != north.Judgement.Down || p.allRead != (p.LostLeast >= 0) || p.LostMost != 5 {
			t.Errorf("%+v: %+v", north, p)
		}
	}
	p := Plan{Unread: []string{"site east: down"}}
	p.unread("east", errors.New("again"))
	p.unread("west", errors.New("no way"))
	if !slices.Equal(p.Unread, []string{"site east: down", "site west: no way"}) {
		t.Errorf("%q", p.Unread)
	}
}

// shows is a site that shows its topics and no settings.
type shows struct {
	broker.Cluster
	topics map[string]broker.TopicMetadata
}

type noSettings struct{ broker.Admin }

var errNoSettings = errors.New("no access to settings")

func (s shows) Metadata(context.Context, ...string) (broker.Metadata, error) {
	return broker.Metadata{Topics: s.topics}, nil
}
func (s shows) Admin() broker.Admin { return noSettings{} }

func (noSettings) LogDirs(context.Context, []spillway.TopicPartition) (map[int32][]broker.LogDir, error) {
	return nil, errNoSettings
}
func (noSettings) Features(context.Context) (map[string]int16, error) { return nil, errNoSettings }
func (noSettings) LogStarts(context.Context, []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	return nil, errNoSettings
}
func (noSettings) HighWatermarks(context.Context, []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	return nil, errNoSettings
}
func (noSettings) OffsetsForTime(context.Context, []spillway.TopicPartition, int64) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	return nil, errNoSettings
}
func (noSettings) ListGroups(context.Context) ([]broker.GroupListing, error) {
	return nil, errNoSettings
}
func (noSettings) AllACLs(context.Context) ([]spillway.ACL, error) { return nil, errNoSettings }
func (noSettings) Quotas(context.Context) (map[broker.QuotaEntity]map[string]float64, error) {
	return nil, errNoSettings
}
func (s shows) Capabilities() broker.Capabilities { return broker.Capabilities{} }

func (noSettings) TopicConfigs(context.Context, string) (map[string]broker.ConfigValue, error) {
	return nil, errNoSettings
}

// What a site showed counts, though it did not show its settings.
func TestASiteWithoutSettingsIsComparedAllTheSame(t *testing.T) {
	g := testGroup([]spillway.SiteID{"east", "west"})
	g.Topics = []string{"*"}
	east, west := shows{topics: map[string]broker.TopicMetadata{}}, shows{topics: map[string]broker.TopicMetadata{}}
	for i := range settingsMax + 7 {
		name := fmt.Sprint("topic", i)
		east.topics[name] = broker.TopicMetadata{Partitions: []broker.PartitionMetadata{{}}}
		west.topics[name] = broker.TopicMetadata{Partitions: []broker.PartitionMetadata{{Leader: -1}}}
	}
	east.topics["only here"] = broker.TopicMetadata{Partitions: []broker.PartitionMetadata{{}}}
	o := &Operator{topology: spillway.NewTopology("shop", "shop-1", []spillway.Site{{ID: "east"}, {ID: "west"}}, []spillway.FailoverGroup{g}), Sites: map[spillway.SiteID]broker.Cluster{"east": east, "west": west}}
	var p Plan
	p.look(within(t), o, g, failover.Share{Active: "east"}, failover.Share{Kind: failover.Switchover, Target: "west"}, failover.View{}, true)
	p.refuse(failover.Request{Kind: failover.Switchover})
	if len(p.Unread) != 2 || len(p.Refused) != 2 || !strings.Contains(p.Refused[0], "west lacks topics, which its mirror has to create first: only here") {
		t.Errorf("%q, %q", p.Unread, p.Refused)
	}
	var about []string
	for _, f := range p.Findings[2 : len(p.Findings)-1] {
		if !strings.HasSuffix(f.What, "could not be checked: "+errNoSettings.Error()) || f.Refuses {
			t.Errorf("%+v", f)
		}
		about = append(about, f.About)
	}
	if !slices.Equal(about, []string{preflight.AboutDisks, preflight.AboutFeatures, preflight.AboutQuotas, preflight.AboutRights, preflight.AboutDisks, preflight.AboutFeatures, preflight.AboutGroups, preflight.AboutQuotas, preflight.AboutRights}) {
		t.Errorf("not checked: %q", about)
	}
	if f := p.Findings[len(p.Findings)-1]; f.What != "the settings of 200 topics were compared, not of 7 more" {
		t.Errorf("%+v", f)
	}
}
