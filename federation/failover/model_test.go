package failover

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"spillway"
)

// The model: one partition, the sites a, b and (where ack.sites is 2) c, loops that
// read, decide and write at different times, gateways with leases, and a mirror
// worker at each standby. Time is abstract: a lease may lapse whenever nothing
// renews it, and every deadline of Step is always over. What runs is Step itself;
// what is enumerated is the order of everything around it, with writes that are
// lost or come late and answers that never come. A process that dies is one that
// does nothing more, so every crash is among the orders.

// variant breaks one rule; the zero value breaks none.
type variant struct {
	noLeaseWait    bool // those who wait believe that a lease is over while it is not (F2)
	noVersionCheck bool // the record is written without compare-and-set
	mapNotAwaited  bool // gateways serve the new epoch before they read the site's map
	reservedLate   bool // offsets are handed out first and reserved afterwards (C5)
	flowNotStopped bool // a mirror goes on copying after it told its ends (C8)
	ackUnchecked   bool // the lease is not checked again before the answer (C32)
	lapseForgotten bool // a lease that lapsed in between and was taken again counts as held
	vanishTrusted  bool // a gateway whose key is gone serves no more (C30)
	unseenTrusted  bool // a loop that has just begun knows all gateways from its first look (C30)
	anewUnfenced   bool // a failover that is begun anew waits for no gateway, since all had confirmed
	chosenNamed    bool // a failover for which nobody named a site counts as if somebody had (C11)
}

const (
	siteA = iota
	siteB
	siteC
)

var siteNames = [...]spillway.SiteID{"a", "b", "c"}

// world is one state of everything; it is comparable, so that states are
// visited once.
type world struct {
	share   int16 // interned record in the store
	version int16
	loops   [2]loopState
	gates   [2]gate
	mirrors [2]mirrorState // at b and c
	aLen    int8           // records in a's log, virtual offsets 0..aLen-1
	own     int8           // records that the site which took over has from clients
	mapOpen int16          // the newest epoch whose start is in the map of its site; 0: none
	resEnd  int8           // reserved end in the store
	resVer  int8
	acked   uint32 // virtual offsets that clients were told of
	begins  int8   // how often something may still happen
	aborts  int8
	writes  int8
	deletes int8
	starts  int8
	fails   int8
	down    uint8 // sites that observers find dead, a bit each, rightly or not
}

type loopState struct {
	pending int16 // record to write; -1: none
	base    int16 // version that it was derived from
	resVer  int8  // version of the reserved ends that it used; -1: none
	seen    uint8 // gateways whose lease it has read, a bit each
	watched bool  // it has read the leases for a full lease
}

type gate struct {
	key      bool  // its lease is in the store, valid or not
	known    int16 // record that it acts on; -1: none
	valid    bool  // it believes that it holds its lease
	over     bool  // others believe that its lease is over
	renewing bool  // lease written, records not yet read
	inflight int8  // 1 + site of a produce that was sent; 0: none
	offset   int8  // -1: not appended yet
	flightE  int16 // epoch of the term in which it was sent
	lapsed   bool  // the lease was over at some time since
	reserved int8  // reserved end that it may use
	mapSeen  int16 // epoch start that it has read from the map of the site that takes over
	report   int16 // epoch for which it reported drained; 0: none
	unsure   bool
}

type mirrorState struct {
	known   int16
	copied  int8  // records of a that the site has
	stopped int16 // epoch for which it stopped and reported; 0: none
	ends    int8  // what it reported
	groups  bool
	opened  int16
}

type model struct {
	variant
	size
	limits  Limits
	shares  []Share
	index   map[string]int16
	steps   map[asked]int16
	visited map[world]bool
	parent  map[world]edge
}

type edge struct {
	from world
	what string
}

