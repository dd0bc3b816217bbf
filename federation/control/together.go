package control

import (
	"context"
	"errors"
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

// recent is an inquiry of which an answer may be told again for a while, and a failure too:
// what fails for all is not asked again by each.
type recent[T any] struct {
	asking inquiry[T]

	mu   sync.Mutex
	last outcome[T]
}

// outcome is how an inquiry ended.
type outcome[T any] struct {
	answer T
	err    error
	asked  time.Time
	at     time.Time // since when it counts: when it was asked for, or failed; zero: never
}

// lately is the last outcome, if it still counts: an answer until it is of some age, a
// failure for the rest that follows it.
func (r *recent[T]) lately(age, rest time.Duration) (outcome[T], bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	most := age
	if r.last.err != nil {
		most = rest
	}
	return r.last, !r.last.at.IsZero() && time.Since(r.last.at) < most
}

func (r *recent[T]) within(ctx context.Context, of *rounds, age, rest time.Duration, do func(context.Context) (T, error)) (T, error) {
	if last, ok := r.lately(age, rest); ok {
		return last.answer, last.err
	}
	return r.asking.ask(ctx, of, func(ctx context.Context) (T, error) {
		if last, ok := r.lately(age, rest); ok {
			return last.answer, last.err // of the inquiry before this one
		}
		began := time.Now()
		now := outcome[T]{asked: began, at: began}
		if now.answer, now.err = do(ctx); now.err != nil {
			now.at = time.Now()
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if !now.asked.Before(r.last.asked) && !errors.Is(ctx.Err(), context.Canceled) { // not overtaken, and somebody waits
			r.last = now
		}
		return now.answer, now.err
	})
}

// Answers may be a little younger than what is asked for in turn, or every second one would
// be a whole turn old.
const (
	flowsAge = measureEvery / 2
	endsAge  = measureEvery / 2
	// endsMax bounds asking for the ends of all partitions that this site serves.
	endsMax = 2 * measureEvery
	// endsRest is for how long each share asks for its own ends after that failed, and
	// topicsRest is the same of topics, which nobody can ask for otherwise.
	endsRest   = 5 * time.Second
	topicsRest = measureEvery / 2
)

// topicsHere are all topics of the site.
func (f *Follower) topicsHere(ctx context.Context) (broker.Metadata, error) {
	return f.together.topics.within(ctx, &f.together.rounds, measureEvery, topicsRest, func(ctx context.Context) (broker.Metadata, error) { return f.cfg.Cluster.Metadata(ctx) })
}

// flowsOf are the flows of a share.
func (f *Follower) flowsOf(ctx context.Context, id spillway.ShareID) []mirror.FlowInfo {
	flows, _ := f.together.flows.within(ctx, &f.together.rounds, flowsAge, 0, func(context.Context) (map[spillway.ShareID][]mirror.FlowInfo, error) {
		by := map[spillway.ShareID][]mirror.FlowInfo{}
		for _, flow := range f.cfg.Mirror.Flows() {
			by[flow.Share] = append(by[flow.Share], flow)
		}
		return by, nil
	}) // an error only when all is over
	return flows[id]
}

// endsHere are the virtual log ends of all shares that this site serves, but for those that
// are apart: a question fails as a whole, and one of them would keep the others from theirs.
func (f *Follower) endsHere(ctx context.Context) (map[spillway.ShareID]map[spillway.TopicPartition]spillway.Offset, error) {
	return f.together.ends.within(ctx, &f.together.rounds, endsAge, endsRest, func(ctx context.Context) (map[spillway.ShareID]map[spillway.TopicPartition]spillway.Offset, error) {
		ctx, cancel := context.WithTimeout(ctx, endsMax)
		defer cancel()
		views, ids := map[spillway.TopicPartition]*offsetmap.View{}, map[string]spillway.ShareID{}
		by := map[spillway.ShareID]map[spillway.TopicPartition]spillway.Offset{}
		for _, s := range f.shares {
			s.mu.Lock()
			serves := s.mu.share.Active == f.site && !s.mu.apart
			s.mu.Unlock()
			if serves {
				s.views(views)
				ids[s.group.Name], by[s.id] = s.id, map[spillway.TopicPartition]spillway.Offset{}
			}
		}
		ends, err := virtualEnds(ctx, f.cfg.Cluster, views)
		if err != nil {
			return nil, err
		}
		for tp, end := range ends {
			g, _ := f.cfg.Topology.GroupOf(tp)
			by[ids[g.Name]][tp] = end
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
