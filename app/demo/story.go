package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"spillway/app"
	"spillway/console/status"
	"spillway/federation/control"
	"spillway/federation/failover"
	"spillway/tests/orders"
	"spillway/tests/orders/check"
	"spillway/tests/orders/history"
)

const (
	recordsPerSecond = 400
	// moveMax is how long a switchover, and a failover once the site is
	// killed, may take: leases, verdict and hold-down included.
	moveMax   = 30 * time.Second
	finishMax = 30 * time.Second
	// catchUpMax is how long the standbys may take to hold everything at the end.
	catchUpMax = 20 * time.Second
)

// story is one run. A step that fails is written down and the story goes on to
// the audit as far as it can: what went wrong is found in what the logs hold.
type story struct {
	Options
	world   *world
	history string // file

	load     *orders.Workload
	recorder *history.Recorder
	problems []string
	moves    []Move
	dead     map[string]bool
}

// step runs one step and writes down what failed.
func (s *story) step(ctx context.Context, name string, run func(context.Context) error) bool {
	if ctx.Err() != nil {
		return false
	}
	if err := run(ctx); err != nil {
		s.problems = append(s.problems, fmt.Sprintf("%s: %v", name, err))
		s.say("   failed: %s: %v", name, err)
		return false
	}
	return true
}

func (s *story) play(ctx context.Context) Result {
	s.dead = map[string]bool{}
	begin := time.Now()
	s.say("-- starting %d sites: each is one process with brokers and one with gateway, mirror and control", s.Sites)
	if !s.step(ctx, "start", s.start) {
		return s.result(nil)
	}
	s.say("   healthy after %.1f s", time.Since(begin).Seconds())
	file, err := os.Create(s.history)
	if err != nil {
		s.problems = append(s.problems, err.Error())
		return s.result(nil)
	}
	defer func() { _ = file.Close() }() // flushed by the recorder
	s.recorder = history.NewRecorder(file)
	s.say("-- %d orders under way at once, through all gateways, for %s", s.Orders, s.For)
	if !s.step(ctx, "load", s.startLoad) {
		return s.result(nil)
	}
	s.pause(ctx, s.For/4)
	s.step(ctx, "switchover", s.switchover)
	s.pause(ctx, s.For/4)
	if s.hangs() {
		s.step(ctx, "hang", s.hang)
	}
	s.step(ctx, "failover", s.lose)
	s.pause(ctx, s.For/2)
	s.say("-- no new orders; readers read to the end")
	s.step(ctx, "finish", s.finish)
	s.step(ctx, "catch up", s.catchUp)
	var report *check.Report
	s.say("-- reading what the sites' logs hold, and judging what clients were told")
	s.step(ctx, "audit", func(ctx context.Context) (err error) {
		report, err = s.audit(ctx)
		return err
	})
	return s.result(report)
}

func (s *story) start(ctx context.Context) error {
	for _, site := range s.world.sites {
		if err := s.world.start(site); err != nil {
			return err
		}
	}
	first, _ := s.world.cfg.Site(s.world.sites[0].name)
	home, err := app.OpenSite(first)
	if err != nil {
		return err
	}
	defer func() { _ = home.Close() }() // only creates topics
	ctx, cancel := context.WithTimeout(ctx, upMax)
	defer cancel()
	if err := reach(ctx, home); err != nil {
		return err
	}
	for _, topic := range orders.Topics {
		if err := home.Admin().CreateTopic(ctx, topic, partitions, 1, nil); err != nil {
			return err
		}
	}
	_, err = s.world.await(ctx, upMax, "every site is up and followed", func(now status.Status) bool {
		return healthy(now) && followed(now, len(s.world.sites)-1)
	})
	return err
}

// followed: each standby has a flow over all partitions.
func followed(s status.Status, flows int) bool {
	n := 0
	for _, f := range s.Flows {
		if f.Level == status.Good && f.Partitions >= partitions*len(orders.Topics) {
			n++
		}
	}
	return n == flows
}

func (s *story) startLoad(ctx context.Context) error {
	w, err := orders.Start(ctx, orders.Config{
		Bootstrap: s.world.bootstrap(), Partitions: partitions, Seed: uint64(time.Now().UnixNano()),
		RecordsPerSecond: recordsPerSecond, InFlight: s.Orders,
		Producers: []orders.Producer{{Name: "shop-1"}, {Name: "shop-2", Library: orders.Sarama}},
		Readers: []orders.Reader{
			{Name: "desk", Group: "desk", Members: 2, CommitEvery: 200 * time.Millisecond},
			{Name: "ledger", RestartEvery: 2 * time.Second},
		},
	}, s.recorder)
	if err != nil {
		return err
	}
	s.load = w
	return nil
}