// size bounds a model.
type size struct {
	kind    Kind
	loops   int
	gates   int
	records int8 // produced at most
	aborts  int8
	ack     int // ack.sites; one site more has copies
	// deletes is how often an operator deletes a gateway's lease, and starts how
	// often a loop begins anew. Without deletes all loops know all gateways.
	deletes, starts int8
	// denies: writes are denied at the old site, so the record says FENCED before that.
	denies bool
	// fails is how often observers change their mind about a site. With any, a is found
	// dead from the beginning, automation fails over, and b and c have copies.
	fails int8
	// fickle observers change it about any site, not only about the target when it is needed.
	fickle bool
	// hides: b is found to hide records of a compacted topic when its log is read back. Then
	// nobody changes his mind, which others explore.
	hides bool
	// quick: the loop, of which there is one then, writes what it decides at once, and
	// mirrors read it at once. What happens in between others explore.
	quick bool
}

// standbys is how many sites have copies beside a.
func (z size) standbys() int {
	if z.fails > 0 {
		return 2
	}
	return z.ack
}

func newModel(v variant, z size) *model {
	m := &model{variant: v, size: z,
		index: map[string]int16{}, steps: map[asked]int16{}, visited: map[world]bool{}, parent: map[world]edge{}}
	sites := siteNames[:1+z.standbys()]
	m.limits = Limits{Group: spillway.FailoverGroup{Name: "g", Sites: sites, Ack: spillway.AckPolicy{Sites: z.ack}, ReservedBlock: 2}}
	m.limits.Group.Failover.Enabled, m.limits.Group.Failover.LossRecordsMax = z.fails > 0, 1000
	return m
}

func (m *model) intern(s Share) int16 {
	s.Since, s.Started, s.Passages = time.Time{}, time.Time{}, nil
	key := string(s.Encode())
	if i, ok := m.index[key]; ok {
		return i
	}
	m.shares = append(m.shares, s)
	m.index[key] = int16(len(m.shares) - 1)
	return m.index[key]
}

func (m *model) start() world {
	s := Share{Group: "g", State: Stable, Epoch: 1, Active: "a", Terms: []Term{{Epoch: 1, Site: "a", Mask: 11}}}
	w := world{share: m.intern(s), version: 1, begins: 1, aborts: m.aborts, writes: m.records, deletes: m.deletes, starts: m.starts, fails: m.fails}
	if m.fails > 0 {
		w.begins, w.down = 0, 1<<siteA
	}
	if m.hides {
		w.fails = 0
	}
	for i := range w.loops {
		w.loops[i] = loopState{pending: -1, resVer: -1, watched: true}
	}
	for i := range w.gates {
		w.gates[i] = gate{known: -1, offset: -1, over: i >= m.gates}
	}
	for i := range w.mirrors {
		w.mirrors[i].known = -1
	}
	return w
}

// shown are the gateways that a loop finds when it reads the leases now.
func (m *model) shown(w *world) (seen uint8) {
	for i := range m.gates {
		if m.deletes == 0 || w.gates[i].key {
			seen |= 1 << i
		}
	}
	return seen
}

// view is what a loop that knows some gateways reads in state w. The record is
// read first.
func (m *model) view(w *world, s Share, seen uint8, watched bool) View {
	v := View{InState: time.Hour, Allowed: true, NewMask: uint64(100 + s.Epoch), SinceMove: time.Hour, Sites: map[spillway.SiteID]SiteView{}}
	if !watched && !m.unseenTrusted {
		v.Unseen = time.Hour
	}
	for i := range m.gates {
		g := &w.gates[i]
		named := slices.ContainsFunc(s.WaitFor, func(w WaitGateway) bool { return w.ID == spillway.GatewayID(fmt.Sprint(i)) })
		if seen&(1<<i) == 0 && !named {
			continue
		}
		gv := GatewayView{ID: spillway.GatewayID(fmt.Sprint(i)), Boot: "1", Over: g.over}
		if g.report == int16(s.Epoch) && g.report != 0 {
			gv.Report = &GatewayReport{Gateway: gv.ID, Boot: "1", Drained: true, Unsure: g.unsure}
		}
		v.Gateways = append(v.Gateways, gv)
	}
	v.Sites["a"] = SiteView{Judgement: m.judged(w, s, siteA)}
	for i := range m.standbys() {
		mi, id := &w.mirrors[i], siteNames[i+1]
		sv := SiteView{Judgement: m.judged(w, s, i+1), Mirror: true, Following: &Following{Epoch: s.Epoch}}
		if mi.stopped == int16(s.Epoch) {
			sv.Report = &SiteReport{Site: id, Stopped: true, Ends: ends(mi.ends), GroupsCopied: mi.groups, Opened: mi.opened == int16(s.Epoch), MapPosition: 1}
			if m.hides && i+1 == siteB {
				sv.Report.Hiding = map[string]string{"t": "foreign-write in partition 0"}
			}
		}
		if m.hides {
			sv.Following.Compacted, sv.Following.Hiding = []string{"t"}, map[string]string{}
		}
		v.Sites[id] = sv
	}
	if !m.denies {
		v.Fence = "lease-only"
	} else if s.State == Fenced {
		v.Fence = "acl" // which stops nothing here, so that all rests on leases
	}
	if s.State == Fenced {
		v.LogEnds, v.Reserved = ends(w.aLen), ends(w.resEnd)
	}
	return v
}

