package router

import (
	"fmt"
	"testing"
)

// Nothing is kept of members that left, the names of their groups included.
func TestMembersThatLeftAreForgotten(t *testing.T) {
	m := newMembers()
	for i := range 1000 {
		group := fmt.Sprint("group-", i)
		m.touch(group, "a")
		m.touch(group, "b")
		m.gone(group, "a")
		m.gone(group, "a")
		m.gone(group, "b")
	}
	if n := len(m.mu.byGroup); n != 0 || m.mu.count != 0 {
		t.Errorf("%d groups and %d members are remembered", n, m.mu.count)
	}
}
