package federation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
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
//	B  what a mark speaks of is looked up in a map in which the append session of the mark is
//	   open. Where that map does not tell yet what lies below the mark, the standby ends where
//	   it does, and grows old by that
//	C  only partitions are remembered that have a mark, so their number is bounded by what exists
//	D  nothing is known of a standby until the site that serves was asked once how far it is,
//	   nor where that has lost what the standby has (marks.lose), nor in an append session for
//	   which its mirror has not compared the two yet
type standbys struct {
	gateway *Gateway
	kick    chan struct{}

	mu struct {
		sync.Mutex
		tracks map[standbyPartition]*standbyTrack
		asking map[question]bool // those that are on their way
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
	// doubtful: the site that serves has not answered for it when it was asked last.
	doubtful bool
}

// question goes to one node of a site, for the partitions that it leads; those that are
// doubtful are asked for apart, as who asks for some that cannot answer waits for it. Without
// a node it is being looked up who leads.
type question struct {
	site     spillway.SiteID
	node     int32
	doubtful bool
}

// nobody is the node of a question that is not asked yet.
const nobody = -1

func newStandbys(g *Gateway) *standbys {
	s := &standbys{gateway: g, kick: make(chan struct{}, 1)}
	s.mu.tracks = make(map[standbyPartition]*standbyTrack)
	s.mu.asking = make(map[question]bool)
	return s
}

// look is what a site that follows has said last, with the map as far as it tells what that
// speaks of (A, B). Nil where there is none, or where it is worth nothing (D).
func (s *standbys) look(t router.Term, site spillway.SiteID, tp spillway.TopicPartition) (*offsetmap.View, mark) {
	line, ok := s.gateway.marks.siteMark(t, site, tp)
	reader := s.gateway.readers[site]
	if !ok || reader == nil || !line.Compared || line.lost > 0 {
		return nil, line
	}
	return reader.Followed(tp, line.Session, line.End, line.Map), line
}

// View implements router.Standbys.
func (s *standbys) View(t router.Term, site spillway.SiteID, tp spillway.TopicPartition) (*offsetmap.View, spillway.Offset, int64) {
	s.mu.Lock()
	track := s.mu.tracks[standbyPartition{site, tp}]
	known := track != nil && track.term.Epoch == t.Epoch && !track.Log().Asked.IsZero() // D
	s.mu.Unlock()
	if !known {
		return nil, -1, 0
	}
	view, line := s.look(t, site, tp)
	return view, line.End, line.Session
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
	view, line := s.look(t, site, tp)
	if line.Epoch != t.Epoch { // C
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
	track.take(view, line, now)
	return track.Judge(now, share.Group.FreshnessMax)
}

// take notes how far a standby is.
func (t *standbyTrack) take(view *offsetmap.View, line mark, now time.Time) {
	known := spillway.Offset(-1)
	if view != nil {
		known, _ = view.End()
	}
	t.Mark(line.Session, line.End, known, line.lost > 0, now)
}

// Log implements router.Standbys.
func (s *standbys) Log(t router.Term, site spillway.SiteID, tp spillway.TopicPartition) freshness.Log {
	s.mu.Lock()
	defer s.mu.Unlock()
	if track := s.mu.tracks[standbyPartition{site, tp}]; track != nil && track.term.Epoch == t.Epoch {
		return track.Log()
	}
	return freshness.Log{Start: -1}
}

// Await implements router.Standbys.
func (s *standbys) Await(ctx context.Context, t router.Term, site spillway.SiteID, tp spillway.TopicPartition, end spillway.Offset) {
	s.gateway.marks.waitSite(ctx, t, site, tp, end)
	if line, ok := s.gateway.marks.siteMark(t, site, tp); ok && s.gateway.readers[site] != nil {
		_ = s.gateway.readers[site].WaitFor(ctx, line.Map) // else ctx ended
	}
}

// run asks the sites that serve, until ctx ends, and tells how far the standbys are behind.
// A site that does not answer keeps no other one from being asked, nor does a broker, or a
// partition, those beside it.
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
		for site, wanted := range s.wanted(time.Now()) {
			asking.Go(func() {
				for q, tps := range s.place(ctx, site, wanted) {
					asking.Go(func() { s.ask(ctx, q, tps) })
				}
			})
		}
	}
}

// asked is a partition that is to be asked for.
type asked struct {
	term     router.Term
	doubtful bool
}

// wanted lists what is to be asked, by the site that serves it, and forgets what nobody has
// asked for lately. place has to follow.
func (s *standbys) wanted(now time.Time) map[spillway.SiteID]map[spillway.TopicPartition]asked {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := make(map[spillway.SiteID]map[spillway.TopicPartition]asked)
	for at, track := range s.mu.tracks {
		if now.Sub(track.asked) > freshKept || !track.share.Holds(track.term) {
			delete(s.mu.tracks, at)
			continue
		}
		site := track.term.Site
		if s.mu.asking[question{site: site, node: nobody}] {
			continue
		}
		if wanted[site] == nil {
			wanted[site] = make(map[spillway.TopicPartition]asked)
		}
		before := wanted[site][at.TopicPartition]
		wanted[site][at.TopicPartition] = asked{track.term, before.doubtful || track.doubtful}
	}
	for site := range wanted {
		s.mu.asking[question{site: site, node: nobody}] = true
	}
	return wanted
}