// judged is what observers think of a site. Once a site took over, the story ends.
func (m *model) judged(w *world, s Share, site int) Judgement {
	if m.fails == 0 || s.Active != "a" {
		return Judgement{}
	}
	return Judgement{Fresh: 3, Down: w.down&(1<<site) != 0, For: time.Hour}
}

func ends(n int8) PartitionOffsets { return PartitionOffsets{"t": {spillway.Offset(n)}} }

func end(p PartitionOffsets) int8 { return int8(max(0, p.Get(tp0))) }

var tp0 = spillway.TopicPartition{Topic: "t"}

// asked is all that Step sees of a world, so that it is asked once (F3).
type asked struct {
	share   int16
	seen    uint8
	watched bool
	over    [2]bool
	drained [2]bool
	unsure  [2]bool
	mirrors [2]mirrorState
	aLen    int8
	resEnd  int8
	down    uint8
}

func (m *model) step(w *world, seen uint8, watched bool) int16 {
	s := &m.shares[w.share]
	key := asked{share: w.share, seen: seen, watched: watched, down: w.down}
	for i := range m.gates {
		g := &w.gates[i]
		drained := g.report == int16(s.Epoch)
		key.over[i], key.drained[i], key.unsure[i] = g.over, drained, drained && g.unsure
	}
	for i := range m.standbys() {
		if mi := w.mirrors[i]; mi.stopped == int16(s.Epoch) {
			mi.known, mi.copied = 0, 0
			key.mirrors[i] = mi
		}
	}
	if s.State == Fencing || s.State == Fenced {
		key.aLen, key.resEnd = w.aLen, w.resEnd
	}
	if id, ok := m.steps[key]; ok {
		return id
	}
	next, _, written := Decide(*s, m.view(w, *s, seen, watched), m.limits)
	for !written { // it reads the log ends only now
		next, _, written = Decide(next, m.view(w, next, seen, watched), m.limits)
	}
	if m.anewUnfenced && s.State == Stable && next.State == Fencing && len(next.Gone) > 0 {
		next = next.enter(Fenced, View{}, "")
	}
	if m.chosenNamed {
		next.Chosen = false
	}
	id := m.intern(next)
	m.steps[key] = id
	return id
}

