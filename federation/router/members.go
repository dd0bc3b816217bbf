package router

import (
	"context"
	"slices"
	"sync"
	"time"

	"spillway"
	"spillway/federation/layout"
)

// members knows the members of consumer groups that speak through this gateway. A member is
// one, by whichever name it is called: its client knows it by one, and the site that serves
// now by another, from when the gateway has joined it there until its client uses that name.
//
//	A  who leaves its group leaves as whom its client knows it: a join of that member that
//	   is under way ends at once, and what the gateway made of it at the site leaves too. Its
//	   names are kept until the site has said that it is gone
//	B  a client that comes again with the name that it knows, as the answer did not reach it,
//	   joins as the member that it is at the site, and not as one more
//	C  a connection ends: a member whose name was told on it, and that has not used it, is
//	   taken back. Its client may not know it
//	D  before a move a member is waited for until it has given up its partitions, or was told
//	   to and commits in transactions, or has left, or was not heard for memberMemory. A
//	   member that is not known is not waited for, and may read again what it had not committed
//	E  what is remembered goes with the member's session; there are membersMax names at most,
//	   and of one connection namesToldMax that no client has used yet, and claimsMax that no site
//	   has confirmed. Who really joins is one at the site too
//
// A member of which nobody knows keeps its group waiting in every rebalance, until its
// session ends. Java's consumer sends its LeaveGroup behind a JoinGroup that it waits for, and
// takes no notice of the answer to that: with Kafka Streams whenever a transaction is refused
// while its thread joins.
type members struct {
	mu struct {
		sync.Mutex
		byGroup map[string]map[string]*member // by each of its names
		names   int
		swept   time.Time // when what is over was looked for last
		leaves  uint64    // requests for members to leave so far, see mark
	}
}

type member struct {
	group     string
	known, at string // to its client and at the site; empty: not at all
	joins     map[*rejoin]struct{}
	newest    *rejoin   // of those that were answered
	seen      time.Time // zero: no coordinator has said that it is one
	until     time.Time // its session, where its client may not know what it is at the site

	away    bool           // it has left, or goes to another gateway
	claim   *claims        // of the connection that named it, while no site has said that it has it
	left    uint64         // the mark of the request by which it left last
	back    uint64         // that of the newest one by which it was heard, or joins
	settled spillway.Epoch // it gave up its partitions before the move to this epoch
	told    spillway.Epoch // it was told to give up before the move to this epoch
	drained int32          // KIP-848: in this epoch it was told to give up, so the coordinator's view of it is wrong
	// transacts: it committed positions in a transaction last. It has none to save before a
	// move, since what it did since its last one is undone with the transaction; and it may
	// not come, while it waits for a transaction that begins when the move is over. That it
	// was told is enough: one that was not would try in vain until its next heartbeat.
	transacts bool
	static    bool // it has an instance id
}

// claims are the members that a connection has named and of which no site has said that it has them.
type claims struct{ n int } // guarded by members

// rejoin is a join of a member that is under way.
type rejoin struct {
	of    *member         // guarded by members, as is id
	id    string          // what the site is asked by, and what it says last that the member is
	lasts context.Context // until the member leaves
	stop  context.CancelFunc
	asks  bool // its turn has come, and the site may be asked
	left  bool // its member leaves
}

// Bounds for what is remembered of members.
const (
	membersMax   = 100_000          // names
	memberIDMax  = 512              // bytes of a member's or group's name
	claimsMax    = 16               // of a connection; a client is one
	memberMemory = 15 * time.Second // several heartbeat intervals
	// rejoinMemory is how long a site's coordinator keeps a member that it does not
	// hear (group.consumer.session.timeout.ms).
	rejoinMemory = 45 * time.Second
)

func newMembers() *members {
	m := &members{}
	m.mu.byGroup = make(map[string]map[string]*member)
	return m
}

