package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"spillway"
	"spillway/broker"
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
			at := failover.Following{Epoch: share.Epoch, Problem: problem, Compacted: *compacted}
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
// compacts: they are not moved (C11).
func (s *followed) policies(ctx context.Context) {
	for ctx.Err() == nil {
		every := policiesEvery
		if topics, err := s.compacted(ctx); err == nil {
			s.mu.Lock()
			s.mu.compacted = &topics
			s.mu.Unlock()
		} else {
			every = measureEvery
		}
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
	var topics []string
	for _, name := range slices.Sorted(maps.Keys(md.Topics)) {
		if !s.f.cfg.Topology.HasTopic(s.group, name) || md.Topics[name].Internal {
			continue
		}
		configs, err := s.f.cfg.Cluster.Admin().TopicConfigs(ctx, name)
		if errors.Is(err, broker.ErrUnknownTopic) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		if strings.Contains(configs["cleanup.policy"].Value, "compact") {
			topics = append(topics, name)
		}
	}
	return topics, nil
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
