package router

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"spillway"
)

func anyGroup(string) bool { return true }

// kept is how many members are remembered, and by how many names.
func (m *members) kept() [2]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	all, names := make(map[*member]bool), 0
	for _, g := range m.mu.byGroup {
		for _, mb := range g {
			all[mb] = true
			names++
		}
	}
	if names != m.mu.names {
		return [2]int{-1, m.mu.names}
	}
	return [2]int{len(all), names}
}

// starts begins a join by a connection of its own.
func (m *members) starts(group, id string) *rejoin { return m.begin(group, id, new(claims)) }

// goes is a request by which a member leaves.
func (m *members) goes(group, id string) (is string, waits bool) {
	mark := m.leaveMark()
	is, waits = m.leaving(group, id)
	m.leaves(group, id, mark)
	return is, waits
}

// joinsAs is a join that makes a member another one at the site.
func (m *members) joinsAs(group, id, is string, session time.Duration) *rejoin {
	j := m.starts(group, id)
	m.is(j)
	m.becomes(j, is, true)
	m.end(j, session)
	return j
}

// Nothing is kept of members that left, the names of their groups included.
func TestMembersThatLeftAreForgotten(t *testing.T) {
	m := newMembers()
	for i := range 1000 {
		group := fmt.Sprint("group-", i)
		m.touch(group, "a")
		m.joinsAs(group, "b", "c", time.Minute)
		m.gone(group, "a")
		m.gone(group, "a")
		m.gone(group, "b") // the site does not know it by that name
		if is, _ := m.goes(group, "b"); is != "c" {
			t.Fatalf("b is %s", is)
		}
		m.gone(group, "c")
	}
	if got := m.kept(); got != [2]int{} {
		t.Errorf("%v are remembered", got)
	}
}

// What a member is at its site is remembered until its client has said so, the site has let it
// go, or the session is over.
func TestWhatMembersAreIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMembers()
		for i := range 4 {
			m.joinsAs("billing", fmt.Sprint("was-", i), fmt.Sprint("is-", i), time.Minute)
		}
		is := func(i int) string { id, _ := m.goes("billing", fmt.Sprint("was-", i)); return id }
		if got := m.kept(); got != [2]int{4, 8} {
			t.Errorf("%v are remembered of 4", got)
		}
		m.touch("billing", "is-1")
		if id := is(1); id != "was-1" {
			t.Errorf("who uses its new name leaves by the old one as %s", id)
		}
		for range 2 { // until the site says that it is gone
			if id := is(2); id != "is-2" {
				t.Errorf("who was not heard leaves as %s", id)
			}
		}
		m.gone("billing", "is-2")
		if id := is(2); id != "was-2" {
			t.Errorf("who has left leaves as %s", id)
		}
		if got := m.kept(); got != [2]int{3, 5} {
			t.Errorf("%v are remembered of 3", got)
		}
		time.Sleep(memberMemory)
		m.touch("billing", "another")
		if got := m.kept(); got != [2]int{3, 5} {
			t.Errorf("%v are remembered: of those whose session goes on, and another", got)
		}
		time.Sleep(time.Minute)
		j := m.starts("billing", "was-3")
		if id := m.is(j); id != "was-3" {
			t.Errorf("when its session is over it is %s", id)
		}
		m.end(j, 0)
		m.touch("billing", "another")
		if got := m.kept(); got != [2]int{1, 1} {
			t.Errorf("%v are remembered when all sessions are over", got)
		}
	})
}

