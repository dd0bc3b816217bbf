package drill

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/federation/control"
	"spillway/federation/failover"
	"spillway/federation/history"
)

// person answers commands as the operator does, and moves nothing.
type person struct {
	t  *testing.T
	mu sync.Mutex

	share      failover.Share
	records    []history.Record
	refuse     error           // of every command
	behind     int             // so many times a target is behind
	givenUp    bool            // moves end where they began
	announce   spillway.Offset // what failovers announce of drill-0, from 0 on
	act        func()          // while a failover is made
	stands     bool            // moves do not end
	aborted    int
	unread     string // of the accounts of moves
	automation failover.Automation
}

func (p *person) Share(context.Context, string) (failover.Share, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.share, nil
}

func (p *person) Failover(_ context.Context, _ string, to spillway.SiteID, _ int64, _, _ string, dryRun bool) (control.Plan, error) {
	if p.act != nil && !dryRun {
		p.act()
	}
	return p.move(failover.Failover, to, dryRun)
}

func (p *person) Switchover(_ context.Context, _ string, to spillway.SiteID, _, _ string, dryRun bool) (control.Plan, error) {
	return p.move(failover.Switchover, to, dryRun)
}

func (p *person) move(kind failover.Kind, to spillway.SiteID, dryRun bool) (control.Plan, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.refuse != nil:
		return control.Plan{}, p.refuse
	case dryRun && p.behind > 0:
		p.behind--
		return control.Plan{}, fmt.Errorf("%w: by a little", failover.ErrBehind)
	case dryRun:
		return control.Plan{}, nil
	}
	p.share.Epoch++
	m := history.Record{Epoch: p.share.Epoch, Kind: kind, From: p.share.Active, To: to, Verified: failover.PartitionOffsets{}, Start: failover.PartitionOffsets{}}
	if kind == failover.Failover && p.announce > 0 {
		tp := spillway.TopicPartition{Topic: "drill"}
		m.Verified.Set(tp, 0)
		m.Start.Set(tp, p.announce)
	}
	p.records = append(p.records, m)
	p.share.Passages = []failover.Passage{{State: failover.Stable, Why: "given up by a test"}}
	if !p.givenUp {
		p.share.Active = to
	}
	return control.Plan{Epoch: p.share.Epoch}, nil
}

func (p *person) Await(_ context.Context, _ string, _ spillway.Epoch, passed func(failover.Passage)) (failover.Share, error) {
	if p.stands {
		return p.share, fmt.Errorf("share drill/0 stands in FENCED: %w", context.DeadlineExceeded)
	}
	passed(failover.Passage{State: failover.Open})
	return p.Share(context.Background(), "")
}

func (p *person) MoveTo(_ context.Context, _ string, epoch spillway.Epoch) (history.Record, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.records {
		if r.Epoch == epoch {
			r.Unread = p.unread
			return r, nil
		}
	}
	return history.Record{}, fmt.Errorf("no move to epoch %d", epoch)
}

func (p *person) Abort(context.Context, string, string, string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.aborted++
	return nil
}

func (p *person) Automation(context.Context) (failover.Automation, error) { return p.automation, nil }

// rehearsed holds a drill against one embedded broker that stands for the gateways.
func rehearsed(t *testing.T, p *person, adjust func(*Config, *kfake.Cluster)) history.Drill {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "drill"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	p.t = t
	if p.share.State == "" {
		p.share = failover.Share{Group: "drill", State: failover.Stable, Epoch: 1, Active: "east"}
	}
	client := sarama.NewConfig()
	client.Version = sarama.V3_9_0_0
	c := Config{
		Group: spillway.FailoverGroup{Name: "drill", Topics: []string{"drill"}, Sites: []spillway.SiteID{"east", "west", "north"}, Ack: spillway.AckPolicy{Sites: 1}},
		Mover: p, Addresses: cluster.ListenAddrs(), Client: client, Who: "ann", Why: "test", Run: "run1", Within: 20 * time.Second, Wait: 30 * time.Second, Settle: 200 * time.Millisecond,
	}
	if adjust != nil {
		adjust(&c, cluster)
	}
	d := Run(t.Context(), c)
	t.Logf("%+v", d)
	return d
}

