package router

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/lb"
)

// spread says to which sibling partition of an unordered group a batch is written
// (R3). What it knows of the siblings is this gateway's own: what is served
// here, and how the sites behind have answered.
//
//	A  a batch is written to one sibling: another one is tried only while nothing of
//	   it was sent, since nobody would find the second copy; what a broker refused that
//	   does not lead stays with its site, where it has its turn in a flow
//	B  a batch that does not lie where its client sent it is acknowledged without an offset
//	C  batches carry no producer id: their sequences count what the client sent to one
//	   partition, and of these some lie elsewhere; so a batch that comes again is
//	   written again (at least once)
//	D  a batch is written to no sibling at whose site its client may not write, not even
//	   where all the others are away
type spread struct {
	// Set once, read by anyone.
	router    *Router
	siblings  spillway.Siblings
	shares    []*Share
	site      spillway.SiteID // of the gateway
	homeFirst bool
	balancer  *lb.Balancer
	begun     time.Time

	mu struct {
		sync.Mutex
		serving, near lb.Set // as the balancer knows it
	}
}

// Reasons of spillway.HomeFirst. Where the home cannot take a batch, the reason is lb's.
const atHome = "home can take it"

// answerMax is how long a site may take to answer a batch before that counts as a
// failure of the site, whatever comes later.
const answerMax = 3 * time.Second

// failuresMax in a row and a site is left out for a time. Where it does not even
// refuse connections, each of them may take dialMax.
const failuresMax = 3

func newSpreads(r *Router) map[string]*spread {
	spreads := make(map[string]*spread)
	for _, s := range r.config.Shares {
		if of := s.Group.Siblings; of.Of != "" && of.Index == 0 {
			spreads[of.Of] = newSpread(r, of)
		}
	}
	return spreads
}

func newSpread(r *Router, of spillway.Siblings) *spread {
	s := &spread{router: r, siblings: of, site: r.config.Site, homeFirst: of.Balance == spillway.HomeFirst, begun: time.Now()}
	c := lb.Config{Policy: lb.Policy(of.Balance), Rand: rand.NewPCG(rand.Uint64(), rand.Uint64()), Outliers: lb.Outliers{Consecutive: failuresMax, LatencyMax: answerMax}}
	if s.homeFirst {
		c.Policy = lb.RoundRobin // over the others
	}
	for i, name := range of.Groups {
		g, _ := r.topology.Group(name)
		home, _ := r.topology.Site(g.Sites[0])
		c.Targets = append(c.Targets, lb.Target{Name: name, Weight: max(home.Weight, 1)})
		s.shares = append(s.shares, r.shares[spillway.ShareID{Group: name}])
		s.mu.serving |= lb.Of(i)
	}
	var err error
	if s.balancer, err = lb.New(c); err != nil {
		panic("unordered group " + of.Of + ": " + err.Error()) // package configs has checked it
	}
	return s
}

// pick says which sibling a batch for tp goes to; home is the index of its own
// partition's, tried are those that could not be reached. False: none is left.
func (s *spread) pick(tp spillway.TopicPartition, home int, tried lb.Set) (lb.Pick, bool) {
	now := time.Since(s.begun)
	able := s.look(now) &^ tried
	if s.homeFirst && able.Has(home) && s.balancer.Healthy(now).Has(home) {
		p, ok := s.balancer.Pick(now, nil, lb.Of(home))
		p.Reason = atHome
		return p, ok
	}
	var key [256]byte
	return s.balancer.Pick(now, binary.BigEndian.AppendUint32(append(key[:0], tp.Topic...), uint32(tp.Partition)), able)
}