// There is room for so many names, and joins that nobody confirms take none.
func TestMembersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMembers()
		for i := range membersMax {
			m.end(m.starts("billing", fmt.Sprint("nobody-", i)), time.Hour)
		}
		if got := m.kept(); got != [2]int{} {
			t.Errorf("%v are remembered that no site knows", got)
		}
		for i := range membersMax + 10 { // names that a site gave, and whose clients did not join
			j := m.starts("billing", "")
			m.is(j)
			m.becomes(j, fmt.Sprint("given-", i), false)
			m.end(j, time.Hour)
		}
		if got := m.kept(); got[1] != membersMax {
			t.Errorf("%v are remembered that were given a name, %d names are the most", got, membersMax)
		}
		time.Sleep(rejoinMemory + time.Second)
		m.tidy()
		if got := m.kept(); got != [2]int{} {
			t.Errorf("%v are remembered that were given a name and did not join", got)
		}
		for i := range membersMax/2 + 10 {
			m.joinsAs("billing", fmt.Sprint("was-", i), fmt.Sprint("is-", i), time.Minute)
		}
		m.touch("billing", string(make([]byte, memberIDMax+1)))
		if got := m.kept(); got[1] != membersMax {
			t.Errorf("%v are remembered, %d names are the most", got, membersMax)
		}
		time.Sleep(time.Hour)
		m.touch("billing", "one")
		if got := m.kept(); got != [2]int{1, 1} {
			t.Errorf("%v are remembered when all sessions are over", got)
		}
	})
}

// A member leaves: all its joins end, and those of others do not. It is not waited for.
func TestOnlyTheJoinsOfWhoLeavesEnd(t *testing.T) {
	m := newMembers()
	m.touch("billing", "a")
	first, second, other := m.starts("billing", "a"), m.starts("billing", "a"), m.starts("billing", "b")
	for _, j := range []*rejoin{first, second, other} {
		m.is(j)
	}
	m.becomes(first, "new", false)
	for _, id := range []string{"a", "new"} {
		if is, joins := m.goes("billing", id); is != "new" || !joins {
			t.Errorf("%s is %s, joins %v", id, is, joins)
		}
	}
	if !m.settledAll(2, anyGroup) {
		t.Error("who has left is waited for")
	}
	for i, j := range []*rejoin{first, second, other} {
		if ended := j.lasts.Err() != nil; ended != (i < 2) {
			t.Errorf("join %d has ended: %v", i, ended)
		}
		if left := m.end(j, time.Minute); left != (i < 2) {
			t.Errorf("the member of join %d has left: %v", i, left)
		}
	}
	m.gone("billing", "new")
	if got := m.kept(); got != [2]int{} {
		t.Errorf("%v are remembered", got)
	}
}

// A join whose member leaves before its turn has come waits at no site.
func TestAJoinThatIsLeftBeforeItsTurnDoesNotWait(t *testing.T) {
	m := newMembers()
	j := m.starts("billing", "a")
	for range 2 {
		if _, waits := m.leaving("billing", "a"); waits {
			t.Error("it waits at the site")
		}
		m.is(j)
	}
	if left := m.end(j, 0); !left {
		t.Error("its member has not left")
	}
}

// A site does not know a member whose join is held, and a refused join says nothing about it.
func TestAMemberThatJoinsIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMembers()
		m.touch("billing", "a")
		held := m.starts("billing", "a")
		m.is(held)
		m.gone("billing", "a") // by its heartbeat
		if !m.settledAll(2, anyGroup) {
			t.Error("a member that its site does not know is waited for")
		}
		m.becomes(held, "b", true)
		m.end(held, time.Minute)
		m.end(m.starts("billing", "a"), 0) // refused
		if is, _ := m.goes("billing", "a"); is != "b" {
			t.Errorf("it leaves as %s", is)
		}
		if !m.unheard(held) {
			t.Error("it is not taken back, since another join was refused")
		}
	})
}

// What is known of a member outlives its name: one that commits in transactions is not waited
// for in the next move either, once it is told.
func TestAMemberIsTheSameByItsNewName(t *testing.T) {
	m := newMembers()
	m.touch("billing", "a")
	m.ifKnown("billing", "a", func(mb *member) { mb.transacts = true })
	m.joinsAs("billing", "a", "b", time.Minute)
	for _, id := range []string{"b", "a"} { // an old name that is used no more is nobody's
		m.ifKnown("billing", id, func(mb *member) { m.uses(mb, id) })
		if m.settledAll(3, anyGroup) {
			t.Error("a member that was not told is not waited for")
		}
	}
	if !m.tell("billing", "b", 3) || !m.settledAll(3, anyGroup) {
		t.Error("a member that was told and commits in transactions is waited for")
	}
}

