package control

import (
	"context"
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
	"spillway/federation/history"
)

// besideless is a store that answers nobody who writes beside the history until it is
// told to, and then refuses if refuse is set.
type besideless struct {
	coordination.Store
	answers chan struct{}
	refuse  *atomic.Bool
}

var errBeside = errors.New("permission denied")

func (b besideless) Put(ctx context.Context, key string, value []byte, version uint64) (uint64, error) {
	if strings.Contains(key, "/beside/") {
		<-b.answers // whatever ctx says
		if b.refuse.Load() {
			return 0, errBeside
		}
		ctx = context.WithoutCancel(ctx)
	}
	return b.Store.Put(ctx, key, value, version)
}

func (b besideless) Txn(ctx context.Context, ops []coordination.Op) error {
	if slices.ContainsFunc(ops, func(op coordination.Op) bool { return strings.Contains(op.Key, "/beside/") }) {
		return errBeside
	}
	return b.Store.Txn(ctx, ops)
}

// No move waits for what is kept beside its record, and none is stopped by it.
func TestNoMoveDependsOnWhatIsKeptBeside(t *testing.T) {
	t.Parallel()
	store := besideless{coordtest.NewMemory(), make(chan struct{}), &atomic.Bool{}}
	w := newWorld(t, options{store: store, group: func(g *spillway.FailoverGroup) {
		g.Failover = spillway.AutomaticFailover{Enabled: true, After: 200 * time.Millisecond, LossRecordsMax: 1000}
	}})
	w.settled(1)
	w.kill("east")
	share := w.settled(2)
	moves, err := w.operator.History(within(t), "orders")
	if err != nil || len(moves) != 1 || moves[0].Known != nil || moves[0].Who != "automation" {
		t.Errorf("%+v, %v", moves, err)
	}
	close(store.answers)
	w.eventually("it is kept later", func() bool {
		moves, err := w.operator.History(within(t), "orders")
		return err == nil && moves[0].Known != nil && moves[0].Known.Evidence[0].Down
	})
	entries, err := store.List(within(t), failover.Keys("shop").HistoryOf(share.ID()))
	if err != nil || len(entries) != 1 {
		t.Errorf("%d entries where moves are counted, %v", len(entries), err)
	}
	store.refuse.Store(true)
	other := spillway.SiteID("north")
	if share.Active == other {
		other = "west"
	}
	plan, err := w.operator.Failover(within(t), "orders", other, -1, "ann", "", false)
	if err != nil || !slices.ContainsFunc(plan.Effects, func(e string) bool { return strings.Contains(e, "not kept in the history: permission denied") }) {
		t.Fatalf("%+v, %v", plan, err)
	}
	if share := w.settled(plan.Epoch); share.Active != other {
		t.Errorf("%+v", share)
	}
}

// What cannot be decoded beside the history is left out.
func TestWhatIsKeptBesideIsReadAsFarAsItCanBe(t *testing.T) {
	store, keys, id := coordtest.NewMemory(), failover.Keys("shop"), spillway.ShareID{Group: "orders"}
	for key, value := range map[string]string{
		keys.HistoryKnown(id, 2): "no JSON", keys.HistoryFound(id, 2, "east"): `{"site":"east","records":7}`, keys.HistoryFound(id, 2, "north"): "nor this",
		keys.HistoryKnown(id, 3): `{"forecast":{"pauseMillis":9}}`, keys.HistoryKnown(id, 9): "{}", keys.BesideOf(id) + "x/known": "{}", keys.BesideOf(id) + "0000000002/of a later version": "{}",
	} {
		if _, err := store.Put(within(t), key, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	records := []history.Record{{Epoch: 2}, {Epoch: 2, Kind: failover.Degrade}, {Epoch: 3}}
	if err := readBeside(within(t), store, keys, id, records); err != nil {
		t.Fatal(err)
	}
	if f := records[0].Found; records[0].Known != nil || len(f) != 1 || f[0].Records != 7 || len(records[1].Found) > 0 || records[2].Known.Forecast.PauseMillis != 9 {
		t.Errorf("%+v", records)
	}
}

func TestWhatIsKeptOfAForecastIsBounded(t *testing.T) {
	p := Plan{Losses: make([]failover.Loss, 5000), Reread: strings.Repeat("ä", 5000), sites: []spillway.SiteID{"east"}}
	for i := range 500 {
		p.Silent = append(p.Silent, fmt.Sprint("gateway ", i))
	}
	k := p.known(failover.View{Sites: map[spillway.SiteID]failover.SiteView{"east": {Judgement: failover.Judgement{Why: strings.Repeat("x", 5000)}}}})
	if f := k.Forecast; len(f.Losses) != history.LossesMax || f.LossesMore != 5000-history.LossesMax || len(f.Silent) != silentMax+1 || f.Silent[silentMax] != "400 more" ||
		len(f.Reread) > sentenceMax+4 || strings.ToValidUTF8(f.Reread, "") != f.Reread || len(k.Evidence[0].Why) > sentenceMax+4 {
		t.Errorf("%+v", k)
	}
}

// noting is a site that notes when it was last asked for its topics.
type noting struct {
	broker.Cluster
	asked *atomic.Int64 // in nanoseconds since 1970
}

func (n noting) Metadata(ctx context.Context, topics ...string) (broker.Metadata, error) {
	md, err := n.Cluster.Metadata(ctx, topics...)
	n.asked.Store(time.Now().UnixNano())
	return md, err
}
