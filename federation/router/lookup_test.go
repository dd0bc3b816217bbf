package router

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker"
	"spillway/federation/failover"
)

// asked is a site that notes what is looked up, and takes a second for each answer.
type asked struct {
	broker.Cluster
	mu        sync.Mutex
	questions []string
	busy      bool
}

func (a *asked) note(what string) {
	a.mu.Lock()
	if a.busy {
		what += " beside another"
	}
	a.questions, a.busy = append(a.questions, what), true
	a.mu.Unlock()
	time.Sleep(time.Second)
	a.mu.Lock()
	a.busy = false
	a.mu.Unlock()
}

// take returns what was asked since the last call.
func (a *asked) take() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	questions := a.questions
	a.questions = nil
	return questions
}

func (a *asked) Refresh(context.Context) error { a.note("everything"); return nil }

func (a *asked) Metadata(_ context.Context, topics ...string) (broker.Metadata, error) {
	a.note(strings.Join(topics, " "))
	return broker.Metadata{}, nil
}

func (a *asked) Relocate(_ context.Context, kind broker.CoordinatorKind, keys ...string) error {
	a.note(fmt.Sprint(kind, " ", strings.Join(keys, " ")))
	return nil
}

// Many clients want to know at once who leads a partition: the site is asked once, and once
// more for those that came after the question. What they do not name stays known.
func TestASiteIsAskedOneQuestionAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		site := &asked{}
		r := New(Config{Topology: spillway.NewTopology("t", "id", nil, nil), Sites: map[spillway.SiteID]broker.Cluster{"east": site}, Lease: always{}, Layout: fixedLayout{}})
		for range 50 {
			r.relearn("east", "orders")
			synctest.Wait()
		}
		r.relearn("east", "carts")
		time.Sleep(5 * time.Second)
		if got, want := site.take(), []string{"orders", "carts orders"}; !slices.Equal(got, want) {
			t.Errorf("asked %q, want %q", got, want)
		}
		// A coordinator that is not one any more is looked for alone, whoever met it.
		share := NewShare(spillway.ShareID{Group: "shop"}, spillway.FailoverGroup{Name: "shop"})
		share.SetRecord(failover.Share{State: failover.Stable, Epoch: 1, Active: "east", Terms: []failover.Term{{Epoch: 1, Site: "east"}}})
		share.Open(Term{Epoch: 1, Base: 1, Site: "east"})
		c := &Client{router: r}
		for range 50 {
			c.stale(share, theGroup("readers"), kerr.NotCoordinator.Code)
			synctest.Wait()
			c.stale(share, theID("orders"), kerr.CoordinatorNotAvailable.Code)
			c.stale(share, theGroup("writers"), kerr.UnknownMemberID.Code)
			synctest.Wait()
		}
		time.Sleep(5 * time.Second)
		if got, want := site.take(), []string{"0 readers", "0 readers", "1 orders"}; !slices.Equal(got, want) {
			t.Errorf("asked %q, want %q", got, want)
		}
		// A broker dies that coordinated more than one question can name: all of them are
		// forgotten at once, and not 500 after each answer.
		r.relocate("east", theGroup("first"))
		synctest.Wait()
		for i := range 2 * lookupNamesMax {
			r.relocate("east", theGroup(fmt.Sprint("group-", i)))
		}
		r.relocate("east", theGroup("group-0"))
		time.Sleep(5 * time.Second)
		if got := site.take(); len(got) != 3 || got[0] != "0 first" || got[1] != "everything" || len(strings.Fields(got[2])) != 1+lookupNamesMax {
			t.Errorf("of %d groups it was asked %d questions: %.200q", 2*lookupNamesMax, len(got), got)
		}
		for i := range lookupNamesMax {
			r.relocate("east", theGroup(fmt.Sprint("group-", i)))
			r.relocate("east", theGroup("group-0"))
		}
		time.Sleep(5 * time.Second)
		if got := site.take(); slices.Contains(got, "everything") {
			t.Error("everything was forgotten for what one question can name")
		}
		for range 20 {
			r.refresh("east")
			time.Sleep(200 * time.Millisecond)
		}
		time.Sleep(5 * time.Second)
		if n := len(site.take()); n < 2 || n > 5 {
			t.Errorf("asked %d times in 4 s of requests", n)
		}
		r.Close()
	})
}

// describing is a site that is asked about producers; it notes how long it may take.
type describing struct {
	broker.Cluster
	left time.Duration
}

type describer struct {
	broker.Admin
	of *describing
}

func (*describing) Capabilities() broker.Capabilities {
	return broker.Capabilities{DescribeProducers: true}
}

func (d *describing) Admin() broker.Admin { return describer{of: d} }

func (d describer) DescribeProducers(ctx context.Context, _ spillway.TopicPartition) ([]broker.ProducerState, error) {
	if at, ok := ctx.Deadline(); ok {
		d.of.left = time.Until(at)
	}
	return nil, broker.ErrNoLeader
}

// A batch that is held for a moment only does not decide how long a broker may take to say
// what it knows of the producer: the connection is everybody's.
func TestAQuestionAboutAProducerHasItsOwnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		site := &describing{}
		r := New(Config{Topology: spillway.NewTopology("t", "id", nil, nil), Sites: map[spillway.SiteID]broker.Cluster{"east": site}, Lease: always{}, Layout: fixedLayout{}})
		near, far := net.Pipe()
		defer near.Close()
		defer far.Close()
		p := &part{op: &produce{client: r.Connect(far)}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		p.askSite(ctx, Term{Site: "east"})
		if site.left < time.Second {
			t.Errorf("the site has %s", site.left)
		}
		r.Close()
	})
}
