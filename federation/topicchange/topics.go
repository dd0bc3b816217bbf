package topicchange

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker"
	"spillway/federation/coordination"
	"spillway/federation/failover"
)

// Errors that callers branch on.
var (
	// ErrUnderWay: the topic has a creation that has not ended, so no other can begin.
	ErrUnderWay = errors.New("the topic is being created already")
	// ErrTooMany: UnderWayMax or MadeMax creations have not ended.
	ErrTooMany = errors.New("too many topics are being created")
	// ErrPending: the creation is in the store and not done; it is carried on.
	ErrPending = errors.New("not done yet; it is carried on")
	// ErrGone: somebody else has ended the creation, and the topic is not there.
	ErrGone = errors.New("it was taken back, or deleted since")
	// ErrMoves: the share moves.
	ErrMoves = errors.New("it moves to another site")
)

// Config of Topics.
type Config struct {
	Topology *spillway.Topology
	Store    coordination.Store
	Sites    map[spillway.SiteID]broker.Cluster
	// TakeOver is how old the record of a creation must be, unchanged, until Run carries it
	// on, beside whoever does; default 3 s.
	TakeOver time.Duration
	// Made hears of topics of which See has seen that a site has them now. May be nil.
	Made func(topic string)
	// Told hears of creations that have ended (err: that were taken back), and of topics
	// that Run could not make yet. May be nil.
	Told func(c Change, err error)
}

// Topics carries creations out. All methods may be called by any goroutine.
type Topics struct {
	// Set once, read by anyone.
	config Config
	keys   failover.Keys

	mu struct {
		sync.Mutex
		underWay map[string]Change // by topic, as the store's watch shows it
		made     int               // of them a site has
	}
}

// New prepares it. Nothing runs until Run.
func New(c Config) *Topics {
	if c.TakeOver <= 0 {
		c.TakeOver = 3 * time.Second
	}
	return &Topics{config: c, keys: failover.Keys(c.Topology.Name())}
}

const (
	// lookMax bounds the wait for a site to say what it has of a topic.
	lookMax = 3 * time.Second
	// stepMax bounds one step at one site.
	stepMax = 20 * time.Second
	// stepPause is between two looks while a change waits.
	stepPause = 200 * time.Millisecond
	// keepMax bounds how long the record of a topic stays for the mirrors to create it at
	// the sites that follow.
	keepMax = 10 * time.Minute
	// UnderWayMax bounds the creations in the store that no site has carried out, and MadeMax
	// those that wait for mirrors alone: each is handed to every gateway with every change of
	// another. A mirror that is down for keepMax must not keep clients from creating topics.
	UnderWayMax = 1000
	MadeMax     = 5000
	// TakenOverAtOnce bounds the creations that Run carries on at the same time.
	TakenOverAtOnce = 4
)

// See takes what a watch of failover.Keys.Topics shows.
func (t *Topics) See(entries []coordination.Entry) {
	underWay, wait := make(map[string]Change, len(entries)), 0
	var made []string
	defer func() {
		for _, topic := range made {
			if t.config.Made != nil {
				t.config.Made(topic)
			}
		}
	}()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range entries {
		c, err := Decode(e.Value)
		if err != nil || t.keys.Topic(c.Topic) != e.Key {
			continue
		}
		underWay[c.Topic] = c
		if c.Made != "" {
			wait++
		}
	}
	for topic, c := range t.mu.underWay {
		if now := underWay[topic]; now.ID != c.ID || now.Made != c.Made {
			made = append(made, topic)
		}
	}
	t.mu.underWay, t.mu.made = underWay, wait
}

