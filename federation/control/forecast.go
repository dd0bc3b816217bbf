package control

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/federation/failover"
	"spillway/mirror"
	"spillway/mirror/maptopic"
	"spillway/mirror/offsetmap"
	"spillway/mirror/sitelog"
)

// Bounds of a look at the sites for a person.
const (
	forecastMax = 5 * time.Second
	countedMax  = 100_000 // records that are counted, in offsets of all partitions
)

// forecast says what a failover would leave behind, partition by partition, by the
// maps of the sites and, where it still answers, the log of the one that serves.
// unread are sites that could not be read, and why. The answer is true for the
// moment in which it is given: mirrors go on, and so do gateways if they can. urgent:
// the site that serves is taken as lost, and not asked.
func (o *Operator) forecast(ctx context.Context, g spillway.FailoverGroup, share failover.Share, target spillway.SiteID, view failover.View, urgent bool) (known failover.Known, looked map[spillway.SiteID]*glance, unread []string) {
	ctx, cancel := context.WithTimeout(ctx, forecastMax)
	defer cancel()
	looked = map[spillway.SiteID]*glance{}
	known = failover.Known{Ends: map[spillway.SiteID]failover.PartitionOffsets{}, Reserved: view.Reserved}
	glances := make([]glance, len(g.Sites))
	var wg sync.WaitGroup
	for i, site := range g.Sites {
		if glances[i].err = errNotAsked; urgent && site == share.Active {
			continue
		}
		wg.Go(func() { glances[i] = o.glance(ctx, g, share, site, view.Sites[site]) })
	}
	wg.Wait()
	for i, l := range glances {
		if l.err == nil {
			looked[g.Sites[i]] = &glances[i]
		}
		switch site := g.Sites[i]; {
		case errors.Is(l.err, errNotAsked):
		case l.err != nil:
			unread = append(unread, fmt.Sprintf("site %s: %v", site, l.err))
		case site == share.Active:
			known.LogEnds = offsetsOf(l.ends)
		case site == target:
			known.Order, known.Ends[site] = append([]spillway.SiteID{site}, known.Order...), offsetsOf(l.ends)
		default:
			known.Order, known.Ends[site] = append(known.Order, site), offsetsOf(l.ends)
		}
	}
	return known, looked, unread
}

// glance is what one site shows of a failover group.
type glance struct {
	cluster broker.Cluster
	views   map[spillway.TopicPartition]*offsetmap.View
	// ends are virtual: how far a standby is verified, and where the log of the site
	// that serves ends.
	ends map[spillway.TopicPartition]spillway.Offset
	err  error
}

func (o *Operator) glance(ctx context.Context, g spillway.FailoverGroup, share failover.Share, site spillway.SiteID, seen failover.SiteView) glance {
	l := glance{cluster: o.Sites[site], views: map[spillway.TopicPartition]*offsetmap.View{}, ends: map[spillway.TopicPartition]spillway.Offset{}}
	if site != share.Active {
		l.err = unheard(seen, share.Epoch)
	}
	if l.err != nil {
		return l
	}
	if l.cluster == nil {
		l.err = errors.New("no way to it is known")
		return l
	}
	r := maptopic.Tail(ctx, l.cluster, nil)
	defer r.Close()
	if l.err = r.CaughtUp(ctx); l.err != nil {
		return l
	}
	for _, tp := range r.Partitions() {
		if o.topology.Has(g, tp) {
			l.views[tp] = r.View(tp)
		}
	}
	if site != share.Active {
		for tp, view := range l.views {
			l.ends[tp], _ = view.End()
		}
		return l
	}
	l.ends, l.err = virtualEnds(ctx, l.cluster, l.views)
	return l
}

// count fills in how many records the site that serves has beyond what would be kept.
// Of long ranges, and of those that cannot be read, that stays unknown.
func (l *glance) count(ctx context.Context, losses []failover.Loss) {
	ctx, cancel := context.WithTimeout(ctx, forecastMax)
	defer cancel()
	spans, left := map[spillway.TopicPartition]sitelog.Span{}, spillway.Offset(countedMax)
	for _, loss := range losses {
		tp := spillway.TopicPartition{Topic: loss.Topic, Partition: loss.Partition}
		if length := loss.LogEnd - loss.From; loss.LogEnd > loss.From && length <= left {
			left -= length
			from, _ := l.views[tp].ToLocal(loss.From)
			to, _ := l.views[tp].ToLocal(loss.LogEnd)
			spans[tp] = sitelog.Span{From: from, To: to}
		}
	}
	counts, err := mirror.CountRecords(ctx, l.cluster, spans, l.views)
	if err != nil {
		return // the range says what is known
	}
	for i, loss := range losses {
		if n, ok := counts[spillway.TopicPartition{Topic: loss.Topic, Partition: loss.Partition}]; ok {
			losses[i].Records, losses[i].First, losses[i].Last = n.Records, n.First, n.Last
		}
	}
}

// keptMax is of how many partitions the time of the last record that is kept is read.
const keptMax = 100

// keptUntil fills in the times of the last records that a survivor keeps.
func (l *glance) keptUntil(ctx context.Context, site spillway.SiteID, losses []failover.Loss) {
	spans := map[spillway.TopicPartition]sitelog.Span{}
	for _, loss := range losses[:min(len(losses), keptMax)] {
		tp := spillway.TopicPartition{Topic: loss.Topic, Partition: loss.Partition}
		if view := l.views[tp]; loss.Site == site && view != nil {
			if end, _ := view.ToLocal(loss.From); end > 0 {
				spans[tp] = sitelog.Span{From: end - 1, To: end}
			}
		}
	}
	counts, err := mirror.CountRecords(ctx, l.cluster, spans, l.views)
	if err != nil {
		return // the range says what is known
	}
	for i, loss := range losses {
		if n := counts[spillway.TopicPartition{Topic: loss.Topic, Partition: loss.Partition}]; loss.Site == site && n.Records > 0 {
			losses[i].Kept = n.Last
		}
	}
}
