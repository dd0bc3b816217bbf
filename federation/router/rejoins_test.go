package router

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// What a member is at its site is remembered until its client has said so, has left, or the
// session is over, and of no more members than there is room for.
func TestWhatMembersAreIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRejoins()
		of := func(i int) memberName { return memberName{"billing", fmt.Sprint("was-", i)} }
		rejoin := func(i int) {
			j := r.begin(of(i))
			if r.is(of(i)) != of(i).id {
				t.Fatalf("%s is %s already", of(i).id, r.is(of(i)))
			}
			if r.end(j, fmt.Sprint("is-", i), time.Minute) {
				t.Fatal("nobody has left")
			}
		}
		kept := func() [3]int { return [3]int{len(r.mu.underWay), len(r.mu.now), len(r.mu.before)} }
		for i := range membersMax + 10 {
			rejoin(i)
		}
		if got := kept(); got != [3]int{0, membersMax, membersMax} {
			t.Errorf("%v are remembered of %d", got, membersMax+10)
		}
		r.told(memberName{"billing", "is-1"})
		if id := r.left(of(1)); id != "was-1" {
			t.Errorf("who was told leaves as %s", id)
		}
		if id := r.left(of(2)); id != "is-2" {
			t.Errorf("who was not told leaves as %s", id)
		}
		if got := kept(); got != [3]int{0, membersMax - 2, membersMax - 2} {
			t.Errorf("%v are remembered of %d", got, membersMax-2)
		}
		time.Sleep(time.Minute)
		if id := r.left(of(3)); id != "was-3" {
			t.Errorf("after its session it leaves as %s", id)
		}
		for i := range 4 {
			rejoin(membersMax + i)
		}
		if got := kept(); got != [3]int{0, 4, 4} {
			t.Errorf("%v are remembered when all sessions are over", got)
		}
	})
}

// A member leaves: all its joins end, and those of others do not.
func TestOnlyTheJoinsOfWhoLeavesEnd(t *testing.T) {
	r := newRejoins()
	a, b := memberName{"billing", "a"}, memberName{"billing", "b"}
	first, second, other := r.begin(a), r.begin(a), r.begin(b)
	r.leaves(a)
	for i, j := range []*rejoin{first, second, other} {
		if ended := j.lasts.Err() != nil; ended != (i < 2) {
			t.Errorf("join %d has ended: %v", i, ended)
		}
	}
	if !r.end(first, "new", time.Minute) || !r.end(second, "", time.Minute) || r.end(other, "b", time.Minute) {
		t.Error("it is the first two of which the member has left")
	}
	if len(r.mu.underWay)+len(r.mu.now)+len(r.mu.before) != 0 {
		t.Errorf("%+v", &r.mu)
	}
}
