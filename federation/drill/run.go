package drill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/IBM/sarama"

	"spillway"
	"spillway/federation/control"
	"spillway/federation/failover"
	"spillway/federation/history"
)

// Partitions are those of a topic that a drill creates.
const Partitions = 3

// settle is Config.Settle where that is 0.
const settle = 2 * time.Second

// Mover gives the commands that a person would; control.Operator does.
type Mover interface {
	Share(ctx context.Context, group string) (failover.Share, error)
	Failover(ctx context.Context, group string, to spillway.SiteID, acceptLoss int64, who, why string, dryRun bool) (control.Plan, error)
	Switchover(ctx context.Context, group string, to spillway.SiteID, who, why string, dryRun bool) (control.Plan, error)
	Await(ctx context.Context, group string, epoch spillway.Epoch, passed func(failover.Passage)) (failover.Share, error)
	Abort(ctx context.Context, group, who, why string) error
	MoveTo(ctx context.Context, group string, epoch spillway.Epoch) (history.Record, error)
	Automation(ctx context.Context) (failover.Automation, error)
}

// Config is what a drill needs.
type Config struct {
	Group spillway.FailoverGroup
	Mover Mover
	// Addresses of gateways, and how sarama reaches them; Run changes Client.
	Addresses []string
	Client    *sarama.Config
	// Earlier drills of the group, oldest first: they say which site comes next.
	Earlier []history.Drill
	Who     string
	Why     string
	Run     string // a word that no other drill has
	// Within is how long clients may be told nothing in a move.
	Within time.Duration
	// Wait bounds each move, the time that the old site has to follow after it, and the
	// reading of the last records.
	Wait time.Duration

	// Settle is how long the client works before and after each move, so that a move is
	// not mistaken for a start, or for an end; 0: 2 s.
	Settle time.Duration

	Say func(text string) // progress; nil: nobody listens
}

// Topic is what a group of drills writes.
func Topic(g spillway.FailoverGroup) string { return g.Topics[0] }

// Run holds a drill: the group fails over from its preferred site, though that one lives,
// and moves home. It has failed as well where the context ends. A move that did not come to
// its end is given up; where the other site serves already, the next drill brings the group
// home first.
func Run(ctx context.Context, c Config) history.Drill {
	d := &drill{Config: c, account: history.Drill{At: time.Now().UTC(), Who: c.Who, Why: c.Why, Moves: []history.DrillMove{}}}
	err := d.hold(ctx)
	if err != nil { // the cause comes before what came of it
		found := d.account.Problems
		d.account.Problems = nil
		d.account.Tell(err.Error())
		for _, p := range found {
			d.account.Tell(p)
		}
	}
	switch {
	case !d.drilled && (errors.Is(err, failover.ErrRefused) || errors.Is(err, errNotHeld)):
		d.account.Outcome = history.DrillRefused
	case len(d.account.Problems) > 0:
		d.account.Outcome = history.DrillFailed
	default:
		d.account.Outcome = history.DrillPassed
	}
	return d.account
}

// errNotHeld: the group cannot be drilled as it is.
var errNotHeld = errors.New("the drill cannot be held")

type drill struct {
	Config
	account history.Drill
	client  *client
	drilled bool   // the failover has begun
	spans   []span // of the moves, as in the account
}

// span is when a move was asked for, and when the other site served.
type span struct{ from, to time.Time }

func (d *drill) say(format string, args ...any) {
	if d.Say != nil {
		d.Say(fmt.Sprintf(format, args...))
	}
}

func (d *drill) hold(ctx context.Context) (err error) {
	home := d.Group.Sites[0]
	automation, err := d.Mover.Automation(ctx)
	switch {
	case err != nil:
		return err
	case automation.Paused: // somebody looks into something, or works at a site
		return fmt.Errorf("%w: automation is paused by %s: %s", errNotHeld, automation.Who, automation.Why)
	}
	share, err := d.Mover.Share(ctx, d.Group.Name)
	switch {
	case err != nil:
		return err
	case share.State != failover.Stable:
		return fmt.Errorf("%w: group %s is moving (%s)", errNotHeld, d.Group.Name, share.State)
	}
	target, ok := history.DrillTarget(d.Earlier, d.Group.Sites, home)
	if !ok {
		return fmt.Errorf("%w: group %s has no other site", errNotHeld, d.Group.Name)
	}
	if share.Active != home {
		d.say("%s serves %s, as an earlier drill left it: it goes home first", share.Active, d.Group.Name)
		if err := d.move(ctx, failover.Switchover, share.Active, home); err != nil {
			return err
		}
		d.account.Moves, d.spans = d.account.Moves[:0], nil // nobody looked on
	}
	if d.client, err = start(ctx, d.Wait, d.Addresses, d.Client, Topic(d.Group), d.Config.Run); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.client.close()) }()
	if err := d.ready(ctx, target); err != nil { // refused before anything moves
		return err
	}
	moved := d.rehearse(ctx, home, target)
	ended := d.client.end(ctx, d.Wait)
	return errors.Join(moved, ended, d.client.refusal(), d.judge(context.WithoutCancel(ctx)))
}

// ready waits until the target follows, and refuses where it would not take the group:
// the loss of a site is rehearsed, and not what is wrong already.
func (d *drill) ready(ctx context.Context, target spillway.SiteID) error {
	ctx, cancel := context.WithTimeout(ctx, d.Wait)
	defer cancel()
	var behind error
	for {
		plan, err := d.Mover.Switchover(ctx, d.Group.Name, target, d.Who, d.Why, true)
		if err == nil {
			err = plan.Refusal()
		}
		switch {
		case errors.Is(err, failover.ErrBehind):
			behind = err
		case ctx.Err() != nil && behind != nil: // it ended within a look
			return behind
		default:
			return err
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
			return behind
		}
	}
}