func TestADrillPasses(t *testing.T) {
	t.Parallel()
	p := &person{behind: 3}
	d := rehearsed(t, p, nil)
	if d.Outcome != history.DrillPassed || len(d.Problems) > 0 {
		t.Fatalf("%s: %q", d.Outcome, d.Problems)
	}
	if len(d.Moves) != 2 || d.Moves[0].Kind != failover.Failover || d.Moves[0].To != "west" || d.Moves[1].Kind != failover.Switchover || d.Moves[1].To != "east" || p.share.Active != "east" {
		t.Errorf("moves: %+v", d.Moves)
	}
	if d.Acked == 0 || d.Acked != d.Sent || d.Read != d.Acked || d.Lost != 0 {
		t.Errorf("%d sent, %d acknowledged, %d read, %d lost", d.Sent, d.Acked, d.Read, d.Lost)
	}
}

// An earlier drill that was killed left the group elsewhere.
func TestADrillBeginsAtHome(t *testing.T) {
	t.Parallel()
	p := &person{share: failover.Share{Group: "drill", State: failover.Stable, Epoch: 6, Active: "north"}}
	d := rehearsed(t, p, nil)
	if d.Outcome != history.DrillPassed || len(p.records) != 3 || p.records[0].To != "east" || len(d.Moves) != 2 {
		t.Errorf("%s: %+v, made %+v", d.Outcome, d.Moves, p.records)
	}
}

func TestADrillIsRefused(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]*person{
		"a site is down":       {refuse: fmt.Errorf("%w: west is down", failover.ErrRefused)},
		"automation is paused": {automation: failover.Automation{Paused: true, Who: "ann", Why: "new switches"}},
		"a site stays behind":  {behind: 1 << 30},
		"the group moves":      {share: failover.Share{Group: "drill", State: failover.Draining, Epoch: 2, Active: "east"}},
	} {
		d := rehearsed(t, p, func(c *Config, _ *kfake.Cluster) { c.Wait = 3 * time.Second })
		if d.Outcome != history.DrillRefused || len(d.Problems) != 1 || len(p.records) > 0 {
			t.Errorf("%s: %s %q, %d moves", name, d.Outcome, d.Problems, len(p.records))
		}
	}
}

// refusing answers a produce as a broker does that lets the client do nothing.
func refusing(req *kmsg.ProduceRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.ProduceResponse)
	for _, t := range req.Topics {
		topic := kmsg.NewProduceResponseTopic()
		topic.Topic, topic.TopicID = t.Topic, t.TopicID
		for _, p := range t.Partitions {
			part := kmsg.NewProduceResponseTopicPartition()
			part.Partition, part.ErrorCode = p.Partition, kerr.TopicAuthorizationFailed.Code
			topic.Partitions = append(topic.Partitions, part)
		}
		resp.Topics = append(resp.Topics, topic)
	}
	return resp
}

func TestADrillFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		person *person
		adjust func(*Config, *kfake.Cluster)
		want   string
		lost   bool
	}{
		"the failover is given up":             {person: &person{givenUp: true}, want: "failover from east to west was given up: given up by a test"},
		"the failover does not end":            {person: &person{stands: true}, want: "failover from east to west: share drill/0 stands in FENCED"},
		"the account of a move cannot be read": {person: &person{unread: "a part is gone"}, want: "whether anything is missing could not be judged: the account of the failover to west, epoch 2: a part is gone"},
		"a record is refused": {person: &person{}, want: "was refused: kafka server: The client is not authorized", adjust: func(c *Config, k *kfake.Cluster) {
			c.Mover.(*person).act = func() {
				k.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
					return refusing(req.(*kmsg.ProduceRequest)), nil, true
				})
			}
		}},
		"clients waited too long": {person: &person{}, want: "clients were told nothing for", adjust: func(c *Config, k *kfake.Cluster) {
			c.Within = 500 * time.Millisecond
			c.Mover.(*person).act = func() {
				k.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
					time.Sleep(time.Second) // the length of the silence, nothing is waited for
					return nil, nil, false
				})
			}
		}},
		"two sites had to have what is lost": {person: &person{announce: 5}, lost: true, want: "5 acknowledged records are missing, though 2 sites had to acknowledge", adjust: func(c *Config, _ *kfake.Cluster) {
			c.Group.Ack.Sites = 2
		}},
	} {
		d := rehearsed(t, c.person, c.adjust)
		if d.Outcome != history.DrillFailed || !strings.Contains(strings.Join(d.Problems, "\n"), c.want) || (d.Lost > 0) != c.lost {
			t.Errorf("%s: %s, %d lost, %q", name, d.Outcome, d.Lost, d.Problems)
		}
		if c.person.stands != (c.person.aborted == 1) {
			t.Errorf("%s: given up %d times", name, c.person.aborted)
		}
	}
}
