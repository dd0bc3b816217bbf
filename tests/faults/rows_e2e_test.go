//go:build e2e

package faults

import (
	"context"
	"io"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"spillway"
	"spillway/federation/failover"
	"spillway/tests/cluster/process"
	"spillway/tests/world"
)

// row is one kind of fault. When act returns nothing is broken any more that does not heal
// by itself.
type row struct {
	name string
	act  func(a *arena)
}

// leasePast is longer than a lease and the time until a site that is silent is given up.
const leasePast = 7 * time.Second

// lostPercent is more than any link loses that is in use: TCP gets some hundred KB/s
// through, with pauses of some hundred ms.
const lostPercent = 5

// rows are what one fault after the other is taken from. "home" is the site that serves
// when the row begins, "standby" another one.
var rows = []row{
	{"the gateway of home stops past its lease and goes on", func(a *arena) { a.stop(a.w.Spillway(a.home), leasePast) }},
	{"the gateway of a standby stops past its lease and goes on", func(a *arena) { a.stop(a.w.Spillway(a.standby), leasePast) }},
	{"the gateway of home is killed", func(a *arena) { a.gatewayAway(a.home, 3*time.Second) }},
	{"the mirror of a standby is killed", func(a *arena) { a.mirrorAway(3 * time.Second) }},
	{"the mirrors of both standbys stop and go on", func(a *arena) {
		a.must(a.w.Mirror(a.standby).Pause())
		a.stop(a.w.Mirror(a.other), leasePast)
		a.must(a.w.Mirror(a.standby).Resume())
	}},
	{"the broker of home stops for a moment", func(a *arena) {
		a.must(a.w.Kafka[a.home].Pause())
		a.pause(time.Second)
		a.must(a.w.Kafka[a.home].Resume())
	}},
	{"the broker of a standby is killed", func(a *arena) { a.brokerAway(3 * time.Second) }},
	{"the broker of home is killed", func(a *arena) {
		a.must(a.w.Kafka[a.home].Kill())
		a.elsewhere()
		a.must(a.w.Kafka[a.home].Restart(a.t.Context()))
	}},
	{"everything of home is killed", func(a *arena) {
		a.w.LoseSite(a.home)
		a.elsewhere()
		a.w.ReturnSite(a.home)
	}},
	{"the broker of home hangs until another site serves, and goes on", func(a *arena) {
		a.must(a.w.Kafka[a.home].Pause())
		a.elsewhere()
		a.must(a.w.Kafka[a.home].Resume()) // it answers what it was asked before
	}},
	{"the disk of home is full", func(a *arena) { a.diskFull(a.home, a.elsewhere) }},
	{"the disk of a standby is full", func(a *arena) {
		a.diskFull(a.standby, func() { a.pause(leasePast) })
	}},
	{"the network of a site is a black hole", func(a *arena) { a.cutOff(a.w.Cut) }},
	{"what a site sends is lost", func(a *arena) { a.cutOff(func() { a.w.CutOneWay(true) }) }},
	{"what a site is sent is lost", func(a *arena) { a.cutOff(func() { a.w.CutOneWay(false) }) }},
	{"a site and the brokers of the others do not reach each other", func(a *arena) { a.cutOff(a.w.CutBrokers) }},
	{"the link of a site loses packets", func(a *arena) { a.cutOff(func() { a.w.LosePackets(lostPercent) }) }},
	{"the clock of home's broker is two days ahead for a while", func(a *arena) { a.clockAhead(a.home, twoDays) }},
	{"the clock of a standby's broker is two days ahead for a while", func(a *arena) { a.clockAhead(a.standby, twoDays) }},
	{"the clock of a standby's broker is two days behind for a while", func(a *arena) { a.clockAhead(a.standby, -twoDays) }},
	{"the gateway of home can open nothing more", func(a *arena) { a.noFiles(a.w.Spillway(a.home), leasePast) }},
	{"the Consul leader is killed", func(a *arena) { a.leaderAway(3 * time.Second) }},
	{"the Consul server of home answers nothing for a while", func(a *arena) {
		a.must(a.w.ConsulOf(a.home).Pause())
		a.pause(leasePast)
		a.must(a.w.ConsulOf(a.home).Resume())
	}},
	{"two of three Consul servers are away", func(a *arena) {
		two := a.w.Consul.Servers[:2]
		for _, s := range two {
			a.must(s.Kill())
		}
		a.pause(leasePast)
		for _, s := range two {
			a.must(s.Start(a.t.Context()))
		}
	}},
	{"a switchover, and the target's gateway and control are killed", func(a *arena) {
		a.during(func() { a.gatewayAway(a.standby, 2*time.Second) })
	}},
	{"a switchover, and the target's mirror is killed", func(a *arena) {
		a.during(func() { a.mirrorAway(time.Second) })
	}},
	{"a switchover, and the gateway of home stops past its lease", func(a *arena) {
		a.during(func() { a.stop(a.w.Spillway(a.home), leasePast) })
	}},
	{"a switchover, and the Consul leader is killed", func(a *arena) {
		a.during(func() { a.leaderAway(2 * time.Second) })
	}},
	{"a switchover, and the broker of the target is killed", func(a *arena) {
		a.during(func() { a.brokerAway(2 * time.Second) })
	}},
	{"a switchover, and the disk of the target is full", func(a *arena) {
		a.during(func() { a.diskFull(a.standby, func() { a.pause(2 * time.Second) }) })
	}},
	{"two people switch to different sites at once", func(a *arena) {
		a.during(func() {
			a.command("switchover", world.Group, "--to", a.other, "--timeout", "20s", "--behind-max", "30s")
		})
	}},
}