// begin notes that a member joins, by a connection that may name it. Call it in the order of requests:
// a LeaveGroup behind it ends it also before it is answered. end must follow.
func (m *members) begin(group, id string, by *claims) *rejoin {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sweep(memberMemory)
	j := &rejoin{of: m.mu.byGroup[group][id]}
	j.lasts, j.stop = context.WithCancel(context.Background())
	if j.of == nil {
		j.of = &member{group: group, known: id, at: id}
		m.claim(j.of, id, by)
	}
	j.of.away, j.of.back = false, m.mu.leaves
	m.uses(j.of, id)
	if j.of.joins == nil {
		j.of.joins = make(map[*rejoin]struct{})
	}
	j.of.joins[j] = struct{}{}
	return j
}

// end ends a join, once. left: meanwhile its member has left. Otherwise its client may call the
// member by its new name when the answer has come, and by the old one until its session ends.
func (m *members) end(j *rejoin, session time.Duration) (left bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, underWay := j.of.joins[j]; !underWay {
		return false
	}
	left = j.left
	j.stop()
	delete(j.of.joins, j)
	if j.id != "" {
		j.of.newest = j
	}
	if j.of.seen.IsZero() { // it was given a name and has no session yet
		session = min(session, rejoinMemory)
	}
	if until := time.Now().Add(session); until.After(j.of.until) {
		j.of.until = until
	}
	if mb := j.of; mb.seen.IsZero() && mb.known == mb.at && len(mb.joins) == 0 {
		m.drop(mb)
	}
	return left
}

// hasLeft tells whether the member of a join has left meanwhile.
func (m *members) hasLeft(j *rejoin) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return j.left
}

// is tells what the member of a join, which begins to ask the site, is there. One that leaves already
// does not ask.
func (m *members) is(j *rejoin) (id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if j.left {
		return ""
	}
	j.asks = true
	if len(j.of.joins) == 1 && !time.Now().Before(j.of.until) { // the site has let it go
		m.forget(j.of)
	}
	j.id = j.of.at
	return j.id
}

// becomes notes what the member of a join is at the site, which may have joined it.
func (m *members) becomes(j *rejoin, id string, joined bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if joined {
		j.of.seen = time.Now()
		j.of.disclaim()
	}
	if j.id = id; id != j.of.at {
		m.forget(j.of)
		j.of.at = id
	}
	m.name(j.of, id)
}

// brought tells whether a join has brought a name that its client has not used yet. One that
// found no room is not known to be so: who uses it would not be seen.
func (m *members) brought(j *rejoin) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.isTold(j)
}

func (m *members) isTold(j *rejoin) bool {
	return j.id != "" && j.id != j.of.known && m.mu.byGroup[j.of.group][j.id] == j.of
}

// unheard tells whether the client of a member has not used the name that a join has brought,
// nor joined by it again. From then on there is no such member.
func (m *members) unheard(j *rejoin) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.isTold(j) || j.of.newest != j || len(j.of.joins) > 0 {
		return false
	}
	m.drop(j.of)
	return true
}

// leaving ends the joins of a member that are under way, as a request has come by which it leaves. It
// tells what the member is at the site, and whether a join waits there: one whose turn has not come
// will not ask any more.
func (m *members) leaving(group, id string) (is string, waits bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	mb := m.mu.byGroup[group][id]
	if mb == nil {
		return id, false
	}
	for j := range mb.joins {
		j.left, waits = true, waits || j.asks
		j.stop()
	}
	return mb.at, waits
}

// leaves notes that a member leaves, by a request whose turn has come: what its client sent before is
// done, and nobody waits for it any more, unless it was heard since.
func (m *members) leaves(group, id string, mark uint64) {
	m.ifKnown(group, id, func(mb *member) {
		if mb.back < mark {
			mb.away, mb.left = true, max(mb.left, mark)
		}
	})
}

// gone forgets a member that the site has none of by this name any more; one that joins, when
// that is over.
func (m *members) gone(group, id string) {
	m.ifKnown(group, id, func(mb *member) {
		switch {
		case mb.at != id: // its client does not know what it is
		case len(mb.joins) > 0:
			mb.seen = time.Time{}
		default:
			m.drop(mb)
		}
	})
}

// mark is the time of a request, to tell whether a member has left since, and leaveMark that of one
// by which members leave.
func (m *members) mark() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.leaves
}

func (m *members) leaveMark() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.leaves++
	return m.mu.leaves
}