// Whether a member is taken back when the connection ends on which its name was told.
func TestAMemberThatIsNotHeardIsTakenBack(t *testing.T) {
	for _, c := range []struct {
		name  string
		then  func(*members)
		taken bool
	}{
		{"its client uses its old name", func(*members) {}, true},
		{"its client uses the new one", func(m *members) { m.touch("billing", "new") }, false},
		{"its client leaves as whom it was", func(m *members) { m.goes("billing", "old") }, true},
		{"its client has left as whom it was", func(m *members) { m.goes("billing", "old"); m.gone("billing", "new") }, false},
		{"it joins again elsewhere", func(m *members) { m.is(m.starts("billing", "old")) }, false},
		{"it has joined again elsewhere", func(m *members) { m.joinsAs("billing", "old", "new", time.Minute) }, false},
		// The site said that it knows no such member before it named the new one.
		{"it has become another one", func(m *members) { m.joinsAs("billing", "old", "newest", time.Minute) }, false},
	} {
		for _, was := range []string{"old", ""} {
			if was == "" && c.name != "its client uses its old name" && c.name != "its client uses the new one" {
				continue // a client without a name leaves and joins as somebody else
			}
			m := newMembers()
			j := m.joinsAs("billing", was, "new", time.Minute)
			c.then(m)
			if taken := m.unheard(j); taken != c.taken {
				t.Errorf("%s, it was %q: taken back %v", c.name, was, taken)
			}
			if _, joins := m.goes("billing", "old"); c.name == "it joins again elsewhere" && !joins {
				t.Errorf("%s: nothing is known of it", c.name)
			}
		}
	}
}

// Who is waited for before a move.
func TestMembersThatAreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const next = spillway.Epoch(2)
		for _, c := range []struct {
			name   string
			change func(m *members)
			waits  bool
		}{
			{"nobody spoke", func(*members) {}, false},
			{"one spoke", func(m *members) { m.touch("billing", "a") }, true},
			{"of another failover group", func(m *members) { m.touch("carts", "a") }, false},
			{"it joins, and no site knows it", func(m *members) { m.starts("billing", "a") }, false},
			{"it has settled", func(m *members) { m.touch("billing", "a"); m.settle("billing", "a", next) }, false},
			{"it had settled for the move before", func(m *members) { m.touch("billing", "a"); m.settle("billing", "a", next-1) }, true},
			{"it was told", func(m *members) { m.touch("billing", "a"); m.tell("billing", "a", next) }, true},
			{"it has left", func(m *members) { m.touch("billing", "a"); m.goes("billing", "a") }, false},
			{"it has left and come back", func(m *members) { m.touch("billing", "a"); m.goes("billing", "a"); m.touch("billing", "a") }, true},
			{"it is silent", func(m *members) { m.touch("billing", "a"); time.Sleep(memberMemory) }, false},
			{"it is silent by two names", func(m *members) { m.joinsAs("billing", "a", "b", time.Hour); time.Sleep(memberMemory) }, false},
		} {
			m := newMembers()
			c.change(m)
			if waits := !m.settledAll(next, func(group string) bool { return group == "billing" }); waits != c.waits {
				t.Errorf("%s: waited for %v", c.name, waits)
			}
		}
	})
}

// touch notes a sign of life.
func (m *members) touch(group, id string) { m.heard(group, id, m.mark()) }

// A site's late word that it has a member, to a heartbeat before its leave, does not bring it back.
func TestALateAnswerDoesNotBringAMemberBack(t *testing.T) {
	m := newMembers()
	m.touch("billing", "a")
	before := m.mark()
	m.goes("billing", "a")
	if m.heard("billing", "a", before); !m.settledAll(2, anyGroup) || m.stays("billing", "a", m.mu.leaves) {
		t.Error("who has left is waited for again, as an answer from before was late")
	}
	if m.heard("billing", "a", m.mark()); m.settledAll(2, anyGroup) || !m.stays("billing", "a", m.mu.leaves) {
		t.Error("who is heard after it has left is not waited for")
	}
	leave := m.leaveMark()
	m.leaving("billing", "a")
	m.heard("billing", "a", m.mark())
	if m.leaves("billing", "a", leave); m.settledAll(2, anyGroup) || !m.stays("billing", "a", leave) {
		t.Error("who is heard before the turn of its leave has come is not waited for")
	}
}
