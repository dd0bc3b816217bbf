package router

import (
	"context"
	"sync"
	"time"
)

// rejoins knows the joins that are under way, and the members that the gateway joined anew
// for their clients, at the site that serves now, for as long as these may know only the
// id that they had before.
//
//	A  who leaves its group leaves as whom its client knows it: a join of that member that
//	   is under way ends, and what the gateway made of it at the site leaves too
//	B  a client that comes again with the id that it knows, as the answer did not reach it,
//	   joins as the member that it is at the site, and not as one more
//
// A member of which nobody knows keeps its group waiting in every rebalance, until its
// session ends. Java's consumer sends its LeaveGroup behind a JoinGroup that it waits for, and
// takes no notice of the answer to that: with Kafka Streams whenever a transaction is refused
// while its thread joins.
type rejoins struct {
	mu struct {
		sync.Mutex
		underWay map[memberName]map[*rejoin]struct{}
		now      map[memberName]anew       // what a member is at the site, by what its client knows
		before   map[memberName]memberName // the inverse
		forgot   time.Time                 // when room was looked for last
	}
}

// memberName is a member of a group, as somebody knows it.
type memberName struct{ group, id string }

// rejoin is a join that is under way.
type rejoin struct {
	of    memberName
	lasts context.Context // until the member has left
	stop  context.CancelFunc
	left  bool // meanwhile the member has left
}

// anew is a member whose client may not know of it.
type anew struct {
	id    string
	until time.Time // its session: then the site has let it go
}

func newRejoins() *rejoins {
	r := &rejoins{}
	r.mu.underWay = make(map[memberName]map[*rejoin]struct{})
	r.mu.now = make(map[memberName]anew)
	r.mu.before = make(map[memberName]memberName)
	return r
}

// begin notes that a member joins. Call it in the order of requests: a LeaveGroup behind it ends
// it also before it is answered. end must follow.
func (r *rejoins) begin(of memberName) *rejoin {
	j := &rejoin{of: of}
	j.lasts, j.stop = context.WithCancel(context.Background())
	if of.id == "" { // its client cannot leave
		return j
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.underWay[of] == nil {
		r.mu.underWay[of] = make(map[*rejoin]struct{})
	}
	r.mu.underWay[of][j] = struct{}{}
	return j
}

// is tells what a member is at the site.
func (r *rejoins) is(of memberName) (id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at(of)
}

// end tells whether the member has left meanwhile. Otherwise it is remembered what it is at
// the site now, for the length of its session.
func (r *rejoins) end(j *rejoin, id string, session time.Duration) (left bool) {
	j.stop()
	if j.of.id == "" {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if delete(r.mu.underWay[j.of], j); len(r.mu.underWay[j.of]) == 0 {
		delete(r.mu.underWay, j.of)
	}
	if !j.left && id != "" && id != j.of.id && max(len(id), len(j.of.id), len(j.of.group)) <= memberIDMax && r.room() {
		r.drop(j.of)
		r.mu.now[j.of] = anew{id, time.Now().Add(session)}
		r.mu.before[memberName{j.of.group, id}] = j.of
	}
	return j.left
}

// leaves ends the joins of a member that are under way.
func (r *rejoins) leaves(of memberName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for j := range r.mu.underWay[of] {
		j.left = true
		j.stop()
	}
}

// left tells what a member that has left was at the site, and forgets it.
func (r *rejoins) left(of memberName) (id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id = r.at(of)
	r.drop(of)
	return id
}

// told notes that a client knows what its member is at the site.
func (r *rejoins) told(is memberName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if of, ok := r.mu.before[is]; ok {
		r.drop(of)
	}
}

func (r *rejoins) at(of memberName) string {
	if is, ok := r.mu.now[of]; ok && time.Now().Before(is.until) {
		return is.id
	}
	return of.id
}

func (r *rejoins) drop(of memberName) {
	if is, ok := r.mu.now[of]; ok {
		delete(r.mu.before, memberName{of.group, is.id})
		delete(r.mu.now, of)
	}
}

// room tells whether one more can be remembered. Members that come while there is none do
// not have all looked through again at once.
func (r *rejoins) room() bool {
	if len(r.mu.now) < membersMax {
		return true
	}
	if time.Since(r.mu.forgot) < forgetPause {
		return false
	}
	r.mu.forgot = time.Now()
	for of, is := range r.mu.now {
		if !time.Now().Before(is.until) {
			r.drop(of)
		}
	}
	return len(r.mu.now) < membersMax
}