// look tells the balancer what is served, and where.
func (s *spread) look(now time.Duration) lb.Set {
	var serving, near lb.Set
	for i, share := range s.shares {
		if t, ok := share.Serving(); ok {
			serving |= lb.Of(i)
			if t.Site == s.site {
				near |= lb.Of(i)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if serving != s.mu.serving {
		for i := range s.shares {
			s.balancer.Verdict(now, i, serving.Has(i))
		}
	}
	if near != s.mu.near {
		s.balancer.Near(near)
	}
	s.mu.serving, s.mu.near = serving, near
	return serving
}

func (s *spread) done(index int, outcome lb.Outcome, took time.Duration) {
	if e, yes := s.balancer.Done(time.Since(s.begun), index, outcome, took); yes {
		s.router.events.ejected(s.shares[index].ID, e.For, e.Why)
	}
}

// spreadOut says where those parts of unordered groups go that nobody has sent yet.
// It tells whether there are any: then the wait for one share's return is not all
// that helps.
func spreadOut(parts []*part) (any bool) {
	for _, p := range parts {
		if p.spread == nil {
			continue
		}
		any = true
		if p.turn > 0 { // a flow has it
			continue
		}
		p.ended(lb.Unknown)
		p.tried, p.why = 0, ""
		if !p.choose() {
			p.waitFor()
		}
	}
	return any
}

// waitFor has a part wait for its home, or for another sibling where the client may not
// write there.
func (p *part) waitFor() {
	home := p.home.Group.Siblings.Index
	if !p.barred.Has(home) {
		p.share, p.tp = p.home, p.asked
		return
	}
	for i, share := range p.spread.shares {
		if !p.barred.Has(i) {
			p.share, p.tp = share, p.spread.siblings.Partition(i, p.asked)
			return
		}
	}
}

// choose has a part go to a sibling that can take it; false: there is none.
func (p *part) choose() bool {
	s := p.spread
	picked, ok := s.pick(p.asked, p.home.Group.Siblings.Index, p.tried|p.barred)
	if !ok {
		return false
	}
	p.pick.Store(int32(picked.Target))
	p.share, p.tp, p.why = s.shares[picked.Target], s.siblings.Partition(picked.Target, p.asked), picked.Reason
	return true
}

// errAway: another part of the request has just found that the sibling cannot be reached.
var errAway = errors.New("the site could not be reached")

// connectSomewhere finds the upstream connection of a part of an unordered group: where
// its sibling cannot be reached, that of another one. Those in away are not dialled
// again: one request finds out once that a site is dead.
func (p *part) connectSomewhere(ctx context.Context, away map[*spread]lb.Set) error {
	ctx, cancel := context.WithDeadline(ctx, p.op.dialsEnd())
	defer cancel()
	for {
		i := p.share.Group.Siblings.Index
		err, outcome := errAway, lb.Unknown
		if !away[p.spread].Has(i) {
			err = p.connect(ctx)
		}
		switch {
		case err == nil || ctx.Err() != nil:
			return err
		case errors.Is(err, errAway):
		case saysNothingOfSite(err):
		default:
			away[p.spread] |= lb.Of(i)
			p.op.client.router.refresh(p.term.Site)
			outcome = lb.Failed
		}
		if !p.elsewhere(i, outcome) {
			return err
		}
	}
}

// saysNothingOfSite: the site may be well, and lack the leader of one partition, or a
// topic that was created lately or is a client's invention.
func saysNothingOfSite(err error) bool {
	return errors.Is(err, broker.ErrUnknownTopic) || errors.Is(err, broker.ErrNoLeader) || errors.Is(err, errNumbersUnknown)
}

// dialsEnd bounds how long a request dials one site after the other, while nothing that
// its client sends can go on.
func (op *produce) dialsEnd() time.Time {
	if first := op.begun.Add(dialMax); first.After(op.until) {
		return first
	}
	return op.until
}

// elsewhere has a part go to another sibling than the one that could not be used.
func (p *part) elsewhere(index int, outcome lb.Outcome) bool {
	p.tried |= lb.Of(index)
	p.ended(outcome)
	if !p.choose() {
		return false
	}
	t, serving := p.share.Serving()
	if serving {
		p.term = t
	}
	return serving
}

// ended tells the spread what became of its pick, once.
func (p *part) ended(outcome lb.Outcome) {
	if p.late != nil {
		p.late.Stop()
	}
	p.endPick(outcome, p.sent)
}

// endPick is also called beside the part's own goroutine; sent is zero if it was not.
func (p *part) endPick(outcome lb.Outcome, sent time.Time) {
	if p.spread == nil {
		return
	}
	i := p.pick.Swap(-1)
	if i < 0 {
		return
	}
	var took time.Duration
	if !sent.IsZero() {
		took = time.Since(sent)
	}
	p.spread.done(int(i), outcome, took)
}

// began counts a pick that is sent, and ends it where the site does not answer.
func (p *part) began(now time.Time) {
	if p.spread == nil {
		return
	}
	if p.why != "" { // a flow sends again without a pick
		p.spread.router.events.picked(p.share.ID, p.why)
		p.why = ""
	}
	p.late = time.AfterFunc(answerMax, func() { p.endPick(lb.Failed, now) })
}

// outcomeOf a site's answer: what the client did wrong says nothing of the site. Two of
// its errors are such that clients send again: a batch whose checksum is wrong, and a topic
// that is not there.
func outcomeOf(code int16) lb.Outcome {
	switch {
	case code == 0:
		return lb.Succeeded
	case code == kerr.CorruptMessage.Code, code == kerr.UnknownTopicOrPartition.Code:
		return lb.Unknown
	case kerr.IsRetriable(kerr.ErrorForCode(code)):
		return lb.Failed
	default:
		return lb.Unknown
	}
}

// takeOffID makes a batch one without a producer id (C).
func (p *part) takeOffID() {
	if p.idempotent() {
		batch.SetProducer(p.records, -1, -1, -1)
		p.header.ProducerID, p.header.ProducerEpoch, p.header.BaseSequence = -1, -1, -1
		p.hadID = true
	}
}

// withoutOffset is the code that acknowledges a batch that lies elsewhere (B): none
// and offset −1, which Java and franz-go show as "unknown"; or, to idempotent
// producers of libraries that take −1 for a number,
// DUPLICATE_SEQUENCE_NUMBER, which they take for a success of unknown offset. What
// else these libraries show of a plain producer, −1, 0, 1 and so on, means nothing.
func (p *part) withoutOffset() int16 {
	if p.hadID && p.op.client.counts.Load() {
		return kerr.DuplicateSequenceNumber.Code
	}
	return 0
}

// takesEveryOffset tells the libraries that count on from the offset of an answer
// whatever it is (C7), by their names in ApiVersions (KIP-511).
func takesEveryOffset(name, version string) bool {
	return name == "sarama" || isRdkafka(name, version)
}

// isRdkafka tells librdkafka and what is built on it: its bindings have names of their
// own, and versions such as 2.16.1-rdkafka-2.16.1.
func isRdkafka(name, version string) bool {
	return strings.Contains(name, "rdkafka") || strings.Contains(version, "rdkafka")
}

// distinct splits parts so that no partition is twice in one request. Only siblings may
// be: what clients send was checked.
func distinct(parts []*part) (once, more []*part) {
	if !slices.ContainsFunc(parts, func(p *part) bool { return p.spread != nil }) {
		return parts, nil
	}
	seen := make(map[spillway.TopicPartition]bool, len(parts))
	for _, p := range parts {
		if seen[p.tp] {
			more = append(more, p)
			continue
		}
		seen[p.tp] = true
		once = append(once, p)
	}
	return once, more
}
