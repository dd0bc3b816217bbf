package control

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/mirror"
	"spillway/mirror/offsetmap"
)

const (
	measureEvery = time.Second
	// lookEvery is how many measures lie between two looks at the site's topics, and
	// onlyHereMax how many names are told.
	lookEvery   = 5
	onlyHereMax = 10
)

// measure keeps what the mirror lease tells about how far this site is.
func (s *followed) measure(ctx context.Context) {
	var strange, before []string
	for n := 0; ctx.Err() == nil; n++ {
		s.mu.Lock()
		share, problem, compacted := s.mu.share, s.mu.problem, s.mu.compacted
		s.mu.Unlock()
		if share.Epoch > 0 && compacted != nil {
			at := failover.Following{Epoch: share.Epoch, Problem: problem}
			s.tellCompacted(ctx, &at, *compacted)
			if share.State != failover.Stable && share.State != failover.Open {
				at.Epoch = share.Current().Epoch
			}
			var carries *failover.Following
			var ends map[spillway.TopicPartition]spillway.Offset
			if share.Active == s.f.site {
				ends = s.measuredEnds(ctx)
			} else {
				at.Source, ends = share.Active, s.f.cfg.Mirror.Ends(s.id)
				if n%lookEvery == 0 && len(ends) > 0 && problem == "" {
					before, strange = strange, s.onlyHere(ctx, ends)
				}
				for _, topic := range strange {
					if slices.Contains(before, topic) { // not one that is just being mirrored
						at.OnlyHere = append(at.OnlyHere, topic)
					}
				}
				carries = lateness(&at, share, s.f.flowsOf(ctx, s.id))
				at.Owed = s.owed()
				at.CatchingUp = at.CatchingUp || at.Owed > 0
			}
			for _, end := range ends {
				at.EndSum += int64(end)
				at.Partitions++
			}
			s.f.say(s.id, &at, carries)
		}
		pause(ctx, measureEvery)
	}
}

// lateness adds how late what flows in is, and returns what of it this process has; nil:
// nothing. While a share stands still and nothing flows in its epoch, the site is catching
// up: it is not known how far it is.
func lateness(at *failover.Following, share failover.Share, flows []mirror.FlowInfo) (carries *failover.Following) {
	at.CatchingUp = share.State == failover.Stable
	for _, flow := range flows {
		if flow.Share != share.ID() {
			continue
		}
		at.LagSeconds = flow.LagTime.Round(time.Millisecond).Seconds()
		at.HeldBackSeconds, at.HeldBackBy, at.Hanging = flow.HeldBack.Round(time.Millisecond).Seconds(), flow.HeldBackBy, len(flow.Hanging)
		at.SourceProblem, at.Elsewhere = flow.Problem, flow.Elsewhere
		at.GroupSeconds, at.GroupBehind = flow.GroupAge.Round(time.Millisecond).Seconds(), flow.GroupBehind
		at.CatchingUp = flow.CatchingUp || at.CatchingUp && flow.Epoch != at.Epoch
		carries = &failover.Following{Epoch: flow.Epoch, Source: flow.Source, Partitions: flow.Partitions, LagSeconds: at.LagSeconds, CatchingUp: flow.CatchingUp,
			HeldBackSeconds: at.HeldBackSeconds, HeldBackBy: at.HeldBackBy, Hanging: at.Hanging,
			GroupSeconds: at.GroupSeconds, GroupBehind: at.GroupBehind}
	}
	return carries
}

// onlyHere lists topics of the group that no flow brings; nil if the site cannot be
// asked, for this is for people only.
func (s *followed) onlyHere(ctx context.Context, ends map[spillway.TopicPartition]spillway.Offset) (topics []string) {
	ctx, cancel := context.WithTimeout(ctx, measureEvery)
	defer cancel()
	md, err := s.f.topicsHere(ctx)
	if err != nil {
		return nil
	}
	brought := map[string]bool{}
	for tp := range ends {
		brought[tp.Topic] = true
	}
	for _, name := range spillway.Named(s.group.Topics, md.Topics) {
		if s.f.cfg.Topology.HasTopic(s.group, name) && !md.Topics[name].Internal && md.Topics[name].ErrorCode == 0 && !brought[name] && len(topics) < onlyHereMax {
			topics = append(topics, name)
		}
	}
	return topics
}

const (
	policiesEvery = 30 * time.Second
	policiesMax   = 10 * time.Second // for one look
)

// policies looks from time to time which of the share's topics this site
// compacts: whether they may be moved depends on what their logs hide (C11).
func (s *followed) policies(ctx context.Context) {
	told := ""
	for ctx.Err() == nil {
		every, problem := policiesEvery, ""
		if topics, err := s.compacted(ctx); err == nil {
			s.mu.Lock()
			s.mu.compacted = &topics
			s.mu.Unlock()
		} else {
			every, problem = measureEvery, err.Error()
		}
		if problem != told && problem != "" && ctx.Err() == nil {
			s.mu.Lock()
			state := s.mu.share.State
			s.mu.Unlock()
			s.f.cfg.Events.followFailed(s.id, state, fmt.Errorf("find out which topics site %s compacts: %s; what was known of them before is used meanwhile, and without it the share is not moved", s.f.site, problem))
		}
		told = problem
		pause(ctx, every)
	}
}

func (s *followed) compacted(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, policiesMax)
	defer cancel()
	md, err := s.f.topicsHere(ctx)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, name := range slices.Sorted(maps.Keys(md.Topics)) {
		if s.f.cfg.Topology.HasTopic(s.group, name) && !md.Topics[name].Internal {
			all = append(all, name)
		}
	}
	values, err := s.f.cfg.Cluster.Admin().TopicValues(ctx, all, "cleanup.policy")
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(name string) bool { return !strings.Contains(values[name], "compact") }), nil
}