// Begin writes a creation into the store, with who asked for it (A). ErrUnderWay, with the
// other creation, if there is one already.
func (t *Topics) Begin(ctx context.Context, c Change) (Change, error) {
	t.mu.Lock()
	made := t.mu.made
	waiting := len(t.mu.underWay) - made
	t.mu.Unlock()
	switch {
	case waiting >= UnderWayMax:
		return c, fmt.Errorf("%s: %w: %d; try again in some seconds. The log of the control loops says what they wait for", c.Topic, ErrTooMany, waiting)
	case made >= MadeMax:
		return c, fmt.Errorf("%s: %w: %d wait for mirrors to create them at the other sites; try again in some minutes, and see that the mirrors run", c.Topic, ErrTooMany, made)
	}
	c.ID, c.Since = rand.Text(), time.Now().UTC()
	key := t.keys.Topic(c.Topic)
	err := t.config.Store.Txn(ctx, []coordination.Op{{Key: key, Value: c.Encode()}, t.audit(c.Who, c.String(), "")})
	if errors.Is(err, coordination.ErrUnavailable) {
		if now, _, fault := t.read(ctx, c.Topic); fault == nil && now.ID == c.ID {
			return c, nil // it was written, and the answer was lost
		}
	}
	if !errors.Is(err, coordination.ErrConflict) {
		return c, err
	}
	other, _, err := t.read(ctx, c.Topic)
	if err != nil {
		return c, err
	}
	return other, fmt.Errorf("%s: %w: %s", c.Topic, ErrUnderWay, other)
}

// UnderWay reads the creation of a topic from the store; false if there is none.
func (t *Topics) UnderWay(ctx context.Context, topic string) (Change, bool, error) {
	c, _, err := t.read(ctx, topic)
	if errors.Is(err, coordination.ErrNotFound) {
		return c, false, nil
	}
	return c, err == nil, err
}

func (t *Topics) read(ctx context.Context, topic string) (Change, uint64, error) {
	e, err := t.config.Store.Get(ctx, t.keys.Topic(topic))
	if err != nil {
		return Change{}, 0, err
	}
	c, err := Decode(e.Value)
	return c, e.Version, err
}

// Carry does one step after the other until the site that serves has the topic, or ctx
// ends: ErrPending then, with what it waits for. first: this process has just begun it, and
// until TakeOver nobody else can have come far: a topic that is there is another's. ErrGone:
// somebody else has ended it, and the topic is not there. Any other error is that of a site
// that refused, and the creation has ended with it.
func (t *Topics) Carry(ctx context.Context, c Change, first bool) error {
	var last error // what was waited for before ctx ended
	for {
		now, version, waits := t.read(ctx, c.Topic)
		switch {
		case ended(now, waits, c):
			return t.madeOrGone(ctx, c)
		case waits == nil:
			var has bool
			if has, waits = t.madeHere(ctx, now); has {
				return nil
			}
		}
		if waits == nil {
			var s stepped
			if s, waits = t.step(ctx, now, version, first); s.ended {
				return waits
			}
			first = first && !s.acted
		}
		if ctx.Err() == nil {
			last = waits
		}
		if err := pauseFor(ctx, last); err != nil {
			return fmt.Errorf("%s: %w: %w", c, ErrPending, err)
		}
	}
}

func ended(now Change, err error, c Change) bool {
	return errors.Is(err, coordination.ErrNotFound) || err == nil && now.ID != c.ID
}

// pauseFor lies between two steps: next to nothing if there is nothing to wait for, but a
// broker may not have heard yet what another one has done. It returns what was waited for
// once ctx has ended.
func pauseFor(ctx context.Context, waits error) error {
	pause := stepPause
	if waits == nil {
		pause = 5 * time.Millisecond
	}
	select {
	case <-ctx.Done():
		return errors.Join(waits, ctx.Err())
	case <-time.After(pause):
		return nil
	}
}

// madeHere tells whether the site that serves now has been seen with the topic: after a move
// it may be another one than that which made it, and lack it.
func (t *Topics) madeHere(ctx context.Context, c Change) (bool, error) {
	group, ok := t.config.Topology.GroupOfTopic(c.Topic)
	if c.Made == "" || !ok {
		return false, nil
	}
	serves, _, err := t.Serves(ctx, group)
	return err == nil && serves == c.Made, err
}

// madeOrGone tells what became of a creation that somebody else has ended.
func (t *Topics) madeOrGone(ctx context.Context, c Change) error {
	group, ok := t.config.Topology.GroupOfTopic(c.Topic)
	if !ok {
		return fmt.Errorf("%s: %w", c, ErrGone)
	}
	for {
		site, _, err := t.Serves(ctx, group)
		if err == nil {
			switch home := t.lookAt(ctx, site, c.Topic); {
			case home.Partitions > 0:
				return nil
			case home.Silent == "":
				return fmt.Errorf("%s: %w", c, ErrGone)
			default:
				err = fmt.Errorf("site %s does not answer: %s", site, home.Silent)
			}
		}
		if err := pauseFor(ctx, err); err != nil {
			return fmt.Errorf("%s: %w: %w", c, ErrPending, err)
		}
	}
}