// moves calls emit with every state that may follow w, and returns the rule that
// was broken on the way, if any.
func (m *model) moves(w world, emit func(string, world)) (broken string) {
	try := func(what string, fn func(*world) string) {
		n := w
		if why := fn(&n); why == "-" {
			return
		} else if why != "" && broken == "" {
			broken = what + ": " + why
		}
		if n != w {
			n.order()
			emit(what, n)
		}
	}
	stored := m.shares[w.share]
	if w.begins > 0 && stored.State == Stable {
		try("begin", func(n *world) string {
			next, err := Begin(stored, Request{Kind: m.kind, Target: "b", Who: "t", LossMax: 1000}, m.view(n, stored, m.shown(n), true), m.limits)
			if err != nil {
				return "-"
			}
			n.begins--
			return m.write(n, next)
		})
	}
	if w.aborts > 0 && stored.State != Stable && stored.State != Open {
		try("abort", func(n *world) string {
			next, err := Abort(stored, "t", "")
			if err != nil {
				return "-"
			}
			n.aborts--
			return m.write(n, next)
		})
	}
	for i := range m.loops {
		m.loopMoves(w, i, stored, try)
	}
	for i := range m.gates {
		m.gateMoves(w, i, try)
	}
	for i := range m.standbys() {
		m.mirrorMoves(w, i, try)
	}
	for i := range m.standbys() + 1 {
		needed := i > siteA && siteNames[i] == stored.Target && stored.State != Fencing
		if w.fails > 0 && stored.State != Stable && stored.Active == "a" && (m.fickle || needed) {
			try(fmt.Sprintf("observers change their mind about %s", siteNames[i]), func(n *world) string {
				n.fails--
				n.down ^= 1 << i
				return ""
			})
		}
	}
	return broken
}

// order makes worlds equal that differ only in which loop is called first.
func (w *world) order() {
	a, b := w.loops[0], w.loops[1]
	if a.pending > b.pending || (a.pending == b.pending && (a.base > b.base || (a.base == b.base && a.resVer > b.resVer))) {
		w.loops[0], w.loops[1] = b, a
	}
}

func (m *model) loopMoves(w world, i int, stored Share, try func(string, func(*world) string)) {
	l := w.loops[i]
	if w.deletes+w.starts > 0 || l.seen != 0 || !l.watched {
		m.watchMoves(w, i, try)
	}
	if l.pending < 0 {
		try(fmt.Sprintf("loop %d decides", i), func(n *world) string {
			know := l
			know.seen |= m.shown(n)
			if m.vanishTrusted {
				know.seen = m.shown(n)
			}
			id := m.step(n, know.seen, know.watched)
			if id == n.share {
				return "-"
			}
			if m.quick {
				return m.write(n, m.shares[id])
			}
			if m.deletes == 0 {
				know.seen = 0 // it does not matter then
			}
			n.loops[i] = loopState{pending: id, base: n.version, resVer: -1, seen: know.seen, watched: know.watched}
			if stored.State == Fenced && stored.Kind == Failover {
				n.loops[i].resVer = n.resVer
			}
			return ""
		})
		return
	}
	try(fmt.Sprintf("loop %d writes", i), func(n *world) string {
		n.loops[i].pending, n.loops[i].base, n.loops[i].resVer = -1, 0, -1
		stale := l.base != n.version || (l.resVer >= 0 && l.resVer != n.resVer)
		if stale && !m.noVersionCheck {
			return ""
		}
		return m.write(n, m.shares[l.pending])
	})
	try(fmt.Sprintf("write of loop %d is lost", i), func(n *world) string {
		n.loops[i].pending, n.loops[i].base, n.loops[i].resVer = -1, 0, -1
		return ""
	})
}

// watchMoves are what a loop learns about gateways beside its decisions.
func (m *model) watchMoves(w world, i int, try func(string, func(*world) string)) {
	l := w.loops[i]
	if w.deletes > 0 || !l.watched { // otherwise it is enough to read before a decision
		try(fmt.Sprintf("loop %d reads the leases", i), func(n *world) string {
			n.loops[i].seen |= m.shown(n)
			return ""
		})
	}
	if w.starts > 0 && w.deletes < m.deletes { // what it forgets sooner it reads again
		try(fmt.Sprintf("loop %d begins anew", i), func(n *world) string {
			n.starts--
			n.loops[i] = loopState{pending: -1, resVer: -1}
			return ""
		})
	}
	if l.watched {
		return
	}
	for g := range m.gates {
		// Who may hold a lease has renewed it meanwhile, so it was seen.
		if l.seen&(1<<g) == 0 && (w.gates[g].valid || w.gates[g].renewing) {
			return
		}
	}
	try(fmt.Sprintf("loop %d has read the leases for a full lease", i), func(n *world) string { n.loops[i].watched = true; return "" })
}