// hidingMax bounds the topics of which a lease tells what they hide, and compactedMax those
// that it says are compacted: a value of the store holds what is said of all shares.
const (
	hidingMax    = 100
	compactedMax = 200
)

// tellCompacted adds what this site compacts and hides, or as much of it as there is room for.
// Hiding stays nil while that is not known: the map was not read as a whole.
func (s *followed) tellCompacted(ctx context.Context, at *failover.Following, compacted []string) {
	at.Compacted = compacted[:min(len(compacted), compactedMax)]
	at.CompactedMore = len(compacted) - len(at.Compacted)
	ctx, cancel := context.WithTimeout(ctx, measureEvery)
	defer cancel()
	if all, err := s.f.hiding(ctx); err == nil {
		at.Hiding, at.HidingMore = s.some(all, compacted)
		if len(compacted) == 0 && !s.f.mayCompact(s.id) {
			// It matters to nobody, and a site that was lost may hide some of each topic. That
			// there are any is said: where a site is about to compact one, it may be that one.
			at.Hiding, at.HidingMore = map[string]string{}, at.HidingMore+len(at.Hiding)
		}
	}
}

// readCompact reads from time to time of which shares any site compacts topics.
func (f *Follower) readCompact(ctx context.Context) {
	for ctx.Err() == nil {
		every := policiesEvery
		if entries, err := f.cfg.Store.List(ctx, f.keys.Mirrors()); err == nil {
			compact := compactedIn(entries)
			f.compact.Store(&compact)
		} else { // what was known is used meanwhile
			every = measureEvery
		}
		pause(ctx, every)
	}
}

// compactedIn are the shares of which a lease says that its site compacts topics.
func compactedIn(leases []coordination.Entry) map[string]bool {
	compact := map[string]bool{}
	for _, e := range leases {
		var l failover.MirrorLease
		if json.Unmarshal(e.Value, &l) != nil {
			continue
		}
		for share, f := range l.Following {
			if len(f.Compacted)+f.CompactedMore > 0 {
				compact[share] = true
			}
		}
	}
	return compact
}

// mayCompact tells whether a site may compact topics of a share.
func (f *Follower) mayCompact(id spillway.ShareID) bool {
	compact := f.compact.Load()
	return compact == nil || (*compact)[id.String()]
}

// hiding asks once for all shares that are measured at about the same time: a site that was
// lost may hide something in each of thousands of partitions. Who decides a move asks anew.
func (f *Follower) hiding(ctx context.Context) (map[string]string, error) {
	r := f.cfg.Mirror.Map()
	if err := r.Whole(ctx); err != nil {
		return nil, err
	}
	f.hides.Lock()
	defer f.hides.Unlock()
	if now := time.Now(); f.hides.all == nil || now.Sub(f.hides.when) >= measureEvery {
		f.hides.all, f.hides.when = r.Unfit(), now
	}
	return f.hides.all, nil
}

// some are those of the share's topics, those named first at first, and how many are left
// out: topics that this site compacts come first, since the others matter only where another
// one compacts them.
func (s *followed) some(hiding map[string]string, first []string) (some map[string]string, more int) {
	some = make(map[string]string)
	for _, name := range slices.Concat(first, slices.Sorted(maps.Keys(hiding))) {
		what := hiding[name]
		if _, told := some[name]; told || what == "" || !s.f.cfg.Topology.HasTopic(s.group, name) {
			continue
		}
		if len(some) == hidingMax {
			more++
			continue
		}
		some[name] = what
	}
	return some, more
}

// measuredEnds are the log ends for people; empty if the site cannot be asked. A share that
// gets no answer alone either, since a topic is gone or a broker hangs, stays apart until it
// gets one: the others go on together.
func (s *followed) measuredEnds(ctx context.Context) map[spillway.TopicPartition]spillway.Offset {
	s.mu.Lock()
	apart := s.mu.apart
	s.mu.Unlock()
	if !apart {
		if all, err := s.f.endsHere(ctx); err == nil && all[s.id] != nil { // nil: it is served here for a moment only
			return all[s.id]
		}
	}
	asking, cancel := context.WithTimeout(ctx, measureEvery)
	defer cancel()
	ends, err := s.logEnds(asking) // asked again in a moment
	if ctx.Err() == nil {
		s.mu.Lock()
		s.mu.apart = err != nil
		s.mu.Unlock()
	}
	return ends
}

// logEnds are the virtual log ends of the site that serves.
func (s *followed) logEnds(ctx context.Context) (map[spillway.TopicPartition]spillway.Offset, error) {
	views := map[spillway.TopicPartition]*offsetmap.View{}
	s.views(views)
	return virtualEnds(ctx, s.f.cfg.Cluster, views)
}

// virtualEnds are the log ends of the partitions of which a site serves an epoch. Of others
// it asks nothing: their topics may be gone.
func virtualEnds(ctx context.Context, c broker.Cluster, views map[spillway.TopicPartition]*offsetmap.View) (map[spillway.TopicPartition]spillway.Offset, error) {
	starts := map[spillway.TopicPartition]offsetmap.EpochStart{}
	for tp, view := range views {
		if start, open := view.Open(); open {
			starts[tp] = start
		}
	}
	ends := map[spillway.TopicPartition]spillway.Offset{}
	if len(starts) == 0 {
		return ends, nil
	}
	local, err := c.Admin().LogEnds(ctx, slices.SortedFunc(maps.Keys(starts), spillway.TopicPartition.Compare))
	if err != nil {
		return nil, fmt.Errorf("read the log ends of %s: %w", c.Site(), err)
	}
	for tp, start := range starts {
		ends[tp] = start.Virtual + spillway.Offset(local[tp]-start.Local)
	}
	return ends, nil
}
