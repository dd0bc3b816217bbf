package control

import (
	"context"
	"sync"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/federation/failover"
	"spillway/mirror"
	"spillway/mirror/offsetmap"
)

// together is what the shares of a site want to know each second, asked once for all of
// them. It is for what is told to people and for choosing a target: nothing that decides
// about offsets may be a moment old.
//
// Answers are shared: nobody changes them.
type together struct {
	rounds rounds // of all that follows
	topics recent[broker.Metadata]
	flows  recent[map[spillway.ShareID][]mirror.FlowInfo]
	ends   recent[map[spillway.ShareID]map[spillway.TopicPartition]spillway.Offset]
}

// recent is an inquiry of which an answer may be told again for a while.
type recent[T any] struct {
	asking inquiry[T]

	mu   sync.Mutex
	last T
	at   time.Time // when it was asked for; zero: never
}

func (r *recent[T]) within(ctx context.Context, of *rounds, age time.Duration, do func(context.Context) (T, error)) (T, error) {
	r.mu.Lock()
	last, at := r.last, r.at
	r.mu.Unlock()
	if !at.IsZero() && time.Since(at) < age {
		return last, nil
	}
	return r.asking.ask(ctx, of, func(ctx context.Context) (T, error) {
		r.mu.Lock()
		last, at := r.last, r.at
		r.mu.Unlock()
		if !at.IsZero() && time.Since(at) < age {
			return last, nil // of the inquiry before this one
		}
		asked := time.Now()
		answer, err := do(ctx)
		if err == nil {
			r.mu.Lock()
			r.last, r.at = answer, asked
			r.mu.Unlock()
		}
		return answer, err
	})
}

// Answers may be a little younger than what is asked for in turn, or every second one would
// be a whole turn old.
const (
	flowsAge = measureEvery / 2
	endsAge  = measureEvery / 2
	// endsMax bounds asking for the ends of all partitions that this site serves.
	endsMax = 2 * measureEvery
)

// topicsHere are all topics of the site.
func (f *Follower) topicsHere(ctx context.Context) (broker.Metadata, error) {
	return f.together.topics.within(ctx, &f.together.rounds, measureEvery, func(ctx context.Context) (broker.Metadata, error) { return f.cfg.Cluster.Metadata(ctx) })
}

// flowsOf are the flows of a share.
func (f *Follower) flowsOf(ctx context.Context, id spillway.ShareID) []mirror.FlowInfo {
	flows, _ := f.together.flows.within(ctx, &f.together.rounds, flowsAge, func(context.Context) (map[spillway.ShareID][]mirror.FlowInfo, error) {
		by := map[spillway.ShareID][]mirror.FlowInfo{}
		for _, flow := range f.cfg.Mirror.Flows() {
			by[flow.Share] = append(by[flow.Share], flow)
		}
		return by, nil
	}) // an error only when all is over
	return flows[id]
}

// endsHere are the virtual log ends of all shares that this site serves.
func (f *Follower) endsHere(ctx context.Context) (map[spillway.ShareID]map[spillway.TopicPartition]spillway.Offset, error) {
	return f.together.ends.within(ctx, &f.together.rounds, endsAge, func(ctx context.Context) (map[spillway.ShareID]map[spillway.TopicPartition]spillway.Offset, error) {
		ctx, cancel := context.WithTimeout(ctx, endsMax)
		defer cancel()
		views, ids := map[spillway.TopicPartition]*offsetmap.View{}, map[string]spillway.ShareID{}
		for _, s := range f.shares {
			s.mu.Lock()
			serves := s.mu.share.Active == f.site
			s.mu.Unlock()
			if serves {
				s.views(views)
				ids[s.group.Name] = s.id
			}
		}
		ends, err := virtualEnds(ctx, f.cfg.Cluster, views)
		if err != nil {
			return nil, err
		}
		by := map[spillway.ShareID]map[spillway.TopicPartition]spillway.Offset{}
		for tp, end := range ends {
			g, _ := f.cfg.Topology.GroupOf(tp)
			id := ids[g.Name]
			if by[id] == nil {
				by[id] = map[spillway.TopicPartition]spillway.Offset{}
			}
			by[id][tp] = end
		}
		return by, nil
	})
}

// views adds the maps of the share's partitions.
func (s *followed) views(views map[spillway.TopicPartition]*offsetmap.View) {
	r := s.f.cfg.Mirror.Map()
	for _, tp := range r.PartitionsOf(s.group.Topics) {
		if s.f.cfg.Topology.Has(s.group, tp) {
			views[tp] = r.View(tp)
		}
	}
}

// say notes what is said of a share; nil: nothing. It is read by who renews the lease, under
// the same lock.
func (f *Follower) say(id spillway.ShareID, following, carries *failover.Following) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.following[id.String()] = *following
	if delete(f.mu.carries, id.String()); carries != nil {
		f.mu.carries[id.String()] = *carries
	}
}