// write stores a record and checks what must hold of records.
func (m *model) write(n *world, next Share) string {
	was := m.shares[n.share]
	n.share, n.version = m.intern(next), n.version+1
	for i := range n.mirrors {
		if m.quick {
			n.mirrors[i].known = n.share
		}
	}
	if next.Epoch < was.Epoch {
		return fmt.Sprintf("F1: epoch fell from %d to %d", was.Epoch, next.Epoch)
	}
	if len(next.Terms) < len(was.Terms) {
		return fmt.Sprintf("F1: the term of epoch %d was forgotten", was.Current().Epoch)
	}
	if next.State != Open || was.State == Open {
		return ""
	}
	if m.hides && next.Active == "b" {
		return "B: b opened, where keys of a compacted topic may be missing"
	}
	start, verified, copied := end(next.Current().Start), end(next.Current().Verified), n.mirrors[indexOf(next.Active)-1].copied
	for o := range int8(32) {
		if n.acked&(1<<o) == 0 {
			continue
		}
		if o >= start {
			return fmt.Sprintf("F5: offset %d was handed out, epoch %d starts at %d", o, next.Epoch, start)
		}
		if o >= verified && (m.kind == Switchover || m.ack > 1) {
			return fmt.Sprintf("B: offset %d was acknowledged, %s has %d", o, next.Active, verified)
		}
	}
	if copied < verified {
		return fmt.Sprintf("D: opened at %d, but the site has %d", verified, copied)
	}
	return ""
}

func indexOf(site spillway.SiteID) int { return slices.Index(siteNames[:], site) }

func (m *model) gateMoves(w world, i int, try func(string, func(*world) string)) {
	g := w.gates[i]
	name := func(what string) string { return fmt.Sprintf("gateway %d %s", i, what) }
	m.leaseMoves(w, i, name, try)
	if g.known >= 0 {
		m.serveMoves(w, i, name, try)
	}
	if g.inflight > 0 && g.offset < 0 {
		// The request is on its way and may arrive whatever became of its sender.
		try(name("is appended"), func(n *world) string { return m.arrive(n, i) })
	}
	if !g.over && (!g.valid || m.noLeaseWait) && !g.renewing {
		try(name("is believed over"), func(n *world) string { n.gates[i].over = true; return "" })
	}
}

func (m *model) leaseMoves(w world, i int, name func(string) string, try func(string, func(*world) string)) {
	g := w.gates[i]
	if !g.renewing && (!g.valid || g.known != w.share) {
		try(name("writes its lease"), func(n *world) string {
			n.gates[i].renewing, n.gates[i].over, n.gates[i].key = true, false, m.deletes > 0
			return ""
		})
	}
	if g.key && w.deletes > 0 && m.stood(w, i) {
		try(name("has its lease deleted by an operator"), func(n *world) string {
			n.gates[i].key = false
			n.deletes--
			return ""
		})
	}
	if g.renewing {
		try(name("reads the records"), func(n *world) string {
			n.gates[i].known, n.gates[i].valid, n.gates[i].renewing = n.share, true, false
			return ""
		})
	}
	if g.known != w.share && g.known >= 0 {
		try(name("is told by its watch"), func(n *world) string { n.gates[i].known = n.share; return "" })
	}
	if g.valid {
		try(name("loses its lease"), func(n *world) string {
			n.gates[i].valid, n.gates[i].lapsed = false, g.inflight > 0
			return ""
		})
	}
}

// stood tells whether a lease was in the store long enough to be seen by each loop
// that reads the leases all the time: those read every second, and watch.
func (m *model) stood(w world, i int) bool {
	for l := range m.loops {
		if w.loops[l].watched && w.loops[l].seen&(1<<i) == 0 {
			return false
		}
	}
	return true
}

