package federation

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/federation/freshness"
	"spillway/federation/router"
	"spillway/mirror/offsetmap"
)

const (
	// freshEvery is how often sites that serve are asked how far they are, and freshAskMax
	// how long they have to say so. Only what consumers lately asked for is asked for.
	freshEvery  = time.Second
	freshAskMax = 3 * time.Second
	// freshKept is how long after the last consumer that goes on.
	freshKept = time.Minute
)

// standbys knows what sites that follow have, and how old it is. It implements
// router.Standbys.
//
//	A  a standby is known by its marks of the term's own epoch: what a flow of another epoch
//	   had may have been given up since
//	B  what a mark speaks of is looked up in a map that was read at least to the append
//	   session of the mark
//	C  only partitions are remembered that have a mark, so their number is bounded by what exists
type standbys struct {
	gateway *Gateway
	kick    chan struct{}

	mu struct {
		sync.Mutex
		tracks map[standbyPartition]*standbyTrack
		asking map[spillway.SiteID]bool // a question is on its way
	}
}

type standbyPartition struct {
	site spillway.SiteID
	spillway.TopicPartition
}

type standbyTrack struct {
	freshness.Track
	share *router.Share
	term  router.Term
	asked time.Time // by a consumer, last
}

func newStandbys(g *Gateway) *standbys {
	s := &standbys{gateway: g, kick: make(chan struct{}, 1)}
	s.mu.tracks = make(map[standbyPartition]*standbyTrack)
	s.mu.asking = make(map[spillway.SiteID]bool)
	return s
}

// View implements router.Standbys.
func (s *standbys) View(t router.Term, site spillway.SiteID, tp spillway.TopicPartition) (*offsetmap.View, spillway.Offset) {
	line, ok := s.gateway.marks.siteMark(t, site, tp)
	reader := s.gateway.readers[site]
	if !ok || reader == nil {
		return nil, -1
	}
	return reader.Followed(tp, line.Session, line.End), line.End
}

// Lacks implements router.Standbys.
func (s *standbys) Lacks(site spillway.SiteID, tp spillway.TopicPartition) spillway.Offset {
	if r := s.gateway.readers[site]; r != nil {
		return r.Lacks(tp)
	}
	return math.MaxInt64
}