// stop has a process stand still, as a machine that is paused.
func (a *arena) stop(p *process.Process, d time.Duration) {
	a.must(p.Pause())
	a.pause(d)
	a.must(p.Resume())
}

// gatewayAway, and those below, kill something and start it again: gateway and control of a
// site, mirror and broker of the standby, the Consul server that leads.
func (a *arena) gatewayAway(site string, d time.Duration) {
	a.must(a.w.Spillway(site).Kill())
	a.pause(d)
	a.w.StartServing(site)
}

func (a *arena) mirrorAway(d time.Duration) {
	a.must(a.w.Mirror(a.standby).Kill())
	a.pause(d)
	a.w.StartMirror(a.standby)
}

func (a *arena) brokerAway(d time.Duration) {
	a.must(a.w.Kafka[a.standby].Kill())
	a.pause(d)
	a.must(a.w.Kafka[a.standby].Restart(a.t.Context()))
}

// diskFull leaves a broker no room to write, for so long. It may have ended by then, or
// not: it is started anew, as a person would who made room.
func (a *arena) diskFull(site string, wait func()) {
	a.must(a.w.Kafka[site].FillDisk())
	wait()
	a.must(a.w.Kafka[site].FreeDisk())
	a.must(a.w.Kafka[site].Kill())
	a.must(a.w.Kafka[site].Restart(a.t.Context()))
}

// clockAhead has a broker take another day for today: it forgets producers that wrote
// nothing for a day (producer.id.expiration.ms), the mirror's own among them.
func (a *arena) clockAhead(site string, ahead time.Duration) {
	a.must(a.w.Kafka[site].SetClock(ahead))
	a.pause(5 * time.Second)
	a.must(a.w.Kafka[site].SetClock(0))
}

const twoDays = 48 * time.Hour

func (a *arena) cutOff(cut func()) {
	cut()
	a.pause(8 * time.Second)
	a.w.Heal()
}

// noFiles keeps a process from opening files and connections: it has as many as it may.
func (a *arena) noFiles(p *process.Process, d time.Duration) {
	var usual unix.Rlimit
	a.must(unix.Prlimit(p.Pid(), unix.RLIMIT_NOFILE, nil, &usual))
	a.must(unix.Prlimit(p.Pid(), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: usual.Max}, nil))
	a.pause(d)
	a.must(unix.Prlimit(p.Pid(), unix.RLIMIT_NOFILE, &usual, nil))
}

func (a *arena) leaderAway(d time.Duration) {
	leader, err := a.w.Consul.Leader(a.t.Context())
	a.must(err)
	a.must(leader.Kill())
	a.pause(d)
	a.must(leader.Start(a.t.Context()))
}

// moments are the states of a switchover in which something is broken. A drain takes a
// second or so, all others together a tenth of one.
var moments = []failover.State{failover.Draining, failover.Fencing, failover.Cutover, failover.Open}

// during begins a switchover to the standby and breaks something once the group is in a
// state that is drawn, or behind it. How the command ends is its own matter: the move may
// come about, or be given up.
func (a *arena) during(act func()) {
	drawn := moments[a.random.IntN(len(moments))]
	before := a.share().Epoch
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.command("switchover", world.Group, "--to", a.standby, "--timeout", "20s", "--behind-max", "30s")
	}()
	a.moment = string(a.await(before, drawn))
	act()
	<-done
}

// await returns the state of the group as soon as a move that began after an epoch is as far
// as is wanted. It asks the store itself: a command takes longer than most states.
func (a *arena) await(before spillway.Epoch, wanted failover.State) failover.State {
	a.t.Helper()
	url := "http://" + a.w.ConsulOf(a.other).HTTP + "/v1/kv/" + failover.Keys("world").Share(spillway.ShareID{Group: world.Group}) + "?raw"
	for deadline := time.Now().Add(healWithin); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		s, err := read(a.t.Context(), url)
		if err != nil || s.Epoch == before {
			continue
		}
		if s.State == failover.Stable || slices.Index(order, s.State) >= slices.Index(order, wanted) {
			return s.State
		}
	}
	a.t.Fatalf("the switchover to %s did not get to %s within %s", a.standby, wanted, healWithin)
	return ""
}

// order is that of the states of a move.
var order = []failover.State{failover.Draining, failover.Fencing, failover.Fenced, failover.Cutover, failover.CaughtUp, failover.Open}

func read(ctx context.Context, url string) (s failover.Share, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return s, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return s, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return s, err
	}
	return failover.Decode(text)
}

// command gives a command from the desk of the third site. What becomes of it is told: its
// Consul server may be one of those that are away.
func (a *arena) command(args ...string) {
	ctx, cancel := context.WithTimeout(a.t.Context(), time.Minute)
	defer cancel()
	if _, err := a.w.Run(ctx, a.other, args...); err != nil {
		a.t.Logf("%v", err)
	}
}