// place finds who leads what is wanted of a site, and leaves out what is being asked for still
// and what has no leader. ask has to follow.
func (s *standbys) place(ctx context.Context, site spillway.SiteID, wanted map[spillway.TopicPartition]asked) map[question]map[spillway.TopicPartition]router.Term {
	ctx, cancel := context.WithTimeout(ctx, freshAskMax)
	defer cancel()
	questions := make(map[question]map[spillway.TopicPartition]router.Term)
	c := s.gateway.config.Sites[site]
	unknown, fault := 0, error(nil)
	for tp, one := range wanted {
		if c == nil {
			break // the gateway does not serve at such a site either
		}
		node, err := c.Leader(ctx, tp)
		if err != nil {
			if !errors.Is(err, broker.ErrNoLeader) && !errors.Is(err, broker.ErrUnknownTopic) {
				unknown, fault = unknown+1, err
			}
			continue
		}
		q := question{site, node, one.doubtful}
		if questions[q] == nil {
			questions[q] = make(map[spillway.TopicPartition]router.Term)
		}
		questions[q][tp] = one.term
	}
	if fault != nil {
		s.gateway.problem(fmt.Sprintf("find who leads %d partitions at site %s, for reads at standbys", unknown, site), fault)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mu.asking, question{site: site, node: nobody})
	for q := range questions {
		if s.mu.asking[q] {
			delete(questions, q)
		} else {
			s.mu.asking[q] = true
		}
	}
	return questions
}

// ask asks a site that serves where its logs start, and where readers of committed records
// end: what open transactions hold back there, no standby can have. It asks once: the next
// second is soon enough, and what else is known of the site is everybody's. Only where the site
// says that it has lost records, it is asked who leads there, and then again: a node that is cut
// off may think that it leads, and lack what the others have.
func (s *standbys) ask(ctx context.Context, q question, tps map[spillway.TopicPartition]router.Term) {
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.mu.asking, q)
	}()
	low, _ := s.take(q.site, tps, s.bounds(ctx, q.site, tps), false)
	if len(low) == 0 || s.learn(ctx, q.site, low) != nil {
		return
	}
	_, lost := s.take(q.site, low, s.bounds(ctx, q.site, low), true)
	for site, one := range lost {
		s.gateway.problem(fmt.Sprintf("read %d partitions at standby %s, where a mirror has to compare them with site %s first", one.partitions, site, q.site), one.example)
	}
}

// bounds are what a site said of its logs.
type bounds struct {
	starts, ends map[spillway.TopicPartition]spillway.LocalOffset
	asked        time.Time // before
}

func (s *standbys) bounds(ctx context.Context, site spillway.SiteID, tps map[spillway.TopicPartition]router.Term) (b bounds) {
	ctx, cancel := context.WithTimeout(ctx, freshAskMax)
	defer cancel()
	b.asked = time.Now()
	var err error
	if b.starts, b.ends, err = s.gateway.config.Sites[site].Admin().LogBounds(ctx, slices.Collect(maps.Keys(tps))); err != nil {
		s.gateway.problem(fmt.Sprintf("ask site %s how far it is, for reads at standbys", site), err)
	}
	for tp := range tps {
		if _, there := b.ends[tp]; !there {
			s.gateway.router.Relearn(site, tp.Topic)
		}
	}
	return b
}

// learnAtOnce bounds the topics whose leaders are asked for with one request.
const learnAtOnce = 500

// learn asks a site who leads partitions, whatever is known of it.
func (s *standbys) learn(ctx context.Context, site spillway.SiteID, tps map[spillway.TopicPartition]router.Term) error {
	ctx, cancel := context.WithTimeout(ctx, freshAskMax)
	defer cancel()
	topics := make(map[string]bool)
	for tp := range tps {
		topics[tp.Topic] = true
	}
	for some := range slices.Chunk(slices.Sorted(maps.Keys(topics)), learnAtOnce) {
		if _, err := s.gateway.config.Sites[site].Metadata(ctx, some...); err != nil {
			s.gateway.problem(fmt.Sprintf("ask site %s who leads %d partitions that have lost records, for reads at standbys", site, len(tps)), err)
			return err
		}
	}
	return nil
}

// losses are partitions that are not read at a standby any more.
type losses struct {
	partitions int
	example    error
}

// take has the answers of a site that serves count, but for those by which it has lost records,
// unless it was asked again for these; then it tells what it has lost, by the standby that has it.
func (s *standbys) take(site spillway.SiteID, tps map[spillway.TopicPartition]router.Term, b bounds, again bool) (low map[spillway.TopicPartition]router.Term, lost map[spillway.SiteID]losses) {
	low, lost = make(map[spillway.TopicPartition]router.Term), make(map[spillway.SiteID]losses)
	s.mu.Lock()
	defer s.mu.Unlock()
	for at, track := range s.mu.tracks {
		term, one := tps[at.TopicPartition]
		if !one || track.term.Epoch != term.Epoch || track.term.Site != site {
			continue
		}
		end, there := b.ends[at.TopicPartition]
		if track.doubtful = !there; !there {
			continue
		}
		log := freshness.Log{Start: -1, Asked: b.asked}
		var ok bool
		if log.End, ok = s.gateway.router.Virtual(track.share, track.term, at.TopicPartition, end); !ok {
			continue
		}
		if start, told := b.starts[at.TopicPartition]; told {
			log.Start, _ = s.gateway.router.Virtual(track.share, track.term, at.TopicPartition, start)
		}
		line, _ := s.gateway.marks.siteMark(track.term, at.site, at.TopicPartition)
		if before := line.lost > 0; !before && !again && track.Low(log) {
			low[at.TopicPartition] = term
		} else if track.Answer(log) && !before {
			s.gateway.marks.lose(at.site, at.TopicPartition, track.Session())
			lost[at.site] = losses{lost[at.site].partitions + 1, fmt.Errorf("%s ends at %d, and the mark of the standby was %d: the site that serves has lost records", at.TopicPartition, log.End, line.End)}
		}
	}
	return low, lost
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
		if view, line := s.look(track.term, at.site, at.TopicPartition); line.Epoch == track.term.Epoch {
			track.take(view, line, now)
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