// Await waits for a creation that somebody else carries, until the site that serves has the
// topic, or ctx has ended: ErrPending then. ErrGone: it has come to nothing.
func (t *Topics) Await(ctx context.Context, c Change) error {
	for {
		now, _, err := t.read(ctx, c.Topic)
		if ended(now, err, c) {
			return t.madeOrGone(ctx, c)
		}
		if err == nil {
			var has bool
			if has, err = t.madeHere(ctx, now); has {
				return nil
			}
		}
		if err := pauseFor(ctx, errors.Join(err, errOthers)); err != nil {
			return fmt.Errorf("%s: %w: %w", c, ErrPending, err)
		}
	}
}

var errOthers = errors.New("somebody else creates it")

// stepped is what became of a step.
type stepped struct {
	acted bool // a site was asked to create it
	ended bool // the record is gone
}

// step does what comes next. If the record is gone the error says why the topic is not
// made, else what it waits for.
func (t *Topics) step(ctx context.Context, c Change, version uint64, first bool) (s stepped, err error) {
	ctx, cancel := context.WithTimeout(ctx, stepMax)
	defer cancel()
	group, ok := t.config.Topology.GroupOfTopic(c.Topic)
	if !ok {
		s.ended, err = t.end(ctx, c, version, fmt.Errorf("topic %s belongs to no failover group any more", c.Topic))
		return s, err
	}
	serves, _, err := t.Serves(ctx, group)
	if err != nil && !errors.Is(err, ErrMoves) {
		return s, err
	}
	home := SiteView{}
	if serves != "" {
		home = t.lookAt(ctx, serves, c.Topic)
	}
	// After TakeOver a site may have what a control loop made; asked when the site has answered.
	alone := func() bool { return first && c.Made == "" && time.Since(c.Since) < t.config.TakeOver }
	do, why := Next(c, serves, home)
	switch do {
	case Done:
		s.ended, err = t.end(ctx, c, version, nil)
	case Tell:
		if alone() {
			s.ended, err = t.end(ctx, c, version, fmt.Errorf("site %s: %w", serves, broker.ErrTopicExists))
			break
		}
		c.Made, c.MadeAt = serves, time.Now().UTC()
		if _, err = t.config.Store.Put(ctx, t.keys.Topic(c.Topic), c.Encode(), version); errors.Is(err, coordination.ErrConflict) {
			err = nil // somebody beside us (C)
		}
	case Create:
		s.acted = true
		err = t.create(ctx, c, serves)
		switch {
		case errors.Is(err, broker.ErrTopicExists) && !alone():
			err = nil // an earlier attempt, or somebody beside us (C)
		case definite(err):
			s.ended, err = t.end(ctx, c, version, err)
		}
	case Follow:
		if waits := t.lacking(ctx, group, c); waits != "" && time.Since(c.MadeAt) < keepMax {
			return s, errors.New(waits)
		}
		s.ended, err = t.end(ctx, c, version, nil)
	default:
		err = errors.New(why)
	}
	return s, err
}

// lacking tells which site answers and does not have the topic yet; empty: none.
func (t *Topics) lacking(ctx context.Context, group spillway.FailoverGroup, c Change) string {
	lacks := make([]string, len(group.Sites))
	var asking sync.WaitGroup
	for i, site := range group.Sites {
		asking.Go(func() {
			if s := t.lookAt(ctx, site, c.Topic); s.Silent == "" && s.Partitions == 0 {
				lacks[i] = fmt.Sprintf("the mirror to site %s has not created it there", site)
			}
		})
	}
	asking.Wait()
	return cmp.Or(lacks...)
}

// definite tells whether a site will always refuse it.
func definite(err error) bool {
	if errors.Is(err, broker.ErrTopicExists) {
		return true
	}
	var answered *kerr.Error
	return errors.As(err, &answered) && !answered.Retriable && answered != kerr.UnknownServerError && answered != kerr.NotController
}