func (m *model) serveMoves(w world, i int, name func(string) string, try func(string, func(*world) string)) {
	g, known := w.gates[i], m.shares[w.gates[i].known]
	site, serves := known.Serves()
	at := int8(siteA)
	if serves {
		at = int8(indexOf(site))
	}
	if g.mapSeen != w.mapOpen {
		try(name("reads the map of the site that takes over"), func(n *world) string { n.gates[i].mapSeen = n.mapOpen; return "" })
	}
	ready := serves && (at == siteA || m.mapNotAwaited || g.mapSeen == int16(known.Current().Epoch))
	if g.valid && ready && g.inflight == 0 && w.writes > 0 {
		try(name("sends a produce"), func(n *world) string {
			n.writes--
			n.gates[i].inflight, n.gates[i].offset, n.gates[i].flightE = at+1, -1, int16(known.Current().Epoch)
			n.gates[i].lapsed = false
			return ""
		})
	}
	if g.inflight > 0 && g.offset >= 0 {
		held := g.valid && (!g.lapsed || m.lapseForgotten)
		if held || m.ackUnchecked {
			try(name("answers its client"), func(n *world) string { return m.answer(n, i) })
		}
		if !held {
			try(name("drops the answer"), func(n *world) string { n.gates[i].clear(); return "" })
		}
		if held && serves && g.offset >= g.reserved && w.resEnd < g.offset+2 && !m.reservedLate {
			try(name("raises the reserved end"), func(n *world) string {
				n.resEnd, n.resVer = max(n.resEnd, g.offset+2), n.resVer+1
				n.gates[i].reserved = n.resEnd
				return ""
			})
		}
	}
	holding := !serves && known.State != Stable && known.Abort == ""
	if holding && g.report != int16(known.Epoch) {
		if g.inflight == 0 {
			try(name("confirms"), func(n *world) string {
				n.gates[i].report, n.gates[i].unsure = int16(known.Epoch), false
				return ""
			})
		} else if g.offset >= 0 {
			// The connection died: appended or not, the client will never be told.
			try(name("confirms unsure"), func(n *world) string {
				n.gates[i].report, n.gates[i].unsure = int16(known.Epoch), true
				n.gates[i].clear()
				return ""
			})
		}
	}
}

// arrive appends a produce to the log of the site that it was sent to.
func (m *model) arrive(n *world, i int) string {
	g := &n.gates[i]
	if g.inflight == siteA+1 {
		g.offset = n.aLen
		n.aLen++
		return ""
	}
	// The gateway computes the virtual offset from the map that it has read.
	s := m.shares[n.share].Current()
	if g.mapSeen == g.flightE {
		g.offset = end(s.Start) + n.own
	} else {
		g.offset = n.mirrors[g.inflight-2].copied + n.own
	}
	n.own++
	return ""
}

// answer tells a client an offset, and checks what must hold of answers.
func (m *model) answer(n *world, i int) string {
	g := &n.gates[i]
	if g.offset >= g.reserved && !m.reservedLate {
		return "-" // the reserved end must be raised first
	}
	at := siteNames[g.inflight-1]
	if m.ack > 1 && at == "a" && max(n.mirrors[0].marked(m, n), n.mirrors[1].marked(m, n)) <= g.offset {
		return "-" // no second site has it yet
	}
	current := m.shares[n.share].Current()
	if current.Site != at {
		return fmt.Sprintf("A: %s answered after %s was opened in epoch %d", at, current.Site, current.Epoch)
	}
	if n.acked&(1<<g.offset) != 0 {
		return fmt.Sprintf("D: offset %d was handed out twice", g.offset)
	}
	n.acked |= 1 << g.offset
	g.clear()
	return ""
}

func (g *gate) clear() { g.inflight, g.offset, g.flightE, g.lapsed = 0, -1, 0, false }

// marked is the durable mark that the site's mirror tells: only of an epoch in
// which it still follows.
func (mi mirrorState) marked(m *model, n *world) int8 {
	if mi.stopped != 0 && mi.known >= 0 && mi.stopped == int16(m.shares[mi.known].Epoch) {
		return 0
	}
	return mi.copied
}

