package app

import (
	"context"
	"fmt"
	"time"

	"spillway"
	"spillway/configs"
	"spillway/federation/control"
	"spillway/federation/failover"
	"spillway/federation/topicchange"
)

// startControl drives moves, votes, and keeps the layout.
func (a *App) startControl(context.Context) error {
	if !a.cfg.HasRole(configs.RoleControl) {
		return nil
	}
	access := map[spillway.SiteID]control.Access{}
	for _, s := range a.cfg.Topology().Sites() {
		access[s.ID] = control.Access{Cluster: a.sites[s.ID]}
		if s.GatewayPrincipal != "" {
			access[s.ID] = control.Access{Cluster: a.sites[s.ID], AsGateway: a.asGateway[s.ID]}
		}
	}
	c, err := control.New(control.Config{
		Topology: a.cfg.Topology(), Store: a.store, Site: spillway.SiteID(a.cfg.Process.Site), Sites: access, Observers: Observers(a.cfg),
		ProbeInterval: a.cfg.Control.ProbeInterval, ProbeTimeout: a.cfg.Control.ProbeTimeout, HoldDown: a.cfg.Control.HoldDown, DirectQuiet: a.cfg.Control.DirectQuiet, LeaseTTL: a.cfg.Gateway.Lease.TTL,
		Events: a.controlEvents(),
	})
	if err != nil {
		return err
	}
	a.teardown.background("control", func(ctx context.Context) {
		if err := c.Run(ctx); err != nil && ctx.Err() == nil {
			a.log.Error("control loop ended", "error", err)
		}
	})
	return nil
}

// Observers are the places that vote: all sites and witnesses.
func Observers(cfg *configs.Config) []spillway.SiteID {
	var places []spillway.SiteID
	for _, s := range cfg.Sites {
		places = append(places, spillway.SiteID(s.Name))
	}
	for _, w := range cfg.Witnesses {
		places = append(places, spillway.SiteID(w.Name))
	}
	return places
}

func (a *App) controlEvents() control.Events {
	e := a.tel.ControlEvents()
	said := newProblems(a.log)
	changed := e.StateChanged
	e.StateChanged = func(i control.StateInfo) {
		changed(i)
		a.log.Info("share moves", "share", i.Share.String(), "epoch", i.Epoch, "from", i.From, "to", i.To, "active", i.Active, "target", i.Target, "why", i.Why)
		if i.To == failover.Stable && a.traces != nil {
			a.traceMove(i)
		}
	}
	e.Acknowledging = func(i control.AckInfo) {
		a.log.Warn("acknowledgements", "share", i.Share.String(), "degraded", i.Degraded, "restoring", i.Restoring, "why", i.Why)
	}
	waiting := e.Waiting
	e.Waiting = func(w control.WaitInfo) {
		waiting(w)
		if w.Ask {
			a.log.Warn("a person must decide", "share", w.Share.String(), "why", w.Why)
			return
		}
		a.log.Debug("share waits", "share", w.Share.String(), "state", w.State, "why", w.Why)
	}
	failed := e.ActionFailed
	e.ActionFailed = func(id spillway.ShareID, what string, err error) {
		failed(id, what, err)
		said.tell(fmt.Sprintf("share %s: %s failed, trying again", id, what), err)
	}
	e.ActionDone = func(i control.ActionInfo) {
		if a.traces != nil {
			a.traces.Action(i) // spans are sent later, in batches
		}
		if took := i.Ended.Sub(i.Started); took > slowAction {
			a.log.Info("a move waited", "share", i.Share.String(), "epoch", i.Epoch, "state", i.State, "for", i.What, "at", i.Site, "took", took.Round(time.Millisecond))
		}
	}
	vote := e.VoteChanged
	e.VoteChanged = func(v failover.Vote) {
		vote(v)
		a.log.Info("vote changed", "about", v.About, "verdict", v.Verdict, "evidence", v.Evidence)
	}
	e.LayoutChanged = func(version int64, why string) { a.log.Info("layout changed", "version", version, "why", why) }
	follow := e.FollowFailed
	e.FollowFailed = func(id spillway.ShareID, state failover.State, err error) {
		follow(id, state, err)
		said.tell(fmt.Sprintf("mirror cannot do what %s asks in %s, trying again", id, state), err)
	}
	e.TopicChange = func(c topicchange.Change, err error) {
		if err != nil {
			said.tell(fmt.Sprintf("change of topic %s, asked for by %s", c.Topic, c.Who), err)
			return
		}
		a.log.Info("topic changed", "change", c.String(), "who", c.Who)
	}
	e.StoreLost = func(err error) { said.tell("coordinator store: a watch was interrupted", err) }
	e.Refused = func(id spillway.ShareID, why string) {
		said.tell(fmt.Sprintf("share %s is not driven", id), fmt.Errorf("%s", why))
	}
	return e
}

// slowAction is how long a step of a move may take unsaid.
const slowAction = time.Second

// traceMax bounds the reading of a history: the loop that drives moves waits for it.
const traceMax = 2 * time.Second

// traceMove writes the trace of a move that this process ended, from its
// history.
func (a *App) traceMove(i control.StateInfo) {
	ctx, cancel := context.WithTimeout(context.Background(), traceMax)
	defer cancel()
	records, err := control.NewOperator(a.cfg.Topology(), a.store, Observers(a.cfg)).History(ctx, i.Share.Group)
	if err != nil || len(records) == 0 {
		a.log.Debug("no history for a trace", "share", i.Share.String(), "error", err)
		return
	}
	a.traces.Move(records[len(records)-1])
}