// rehearse fails over and goes home, under load.
func (d *drill) rehearse(ctx context.Context, home, target spillway.SiteID) error {
	if err := d.flow(ctx); err != nil {
		return err
	}
	if err := d.move(ctx, failover.Failover, home, target); err != nil {
		return err
	}
	if err := d.flow(ctx); err != nil {
		return err
	}
	if err := d.move(ctx, failover.Switchover, target, home); err != nil {
		return err
	}
	return d.flow(ctx)
}

// flow waits until the client works, and lets it.
func (d *drill) flow(ctx context.Context) error {
	if err := d.client.flows(ctx, d.Wait); err != nil {
		return err
	}
	select {
	case <-time.After(cmp.Or(d.Settle, settle)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// move asks for a move and waits until the other site serves and the share stands still.
func (d *drill) move(ctx context.Context, kind failover.Kind, from, to spillway.SiteID) error {
	ctx, cancel := context.WithTimeout(ctx, d.Wait)
	defer cancel()
	m := history.DrillMove{Kind: kind, From: from, To: to}
	asked := time.Now()
	plan, err := d.ask(ctx, kind, to)
	if err != nil {
		d.account.Moves = append(d.account.Moves, m)
		d.spans = append(d.spans, span{asked, time.Now()})
		return fmt.Errorf("%s from %s to %s: %w", kind, from, to, err)
	}
	d.say("%s of %s from %s to %s, epoch %d", kind, d.Group.Name, from, to, plan.Epoch)
	m.Epoch = plan.Epoch
	d.drilled = d.drilled || d.client != nil
	begun, served := time.Now(), time.Time{}
	share, err := d.Mover.Await(ctx, d.Group.Name, plan.Epoch, func(p failover.Passage) {
		if p.State == failover.Open && served.IsZero() {
			served = time.Now()
		}
	})
	if err != nil && served.IsZero() {
		err = errors.Join(err, d.giveUp(ctx))
	}
	if served.IsZero() {
		served = time.Now()
	}
	m.TookMillis = served.Sub(begun).Milliseconds()
	d.account.Moves = append(d.account.Moves, m)
	d.spans = append(d.spans, span{begun, served})
	switch {
	case err != nil:
		return fmt.Errorf("%s from %s to %s: %w", kind, from, to, err)
	case share.Active != to:
		return fmt.Errorf("%s from %s to %s was given up: %s", kind, from, to, share.Passages[len(share.Passages)-1].Why)
	}
	return nil
}

// giveUp has the group served again where it was, after a move that did not end: nobody
// would do that for a drill in the night.
func (d *drill) giveUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveUpMax)
	defer cancel()
	if err := d.Mover.Abort(ctx, d.Group.Name, d.Who, "the drill's move did not end"); err != nil {
		return fmt.Errorf("and it could not be given up: %w", err)
	}
	return nil
}

// giveUpMax bounds what is asked of the store when a drill has been interrupted.
const giveUpMax = 10 * time.Second

func (d *drill) ask(ctx context.Context, kind failover.Kind, to spillway.SiteID) (control.Plan, error) {
	if kind == failover.Failover {
		return d.Mover.Failover(ctx, d.Group.Name, to, d.Group.Failover.LossRecordsMax, d.Who, d.Why, false)
	}
	return d.Mover.Switchover(ctx, d.Group.Name, to, d.Who, d.Why, false)
}

// judge holds what the client was told against the accounts of the moves.
func (d *drill) judge(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, giveUpMax)
	defer cancel()
	looked := time.Now()
	d.account.Sent, d.account.Acked = d.client.sent.Load(), d.client.acks.Load()
	d.account.Unanswered = d.account.Sent - d.account.Acked
	saw := d.client.saw()
	for _, s := range saw {
		d.account.Read += int64(len(s.read))
		for i, sp := range d.spans {
			m := &d.account.Moves[i]
			m.SilentMillis = max(m.SilentMillis, s.silent(sp.from, sp.to, looked).Milliseconds())
		}
	}
	for _, m := range d.account.Moves {
		if silent := time.Duration(m.SilentMillis) * time.Millisecond; silent > d.Within {
			d.account.Tell(fmt.Sprintf("%s to %s: clients were told nothing for %s, more than %s", m.Kind, m.To, silent, d.Within))
		}
	}
	moves, served, err := d.accounts(ctx)
	if err != nil {
		return fmt.Errorf("whether anything is missing could not be judged: %w", err)
	}
	for _, s := range saw {
		lost, problems := s.judge(burntIn(moves, served, s.tp))
		d.account.Lost += lost
		for _, p := range problems {
			d.account.Tell(p)
		}
	}
	if d.Group.Ack.Sites > 1 && d.account.Lost > 0 {
		d.account.Tell(fmt.Sprintf("%d acknowledged records are missing, though %d sites had to acknowledge", d.account.Lost, d.Group.Ack.Sites))
	}
	return nil
}

// accounts are those of the moves that have begun, and when they served.
func (d *drill) accounts(ctx context.Context) (moves []history.Record, served map[spillway.Epoch]time.Time, err error) {
	served = make(map[spillway.Epoch]time.Time)
	for i, m := range d.account.Moves {
		if m.Epoch == 0 {
			continue
		}
		r, err := d.Mover.MoveTo(ctx, d.Group.Name, m.Epoch)
		if err == nil && r.Unread != "" {
			err = errors.New(r.Unread)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("the account of the %s to %s, epoch %d: %w", m.Kind, m.To, m.Epoch, err)
		}
		moves = append(moves, r)
		served[m.Epoch] = d.spans[i].to
	}
	return moves, served, nil
}