func (m *model) mirrorMoves(w world, i int, try func(string, func(*world) string)) {
	mi, name := w.mirrors[i], fmt.Sprintf("mirror at %s ", siteNames[i+1])
	if mi.known != w.share {
		try(name+"reads the record", func(n *world) string { n.mirrors[i].known = n.share; return "" })
	}
	if mi.known < 0 {
		return
	}
	s, site := m.shares[mi.known], siteNames[i+1]
	stopped := mi.stopped == int16(s.Epoch)
	bound := int8(100)
	if s.Kind == Switchover && (s.State == Cutover || s.State == CaughtUp) {
		bound = end(s.Cutover)
	}
	if s.State == Open || (s.State == Stable && s.Active != "a") {
		bound = end(s.Current().Verified)
	}
	if mi.copied < w.aLen && mi.copied < bound && (!stopped || m.flowNotStopped) && s.Active == "a" {
		try(name+"copies a record", func(n *world) string {
			n.mirrors[i].copied++
			if now := m.shares[n.share]; now.Active == site && n.mirrors[i].copied > end(now.Current().Verified) {
				return fmt.Sprintf("C: %s got a record of a at offset %d behind its own from %d on", site, n.mirrors[i].copied-1, end(now.Current().Start))
			}
			return ""
		})
	}
	switch {
	case s.State == Stable || s.Abort != "":
	case !stopped && ((s.Kind == Failover && s.State == Fenced) || (s.Kind == Switchover && s.State == Cutover && mi.copied >= bound)):
		try(name+"stops", func(n *world) string {
			n.mirrors[i].stopped, n.mirrors[i].ends, n.mirrors[i].groups = int16(s.Epoch), mi.copied, true
			return ""
		})
	case stopped && s.Kind == Failover && s.State == Cutover && site == s.Target && mi.ends < end(s.Prefix):
		try(name+"catches up from the longest survivor", func(n *world) string {
			n.mirrors[i].copied = max(mi.copied, end(s.Prefix))
			n.mirrors[i].ends = n.mirrors[i].copied
			return ""
		})
	case stopped && (s.State == CaughtUp || (s.State == Cutover && s.Kind == Switchover)) && site == s.Target && mi.opened != int16(s.Epoch):
		try(name+"opens the epoch in its map", func(n *world) string {
			n.mirrors[i].opened, n.mapOpen = int16(s.Epoch), max(n.mapOpen, int16(s.Epoch))
			return ""
		})
	}
}

// explore visits every state, and returns the first broken rule with the way to it.
func (m *model) explore(max int) (broken string, states int) {
	queue := []world{m.start()}
	m.visited[queue[0]] = true
	for len(queue) > 0 && len(m.visited) < max {
		w := queue[0]
		queue = queue[1:]
		why := m.moves(w, func(what string, n world) {
			if !m.visited[n] {
				m.visited[n] = true
				if m.variant != (variant{}) {
					m.parent[n] = edge{w, what}
				}
				queue = append(queue, n)
			}
		})
		if why != "" {
			return why + m.way(w), len(m.visited)
		}
	}
	if len(queue) > 0 {
		return "the bound on states was reached before all were visited", len(m.visited)
	}
	return "", len(m.visited)
}

func (m *model) way(w world) string {
	var b strings.Builder
	for {
		e, ok := m.parent[w]
		if !ok {
			return b.String()
		}
		fmt.Fprintf(&b, "\n  after: %s", e.what)
		w = e.from
	}
}

// walk takes random walks through worlds too large to enumerate.
func (m *model) walk(walks, length int) (broken string, steps int) {
	random := rand.New(rand.NewPCG(1, 2))
	for range walks {
		w := m.start()
		var log []string
		for range length {
			var next []edge
			if why := m.moves(w, func(what string, n world) { next = append(next, edge{n, what}) }); why != "" {
				return why + "\n  after: " + strings.Join(log, "\n  after: "), steps
			}
			if len(next) == 0 {
				break
			}
			e := next[random.IntN(len(next))]
			log = append(log, e.what)
			w = e.from
			steps++
		}
	}
	return "", steps
}
