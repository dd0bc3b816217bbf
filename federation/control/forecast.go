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
// moment in which it is given: mirrors go on, and so do gateways if they can.
func (o *Operator) forecast(ctx context.Context, g spillway.FailoverGroup, share failover.Share, target spillway.SiteID, view failover.View) (known failover.Known, looked *glance, unread []string) {
	ctx, cancel := context.WithTimeout(ctx, forecastMax)
	defer cancel()
	known = failover.Known{Ends: map[spillway.SiteID]failover.PartitionOffsets{}, Reserved: view.Reserved}
	glances := make([]glance, len(g.Sites))
	var wg sync.WaitGroup
	for i, site := range g.Sites {
		wg.Go(func() { glances[i] = o.glance(ctx, g, share, site, view.Sites[site]) })
	}
	wg.Wait()
	for i, l := range glances {
		switch site := g.Sites[i]; {
		case l.err != nil:
			unread = append(unread, fmt.Sprintf("site %s: %v", site, l.err))
		case site == share.Active:
			known.LogEnds, looked = offsetsOf(l.ends), &glances[i]
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
		// What Step would not hear, or what a later epoch has cut off, does not count.
		switch {
		case seen.Judgement.Down:
			l.err = errors.New("it is down")
		case !seen.Mirror || seen.Following == nil:
			l.err = errors.New("its mirror is not heard")
		case seen.Following.Epoch != share.Epoch:
			l.err = fmt.Errorf("it follows epoch %d, not %d", seen.Following.Epoch, share.Epoch)
		}
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
			losses[i].Records = n
		}
	}
}