// pause lets the load run and tells how far it is.
func (s *story) pause(ctx context.Context, d time.Duration) {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	end := time.NewTimer(d)
	defer end.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-end.C:
			return
		case <-tick.C:
			p, g := s.load.Progress(), groupOf(s.world.observer.Status())
			s.say("   %d sent, %d acknowledged, %d read; %s serves, %s, epoch %d", p.Sent, p.Acked, p.Read, g.Active, g.State, g.Epoch)
		}
	}
}

// switchover moves the group from its first site to its second.
func (s *story) switchover(ctx context.Context) error {
	from := groupOf(s.world.observer.Status()).Active
	to := s.other(from)
	s.say("-- planned switchover from %s to %s", from, to)
	return s.move(ctx, from, to, "a planned switchover")
}

func (s *story) move(ctx context.Context, from, to, why string) error {
	s.load.Mark(history.Event{Name: history.MoveStart, Move: history.Switchover, From: from, To: to})
	began := time.Now()
	if _, err := s.operator().Switchover(ctx, group, siteID(to), "demo", why, false); err != nil {
		return err
	}
	return s.moved(ctx, began, history.Switchover, from, to)
}

func (s *story) operator() *control.Operator {
	o := control.NewOperator(s.world.cfg.Topology(), s.world.store, app.Observers(s.world.cfg))
	o.Waiting = func(error) bool { return true } // the steps have a time of their own
	return o
}

// moved waits until the group stands still at another site.
func (s *story) moved(ctx context.Context, began time.Time, kind, from, to string) error {
	now, err := s.world.await(ctx, moveMax, fmt.Sprintf("another site than %s serves", from), func(now status.Status) bool {
		g := groupOf(now)
		return (g.State == string(failover.Stable) || g.State == string(failover.Open)) && g.Active != from && g.Active != ""
	})
	if err != nil {
		return err
	}
	g := groupOf(now)
	if to != "" && g.Active != to {
		return fmt.Errorf("%s serves, and not %s", g.Active, to)
	}
	s.load.Mark(history.Event{Name: history.MoveEnd, Move: kind, From: from, To: g.Active})
	s.moves = append(s.moves, Move{Kind: kind, From: from, To: g.Active, Epoch: int64(g.Epoch), Took: Seconds(time.Since(began))})
	s.say("   %s serves in epoch %d after %.1f s", g.Active, g.Epoch, time.Since(began).Seconds())
	return nil
}

// lose kills the active site under load. With three sites the others decide by
// themselves; with two nobody can, and a person asks for the failover.
func (s *story) lose(ctx context.Context) error {
	from := groupOf(s.world.observer.Status()).Active
	s.say("-- kill -9 of every process of %s, which serves", from)
	s.load.Mark(history.Event{Name: history.MoveStart, Move: history.Failover, From: from})
	s.load.Mark(history.Event{Name: history.Kill, Note: "every process of " + from})
	began, acked := time.Now(), s.load.Progress().Acked
	s.dead[from] = true
	if err := s.world.site(from).kill(); err != nil {
		return err
	}
	if s.Sites < 3 {
		to := s.other(from)
		s.say("   two sites have no majority: asking for the failover to %s", to)
		if _, err := s.operator().Failover(ctx, group, siteID(to), -1, "demo", from+" was killed", false); err != nil {
			return err
		}
	}
	if err := s.moved(ctx, began, history.Failover, from, ""); err != nil {
		return err
	}
	return s.goesOn(ctx, acked)
}

// goesOn waits until producers are answered again.
func (s *story) goesOn(ctx context.Context, acked int64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, moveMax, errors.New("producers are not answered again"))
	defer cancel()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for s.load.Progress().Acked <= acked+int64(s.Orders) {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
	return nil
}

func (s *story) finish(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, finishMax)
	defer cancel()
	p, err := s.load.Finish(ctx)
	s.say("   %d sent, %d acknowledged, %d failed, %d read; %d orders complete", p.Sent, p.Acked, p.Failed, p.Read, p.Complete)
	if err == nil && !p.Drained {
		err = errors.New("readers did not come to the end")
	}
	return err
}

// catchUp waits until every site that lives holds everything.
func (s *story) catchUp(ctx context.Context) error {
	_, err := s.world.await(ctx, catchUpMax, "the standbys hold everything", func(now status.Status) bool {
		for _, p := range groupOf(now).Sites {
			if !s.dead[p.Site] && p.Behind != 0 {
				return false
			}
		}
		return true
	})
	return err
}

// other is the first site that lives and is none of the given ones.
func (s *story) other(than ...string) string {
	for _, site := range s.world.sites {
		if !slices.Contains(than, site.name) && !s.dead[site.name] {
			return site.name
		}
	}
	return ""
}