func (t *Topics) create(ctx context.Context, c Change, site spillway.SiteID) error {
	_, refused, err := t.config.Sites[site].Admin().CreateTopics(ctx, []broker.NewTopic{{Name: c.Topic, Partitions: c.Partitions, Replication: c.Replication, Configs: c.Configs}})
	if err != nil {
		return err
	}
	if err := refused[c.Topic]; err != nil {
		return fmt.Errorf("site %s: %w", site, err)
	}
	return nil
}

// Serves is the site that serves a failover group, and since which epoch, by the store.
// ErrMoves while it moves.
func (t *Topics) Serves(ctx context.Context, group spillway.FailoverGroup) (spillway.SiteID, spillway.Epoch, error) {
	e, err := t.config.Store.Get(ctx, t.keys.Share(spillway.ShareID{Group: group.Name}))
	if err != nil {
		return "", 0, fmt.Errorf("read where failover group %s is served: %w", group.Name, err)
	}
	share, err := failover.Decode(e.Value)
	if err != nil {
		return "", 0, err
	}
	if share.State != failover.Stable {
		return "", 0, fmt.Errorf("failover group %s: %w", group.Name, ErrMoves)
	}
	return share.Active, share.Epoch, nil
}

func (t *Topics) lookAt(ctx context.Context, site spillway.SiteID, topic string) SiteView {
	cluster := t.config.Sites[site]
	if cluster == nil {
		return SiteView{Silent: "it is not configured here"}
	}
	ctx, cancel := context.WithTimeout(ctx, lookMax)
	defer cancel()
	md, err := cluster.Metadata(ctx, topic)
	if err != nil {
		return SiteView{Silent: err.Error()}
	}
	found := md.Topics[topic]
	if found.ErrorCode != 0 && found.ErrorCode != kerr.UnknownTopicOrPartition.Code && len(found.Partitions) == 0 {
		return SiteView{Silent: kerr.ErrorForCode(found.ErrorCode).Error()}
	}
	return SiteView{Partitions: int32(len(found.Partitions))}
}

// end takes the record away, and tells the audit log why the topic is not made. false, and no
// error: somebody else has written it meanwhile.
func (t *Topics) end(ctx context.Context, c Change, version uint64, why error) (bool, error) {
	ops := []coordination.Op{{Key: t.keys.Topic(c.Topic), Version: version, Delete: true}}
	if why != nil {
		ops = append(ops, t.audit(c.Who, "taken back: "+c.String(), why.Error()))
	}
	err := t.config.Store.Txn(ctx, ops)
	if errors.Is(err, coordination.ErrConflict) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	t.told(c, why)
	return true, why
}

func (t *Topics) told(c Change, err error) {
	if t.config.Told != nil {
		t.config.Told(c, err)
	}
}

// Audit writes an entry of the audit log about a topic for what one site does alone.
func (t *Topics) Audit(ctx context.Context, who, what, why string) error {
	return t.config.Store.Txn(ctx, []coordination.Op{t.audit(who, what, why)})
}

func (t *Topics) audit(who, what, why string) coordination.Op {
	now := time.Now().UTC()
	return coordination.Op{Key: t.keys.ClientAudit(now, rand.Text()[:8]), Value: failover.ClientAudit(now, who, what, why)}
}

// Run carries on what has stood still for a while, until ctx ends and what it started has.
// Nothing is waited for here: it comes again soon.
func (t *Topics) Run(ctx context.Context) {
	coordination.CarryOn(ctx, t.config.Store, t.keys.Topics(), t.config.TakeOver, TakenOverAtOnce, func(ctx context.Context, e coordination.Entry) {
		c, err := Decode(e.Value)
		if err != nil {
			t.told(Change{Topic: e.Key}, err)
			return
		}
		for {
			now, version, err := t.read(ctx, c.Topic)
			if ended(now, err, c) || ctx.Err() != nil {
				return
			}
			var s stepped
			if err == nil {
				s, err = t.step(ctx, now, version, false)
			}
			if s.ended {
				return
			}
			if err != nil {
				if ctx.Err() == nil && now.Made == "" {
					t.told(c, err)
				}
				return
			}
		}
	})
}
