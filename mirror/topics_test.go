package mirror

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker"
	"spillway/mirror/metadata"
	"spillway/mirror/sitelog"
)

// refusing is a cluster that creates no topics, and tells no settings.
type refusing struct {
	broker.Cluster
	err   error
	asked *int
}

type refusingAdmin struct {
	broker.Admin
	refusing
}

func (r refusing) Admin() broker.Admin { return refusingAdmin{r.Cluster.Admin(), r} }

func (r refusingAdmin) CreateTopics(_ context.Context, topics []broker.NewTopic) ([]string, map[string]error, error) {
	*r.asked++
	return nil, map[string]error{topics[0].Name: r.err}, nil
}

func (r refusingAdmin) TopicSettings(context.Context, []string) (map[string]map[string]string, error) {
	return nil, r.err
}

// Only what may be the fault of its settings costs a topic its settings.
func TestATroubleThatPassesCostsNoSettings(t *testing.T) {
	t.Parallel()
	west := embeddedSite(t, "west", nil)
	value := "1"
	plans := []topicPlan{{name: "orders", settings: metadata.SettingsPlan{Changes: []metadata.Change{{Key: "retention.ms", New: &value}}}}}
	for err, want := range map[error]int{
		kerr.ThrottlingQuotaExceeded: 1, kerr.RequestTimedOut: 1, kerr.InvalidReplicationFactor: 1, broker.ErrTopicExists: 1,
		kerr.InvalidConfig: 3, kerr.InvalidRequest: 3, kerr.PolicyViolation: 3,
	} {
		asked := 0
		m := &Mirror{local: refusing{west, err, &asked}, site: "west", events: &Events{}}
		created, fault := m.makeTopics(t.Context(), nil, plans, map[string]int32{"orders": 1})
		if asked != want || len(created) > 0 || errors.Is(err, broker.ErrTopicExists) != (fault == nil) {
			t.Errorf("%v: %d attempts, created %v, %v", err, asked, created, fault)
		}
	}
}

// Topics whose settings nobody could tell keep their turn. One that may not be read does
// not keep the others from theirs.
func TestATurnIsNotLost(t *testing.T) {
	t.Parallel()
	east, west := embeddedSite(t, "east", nil), embeddedSite(t, "west", nil)
	asked := 0
	for err, moves := range map[error]bool{errors.New("no answer"): false, kerr.TopicAuthorizationFailed: true} {
		m := testMirrorWith(t, Config{Local: refusing{west, err, &asked}}, east)
		src, fault := m.source("east")
		if fault != nil {
			t.Fatal(fault)
		}
		f := newFlow(m, ordersAssignment("east", 1), src, nil)
		for i := range 2 * topicsRound {
			f.mu.state[spillway.TopicPartition{Topic: fmt.Sprintf("orders-%d", i)}] = partState{}
		}
		f.metadataRound(t.Context(), nil, true)
		if (f.turn != "") != moves {
			t.Errorf("%v: the turn is at %q", err, f.turn)
		}
	}
}

// A topic that takes less than the source's is looked at before its turn.
func TestATopicThatTakesTooLittleIsLookedAt(t *testing.T) {
	t.Parallel()
	m := &Mirror{events: &Events{}, budget: newBudget(MemoryBytesDefault)}
	l := newLane(t.Context(), newFlow(m, ordersAssignment("east", 1), &source{site: "east"}, nil), 1)
	p := &planned{partition: &partition{TopicPartition: spillway.TopicPartition{Topic: "orders"}}}
	for range 2 {
		l.tooLarge(t.Context(), p, outgoing{records: 2, bytes: make([]byte, 100)}, sitelog.Produced{})
	}
	select {
	case <-l.flow.metadataDue:
	default:
		t.Error("nobody was told")
	}
	if due := l.flow.mu.due; len(due) != 1 || due[0] != "orders" {
		t.Errorf("looked at: %v", due)
	}
}

func TestFaultsOfManyPartitions(t *testing.T) {
	first := errors.New("first")
	for want, faults := range map[string][]error{"first": {nil, first, nil}, "first, and 2 more faults": {first, nil, errors.New("x"), errors.New("y")}} {
		if err := some(faults); !errors.Is(err, first) || err.Error() != want {
			t.Errorf("%v", err)
		}
	}
	if err := some(make([]error, 3)); err != nil {
		t.Error(err)
	}
}