// Fresh implements router.Standbys.
func (s *standbys) Fresh(share *router.Share, t router.Term, site spillway.SiteID, tp spillway.TopicPartition) freshness.State {
	line, ok := s.gateway.marks.siteMark(t, site, tp)
	if !ok { // C
		return freshness.Unknown
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	at := standbyPartition{site, tp}
	track := s.mu.tracks[at]
	if track == nil || track.term.Epoch < t.Epoch {
		track = &standbyTrack{share: share, term: t}
		s.mu.tracks[at] = track
		select {
		case s.kick <- struct{}{}:
		default:
		}
	}
	if track.term.Epoch > t.Epoch {
		return freshness.Unknown
	}
	track.asked = now
	track.Mark(line.End)
	return track.Judge(now, share.Group.FreshnessMax)
}

// Ended implements router.Standbys.
func (s *standbys) Ended(t router.Term, site spillway.SiteID, tp spillway.TopicPartition) (spillway.Offset, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if track := s.mu.tracks[standbyPartition{site, tp}]; track != nil && track.term.Epoch == t.Epoch {
		return track.Ended()
	}
	return 0, time.Time{}
}

// Await implements router.Standbys.
func (s *standbys) Await(ctx context.Context, t router.Term, site spillway.SiteID, tp spillway.TopicPartition, end spillway.Offset) {
	s.gateway.marks.waitSite(ctx, t, site, tp, end)
}

// run asks the sites that serve, until ctx ends, and tells how far the standbys are behind.
// A site that does not answer keeps no other one from being asked.
func (s *standbys) run(ctx context.Context) {
	tick := time.NewTicker(freshEvery)
	defer tick.Stop()
	var asking sync.WaitGroup
	defer asking.Wait()
	told := make(map[readFrom]bool)
	for {
		select {
		case <-tick.C:
			s.tell(told)
		case <-s.kick:
		case <-ctx.Done():
			return
		}
		for site, tps := range s.wanted(time.Now()) {
			asking.Go(func() { s.ask(ctx, site, tps) })
		}
	}
}

// wanted lists what is to be asked, by the site that serves it, and forgets what nobody has
// asked for lately. ask has to follow.
func (s *standbys) wanted(now time.Time) map[spillway.SiteID]map[spillway.TopicPartition]router.Term {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := make(map[spillway.SiteID]map[spillway.TopicPartition]router.Term)
	for at, track := range s.mu.tracks {
		if now.Sub(track.asked) > freshKept || !track.share.Holds(track.term) {
			delete(s.mu.tracks, at)
			continue
		}
		if s.mu.asking[track.term.Site] {
			continue
		}
		if wanted[track.term.Site] == nil {
			wanted[track.term.Site] = make(map[spillway.TopicPartition]router.Term)
		}
		wanted[track.term.Site][at.TopicPartition] = track.term
	}
	for site := range wanted {
		s.mu.asking[site] = true
	}
	return wanted
}

// ask asks a site that serves where readers of committed records end: what open
// transactions hold back there, no standby can have.
func (s *standbys) ask(ctx context.Context, site spillway.SiteID, tps map[spillway.TopicPartition]router.Term) {
	ctx, cancel := context.WithTimeout(ctx, freshAskMax)
	defer cancel()
	asked := time.Now()
	ends, err := stableEnds(ctx, s.gateway.config.Sites[site], tps)
	if err != nil {
		s.gateway.problem(fmt.Sprintf("ask site %s how far it is, for reads at standbys", site), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mu.asking, site)
	for at, track := range s.mu.tracks {
		end, there := ends[at.TopicPartition]
		if !there || track.term.Epoch != tps[at.TopicPartition].Epoch || track.term.Site != site {
			continue
		}
		if v, ok := s.gateway.router.VirtualEnd(track.share, track.term, at.TopicPartition, end); ok {
			track.Answer(v, asked)
		}
	}
}

// stableEnds leaves partitions out that have no leader: who asks for all would wait for one.
func stableEnds(ctx context.Context, c broker.Cluster, tps map[spillway.TopicPartition]router.Term) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	if c == nil {
		return nil, nil // the gateway does not serve at such a site either
	}
	var led []spillway.TopicPartition
	for tp := range tps {
		switch _, err := c.Leader(ctx, tp); {
		case err == nil:
			led = append(led, tp)
		case !errors.Is(err, broker.ErrNoLeader) && !errors.Is(err, broker.ErrUnknownTopic):
			return nil, err
		}
	}
	if len(led) == 0 {
		return nil, nil
	}
	return c.Admin().StableEnds(ctx, led)
}

// readFrom is a share at a standby.
type readFrom struct {
	share spillway.ShareID
	site  spillway.SiteID
}

// Standby is how far a standby is behind in the partitions of a share that consumers read,
// or would read, there through this gateway.
type Standby struct {
	Partitions int // 0: nobody reads there any more
	Stale      int // of them, those that are too old to send consumers there
	// Records and Age are those of the worst partition.
	Records int64
	Age     time.Duration
}

// tell tells how far each standby is behind, and once that nobody reads there any more.
func (s *standbys) tell(told map[readFrom]bool) {
	now := time.Now()
	found := make(map[readFrom]Standby)
	s.mu.Lock()
	for at, track := range s.mu.tracks {
		if line, ok := s.gateway.marks.siteMark(track.term, at.site, at.TopicPartition); ok {
			track.Mark(line.End)
		}
		from := readFrom{track.share.ID, at.site}
		one := found[from]
		one.Partitions++
		if track.Judge(now, track.share.Group.FreshnessMax) == freshness.Stale {
			one.Stale++
		}
		b := track.Behind(now)
		one.Records, one.Age = max(one.Records, b.Records), max(one.Age, b.Age)
		found[from] = one
	}
	s.mu.Unlock()
	for from := range told {
		if _, still := found[from]; !still {
			found[from] = Standby{}
		}
	}
	for from, one := range found {
		told[from] = one.Partitions > 0
		if one.Partitions == 0 {
			delete(told, from)
		}
		if s.gateway.events.Standby != nil {
			s.gateway.events.Standby(from.share, from.site, one)
		}
	}
}