// heard notes that a site has said that it has a member, to a request that came at a mark. One
// that has left since is still away: the answer was only late.
func (m *members) heard(group, id string, mark uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hear(group, id, mark).disclaim()
}

// comesAs notes that a known member has an instance id.
func (m *members) comesAs(group, id string, instance *string) {
	if instance != nil {
		m.ifKnown(group, id, func(mb *member) { mb.static = true })
	}
}

// staticMax bounds how many members with an instance id are told of, of one share.
const staticMax = 1000

// StaticMembers are, by share that is adopting, the members with an instance id of its consumer
// groups which spoke through this gateway lately, as layout.MemberKey of what they are at the site,
// staticMax of a share at most.
func (r *Router) StaticMembers() map[*Share][]uint64 {
	m, static := r.members, make(map[string][]uint64)
	m.mu.Lock()
	for group, g := range m.mu.byGroup {
		for id, mb := range g {
			if mb.static && id == mb.at && time.Since(mb.seen) <= throughFor {
				static[group] = append(static[group], layout.MemberKey(group, id))
			}
		}
	}
	m.mu.Unlock() // whose they are is found without holding up members
	keys := make(map[*Share][]uint64)
	for group, of := range static {
		if s, ok := r.GroupShare(group); ok && s.Adopting() {
			keys[s] = append(keys[s], of...)
		}
	}
	for s, of := range keys {
		slices.Sort(of) // first, so that those that there is room for are the same each time
		keys[s] = of[:min(len(of), staticMax)]
	}
	return keys
}

// commits notes that a site has taken positions of a member. One that was not known is one only
// by a commit with a generation: others name whom they like in a group that is empty, and those
// in transactions come by gateways where the consumer may never speak, and would be waited for.
func (m *members) commits(group, id string, generation int32, mark uint64, inTransaction bool) {
	if id == "" { // of no member
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.byGroup[group][id] == nil && (generation < 0 || inTransaction) {
		return
	}
	mb := m.hear(group, id, mark)
	mb.disclaim()
	mb.transacts = inTransaction
}

// drains notes that a member, whose request has just come, is to be told to give up its partitions in
// an epoch. False: it would not be remembered, as there is no room or its connection has named too many
// that no site knows. So it must not be told: if the move is given up, it would go on with none.
func (m *members) drains(by *claims, group, id string, epoch int32) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sweep(memberMemory)
	if m.mu.byGroup[group][id] == nil && !m.claim(&member{group: group, known: id, at: id}, id, by) {
		return false
	}
	m.hear(group, id, m.mu.leaves).drained = epoch
	return true
}

// claim has a member that no site has confirmed yet found by a name, if a connection may name one more.
func (m *members) claim(mb *member, id string, by *claims) bool {
	if by.n >= claimsMax {
		return false
	}
	if m.name(mb, id); m.mu.byGroup[mb.group][id] != mb {
		return false
	}
	mb.claim = by
	by.n++
	return true
}

func (mb *member) disclaim() {
	if mb.claim != nil {
		mb.claim.n--
		mb.claim = nil
	}
}

func (m *members) hear(group, id string, mark uint64) *member {
	m.sweep(memberMemory)
	mb := m.mu.byGroup[group][id]
	if mb == nil {
		mb = &member{group: group, known: id, at: id}
		m.name(mb, id)
	}
	mb.seen, mb.away, mb.back = time.Now(), mb.away && mark < mb.left, max(mb.back, mark)
	m.uses(mb, id)
	return mb
}

// stays tells whether a member that has left, by a request with a mark, may be there again by a name: it
// was heard since, or a join of it has begun. So it is where nobody could tell.
func (m *members) stays(group, id string, mark uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if mb := m.mu.byGroup[group][id]; mb != nil {
		return mb.back >= mark
	}
	return id == "" || !m.takes(group, id)
}

// takes tells whether a member that is not known would be found by a name.
func (m *members) takes(group, id string) bool {
	return max(len(id), len(group)) <= memberIDMax && m.mu.names < membersMax
}

// uses notes that a client calls its member by a name.
func (m *members) uses(mb *member, id string) {
	if id != "" && id == mb.at && mb.known != mb.at {
		m.unname(mb, mb.known)
		mb.known = id
	}
}

