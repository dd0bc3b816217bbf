package router

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"spillway"
	"spillway/broker"
	"spillway/federation/failover"
)

// dimmed is a site with one topic that answers, after a moment, or not at all.
type dimmed struct {
	broker.Cluster
	topic      string
	partitions atomic.Int32
	dark       atomic.Bool
}

const dimmedTakes = 10 * time.Millisecond

func (d *dimmed) Metadata(ctx context.Context, _ ...string) (broker.Metadata, error) {
	if d.dark.Load() {
		<-ctx.Done()
		return broker.Metadata{}, ctx.Err()
	}
	time.Sleep(dimmedTakes)
	topic := broker.TopicMetadata{Name: d.topic, Partitions: make([]broker.PartitionMetadata, d.partitions.Load())}
	return broker.Metadata{Topics: map[string]broker.TopicMetadata{d.topic: topic}}, nil
}

// twoSites is a router over two failover groups, orders at east and carts at west.
func twoSites() (r *Router, sites map[spillway.SiteID]*dimmed) {
	sites = make(map[spillway.SiteID]*dimmed)
	clusters := make(map[spillway.SiteID]broker.Cluster)
	var groups []spillway.FailoverGroup
	var shares []*Share
	for _, g := range []struct {
		topic string
		at    spillway.SiteID
	}{{"orders", "east"}, {"carts", "west"}} {
		site := &dimmed{topic: g.topic}
		site.partitions.Store(1)
		sites[g.at], clusters[g.at] = site, site
		group := spillway.FailoverGroup{Name: g.topic, Topics: []string{g.topic}}
		share := NewShare(spillway.ShareID{Group: g.topic}, group)
		share.SetRecord(failover.Share{State: failover.Stable, Epoch: 1, Active: g.at, Terms: []failover.Term{{Epoch: 1, Site: g.at}}})
		share.Open(Term{Epoch: 1, Base: 1, Site: g.at})
		groups, shares = append(groups, group), append(shares, share)
	}
	return New(Config{Topology: spillway.NewTopology("t", "id", nil, groups), Sites: clusters, Shares: shares, Lease: always{}, Layout: fixedLayout{}}), sites
}

// Clients ask for metadata whenever a partition is refused, and what they sent to other sites is
// answered behind it: a site that was silent a moment ago is asked again, and not waited for.
func TestWhatIsKnownOfADarkSiteIsToldAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, sites := twoSites()
		defer r.Close()
		find := func(when string, partitions int, wait time.Duration) {
			t.Helper()
			begun := time.Now()
			md, ok := r.topics.find(t.Context(), "orders")
			if took := time.Since(begun); !ok || len(md.Partitions) != partitions || took != wait {
				t.Errorf("%s: %v, %d partitions, want %d, after %s, want %s", when, ok, len(md.Partitions), partitions, took, wait)
			}
		}
		find("it is well", 1, dimmedTakes)
		sites["east"].dark.Store(true)
		time.Sleep(r.config.MetadataMax + time.Millisecond)
		find("nobody knows yet that it is dark", 1, topicsAskMax)
		for range 5 {
			time.Sleep(time.Second)
			find("it is dark", 1, 0)
			synctest.Wait() // it is asked
		}
		sites["east"].partitions.Store(2)
		sites["east"].dark.Store(false)
		time.Sleep(topicsAskMax + topicsAskEvery) // a question may be under way
		find("it is back", 1, 0)
		time.Sleep(topicsAskEvery)
		find("it has answered", 2, 0)

		sites["east"].dark.Store(true)
		time.Sleep(r.config.MetadataMax + time.Millisecond)
		find("dark again", 2, topicsAskMax)
		sites["east"].partitions.Store(3)
		sites["east"].dark.Store(false)
		r.TopicChanged("orders") // through this gateway: its client wants to see it
		find("a topic was changed", 3, dimmedTakes)
	})
}

// A site went dark, and a failover had everybody ask elsewhere: when clients come back to it, what
// it said before may be days old, so they wait for what it says now.
func TestAListFromBeforeASiteWasDarkIsNotToldWhenItIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, sites := twoSites()
		defer r.Close()
		find := func(when string, partitions int, wait time.Duration) {
			t.Helper()
			begun := time.Now()
			md, _ := r.topics.find(t.Context(), "orders")
			if took := time.Since(begun); len(md.Partitions) != partitions || took != wait {
				t.Errorf("%s: %d partitions, want %d, after %s, want %s", when, len(md.Partitions), partitions, took, wait)
			}
			synctest.Wait() // it is asked
		}
		find("it is well", 1, dimmedTakes)
		sites["east"].dark.Store(true)
		time.Sleep(r.config.MetadataMax + time.Millisecond)
		find("it is dark", 1, topicsAskMax)
		for range 5 { // each renews it
			time.Sleep(topicsSilentMax - time.Millisecond)
			find("it was asked a moment before", 1, 0)
		}
		time.Sleep(topicsAskMax)
		sites["east"].partitions.Store(2)
		sites["east"].dark.Store(false)
		time.Sleep(topicsSilentMax + time.Millisecond)
		find("days later", 2, dimmedTakes)
	})
}

// A gateway is started while a site is dark. However many of its topics a request names, it costs
// one question, and no answer says that they do not exist.
func TestANewGatewayAsksADarkSiteOnceForARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, translating(), kversion.V4_4_0())
		defer w.Close()
		var asked atomic.Int64
		var silent atomic.Bool
		silent.Store(true)
		w.sites["east"] = countingSite{w.site, &asked, &silent}
		req := kmsg.NewPtrMetadataRequest()
		req.Version = 12
		for i := range 10 {
			name := fmt.Sprint("topic-", i)
			req.Topics = append(req.Topics, kmsg.MetadataRequestTopic{Topic: &name})
		}
		begun := time.Now()
		for _, topic := range call[*kmsg.MetadataResponse](t, w, req).Topics {
			if topic.ErrorCode != kerr.LeaderNotAvailable.Code {
				t.Errorf("%s: error %d", *topic.Topic, topic.ErrorCode)
			}
		}
		if took := time.Since(begun); took != topicsAskMax {
			t.Errorf("it took %s, want %s", took, topicsAskMax)
		}
	})
}

// A list of all topics costs the time of one dark site, and not of each.
func TestTopicsOfAllSitesAreAskedForAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, sites := twoSites()
		defer r.Close()
		for _, s := range sites {
			s.dark.Store(true)
		}
		begun := time.Now()
		if found := r.topics.all(t.Context()); len(found) > 0 || time.Since(begun) != topicsAskMax {
			t.Errorf("%d topics after %s", len(found), time.Since(begun))
		}
		for _, s := range sites {
			s.dark.Store(false)
		}
		time.Sleep(topicsSilentMax)
		var names []string
		for _, md := range r.topics.all(t.Context()) {
			names = append(names, md.Name)
		}
		slices.Sort(names)
		if !slices.Equal(names, []string{"carts", "orders"}) {
			t.Errorf("%q", names)
		}
	})
}
