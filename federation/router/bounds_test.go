package router

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// A group that is named again is answered once, with all that was asked of it.
func TestWhatIsAskedOfAGroupIsPutTogether(t *testing.T) {
	of := func(group string, topics ...string) kmsg.OffsetFetchRequestGroup {
		g := kmsg.NewOffsetFetchRequestGroup()
		g.Group = group
		for _, name := range topics {
			topic := kmsg.NewOffsetFetchRequestGroupTopic()
			topic.Topic = name
			g.Topics = append(g.Topics, topic)
		}
		return g
	}
	got := byGroup([]kmsg.OffsetFetchRequestGroup{of("a", "orders"), of("b", "orders"), of("a", "carts", "orders"), of("b")})
	if len(got) != 2 || got[0].Group != "a" || len(got[0].Topics) != 3 || got[1].Group != "b" || got[1].Topics != nil {
		t.Errorf("%+v", got)
	}
}