// forget takes from a member what its client does not know.
func (m *members) forget(mb *member) {
	if mb.at != mb.known {
		m.unname(mb, mb.at)
		mb.at = mb.known
	}
}

// name has a member found by a name, where there is room.
func (m *members) name(mb *member, id string) {
	if m.mu.names >= membersMax {
		m.sweep(forgetPause)
	}
	if id == "" || max(len(id), len(mb.group)) > memberIDMax || m.mu.names >= membersMax && m.mu.byGroup[mb.group][id] == nil {
		return
	}
	m.unname(m.mu.byGroup[mb.group][id], id)
	if m.mu.byGroup[mb.group] == nil {
		m.mu.byGroup[mb.group] = make(map[string]*member)
	}
	m.mu.byGroup[mb.group][id] = mb
	m.mu.names++
}

func (m *members) unname(mb *member, id string) {
	if mb == nil || m.mu.byGroup[mb.group][id] != mb {
		return
	}
	m.mu.names--
	mb.disclaim()
	if delete(m.mu.byGroup[mb.group], id); len(m.mu.byGroup[mb.group]) == 0 {
		delete(m.mu.byGroup, mb.group)
	}
}

func (m *members) drop(mb *member) {
	m.unname(mb, mb.known)
	m.unname(mb, mb.at)
}

// sweep drops members that have been silent for long, of whom nobody is told, and whose clients have
// no other name for them that counts. Not all are looked through again before a pause is over.
func (m *members) sweep(pause time.Duration) {
	now := time.Now()
	if now.Sub(m.mu.swept) < pause {
		return
	}
	m.mu.swept = now
	for _, g := range m.mu.byGroup {
		for _, mb := range g {
			told := mb.static && now.Sub(mb.seen) <= throughFor
			if len(mb.joins) == 0 && !mb.lately(now) && !told && (mb.known == mb.at || now.After(mb.until)) {
				m.drop(mb)
			}
		}
	}
}

func (mb *member) lately(now time.Time) bool { return now.Sub(mb.seen) < memberMemory }

// tidy drops what is over also where nobody speaks any more.
func (m *members) tidy() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sweep(memberMemory)
}

// rejoins tells whether a member has to join anew: it still has the epoch in
// which it was told to give up.
func (m *members) rejoins(group, id string, epoch int32) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	mb := m.mu.byGroup[group][id]
	return mb != nil && mb.drained == epoch
}

// stranger tells whether a member did not speak through this gateway lately: another one may have told
// it to give up its partitions. One that there is no room for would be one for ever.
func (m *members) stranger(group, id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	mb := m.mu.byGroup[group][id]
	return (mb == nil || !mb.lately(time.Now())) && m.takes(group, id)
}

// ifKnown changes what is remembered of a member, if anything is.
func (m *members) ifKnown(group, id string, change func(*member)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if mb := m.mu.byGroup[group][id]; mb != nil {
		change(mb)
	}
}

// tell notes that a known member was told to give up before the move to the epoch, and
// says whether that is new of one that is not waited for any more.
func (m *members) tell(group, id string, e spillway.Epoch) (settles bool) {
	m.ifKnown(group, id, func(mb *member) {
		settles = mb.transacts && mb.told < e
		mb.seen, mb.told = time.Now(), max(mb.told, e)
	})
	return settles
}

// settle notes that a member has given up its partitions before the move to the epoch. That is
// no sign that a site knows it.
func (m *members) settle(group, id string, e spillway.Epoch) {
	m.ifKnown(group, id, func(mb *member) {
		if mb.settled = max(mb.settled, e); !mb.seen.IsZero() {
			mb.seen = time.Now()
		}
	})
}

// settledAll tells whether every member heard of lately, of the groups that the
// caller names, has settled for the epoch, or was told and has nothing to settle.
func (m *members) settledAll(e spillway.Epoch, of func(group string) bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for group, g := range m.mu.byGroup {
		if !of(group) {
			continue
		}
		for _, mb := range g {
			if mb.lately(now) && !mb.away && mb.settled < e && !(mb.transacts && mb.told >= e) {
				return false
			}
		}
	}
	return true
}
