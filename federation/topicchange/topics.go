package topicchange

import (
	"context"
	"crypto/rand"
	"encoding/json"
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
	// ErrUnderWay: the topic has a change that is not done yet, so no other can begin.
	ErrUnderWay = errors.New("another change of the topic is under way")
	// ErrTooMany: UnderWayMax changes are not done yet.
	ErrTooMany = errors.New("too many changes of topics are under way")
	// ErrPending: the change is in the store and not done; it is carried on.
	ErrPending = errors.New("not done yet; it is carried on")
)

// Config of Topics.
type Config struct {
	Topology *spillway.Topology
	Store    coordination.Store
	Sites    map[spillway.SiteID]broker.Cluster
	// TakeOver is how long a change must have stood still until Run carries it on;
	// default 3 s.
	TakeOver time.Duration
	// Ended hears of topics of which See has seen a change end. May be nil.
	Ended func(topic string)
	// Told hears of changes that have ended (err: that were taken back), and of those that
	// Run could not end yet. May be nil.
	Told func(c Change, err error)
}

// Topics carries changes out. All methods may be called by any goroutine.
type Topics struct {
	// Set once, read by anyone.
	config Config
	keys   failover.Keys

	mu struct {
		sync.Mutex
		underWay map[string]Change // by topic, as the store's watch shows it
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
	// UnderWayMax bounds the changes in the store: each is handed to every gateway with
	// every change of another.
	UnderWayMax = 1000
	// TakenOverAtOnce bounds the changes that Run carries on at the same time.
	TakenOverAtOnce = 4
)

// See takes what a watch of failover.Keys.Topics shows.
func (t *Topics) See(entries []coordination.Entry) {
	underWay := make(map[string]Change, len(entries))
	var ended []string
	defer func() {
		for _, topic := range ended {
			if t.config.Ended != nil {
				t.config.Ended(topic)
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
	}
	for topic, c := range t.mu.underWay {
		if underWay[topic].ID != c.ID {
			ended = append(ended, topic)
		}
	}
	t.mu.underWay = underWay
}

// Shown is how many of its partitions clients see of a topic (E).
func (t *Topics) Shown(topic string, partitions int32) int32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c, ok := t.mu.underWay[topic]; ok && c.Kind == Grow {
		return min(partitions, c.Shown)
	}
	return partitions
}

// Begin writes a change into the store, with who asked for it (A). ErrUnderWay, with the
// other change, if there is one already.
func (t *Topics) Begin(ctx context.Context, c Change) (Change, error) {
	t.mu.Lock()
	n := len(t.mu.underWay)
	t.mu.Unlock()
	if n >= UnderWayMax {
		return c, fmt.Errorf("%s: %w: %d; they go on when their sites answer, and the log of the control loops says what they wait for", c.Topic, ErrTooMany, n)
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

// UnderWay reads the change of a topic from the store; false if there is none.
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

// Carry does one step after the other until the change is done, or ctx ends: ErrPending
// then, with what it waits for. first: this process has just begun it, and nobody else can
// have come far: a topic that is there is another's. Any other error is that of a site
// that refused, of which nothing was done; the change has ended with it.
func (t *Topics) Carry(ctx context.Context, c Change, first bool) error {
	var waits error
	for {
		now, version, err := t.read(ctx, c.Topic)
		switch {
		case errors.Is(err, coordination.ErrNotFound), err == nil && now.ID != c.ID:
			return nil // it has ended
		case err != nil:
			waits = err
		default:
			ended, err := t.step(ctx, c, version, first)
			if ended {
				return err
			}
			waits = err
		}
		first = false
		pause := stepPause
		if waits == nil {
			pause = 0 // a step was done
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", c, ErrPending, errors.Join(waits, ctx.Err()))
		case <-time.After(pause):
		}
	}
}

// Await waits for a change that somebody else carries, until it has ended or ctx has:
// ErrPending then. A creation is only waited for: the process that began it takes a topic
// that it finds at its first look for another's, and says so to its client.
func (t *Topics) Await(ctx context.Context, c Change) error {
	if c.Kind != Create {
		return t.Carry(ctx, c, false)
	}
	for {
		now, _, err := t.read(ctx, c.Topic)
		if errors.Is(err, coordination.ErrNotFound) || err == nil && now.ID != c.ID {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", c, ErrPending, errors.Join(err, ctx.Err()))
		case <-time.After(stepPause):
		}
	}
}

// step does what comes next. ended: the record is gone, and err says whether the change is
// done. Else err is what it waits for.
func (t *Topics) step(ctx context.Context, c Change, version uint64, first bool) (ended bool, err error) {
	group, ok := t.config.Topology.GroupOfTopic(c.Topic)
	if !ok {
		return t.end(ctx, c, version, fmt.Errorf("topic %s belongs to no failover group any more", c.Topic))
	}
	v, err := t.look(ctx, group, c.Topic)
	if err != nil {
		return false, err
	}
	s := Next(c, v, group.Sites)
	if s.Do == Done && c.Kind == Create && first {
		return t.end(ctx, c, version, fmt.Errorf("site %s: %w", v.Serves, broker.ErrTopicExists))
	}
	ctx, cancel := context.WithTimeout(ctx, stepMax)
	defer cancel()
	switch s.Do {
	case Done:
		return t.end(ctx, c, version, nil)
	case Wait:
		return false, errors.New(s.Why)
	case CreateAt:
		err = t.create(ctx, c, s.Site)
		if errors.Is(err, broker.ErrTopicExists) && !first {
			return false, nil // an earlier attempt, or somebody beside us (C)
		}
	case GrowAt:
		err = t.config.Sites[s.Site].Admin().CreatePartitions(ctx, c.Topic, c.Partitions)
		if err != nil && t.grown(ctx, c, s.Site) {
			return false, nil // somebody beside us (C)
		}
	}
	if err == nil {
		return false, nil
	}
	if definite(err) && !begun(c, v) {
		return t.end(ctx, c, version, err)
	}
	return false, err
}

// begun tells whether any site has grown already: then the change cannot be taken back.
func begun(c Change, v View) bool {
	for _, s := range v.Sites {
		if c.Kind == Grow && s.Partitions > c.Shown {
			return true
		}
	}
	return false
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

func (t *Topics) grown(ctx context.Context, c Change, site spillway.SiteID) bool {
	s := t.lookAt(ctx, site, c.Topic)
	return s.Silent == "" && s.Partitions >= c.Partitions
}

// look asks the store where the group is served, and all sites what they have.
func (t *Topics) look(ctx context.Context, group spillway.FailoverGroup, topic string) (View, error) {
	v := View{Sites: make(map[spillway.SiteID]SiteView, len(group.Sites))}
	e, err := t.config.Store.Get(ctx, t.keys.Share(spillway.ShareID{Group: group.Name}))
	if err != nil {
		return v, fmt.Errorf("read where failover group %s is served: %w", group.Name, err)
	}
	share, err := failover.Decode(e.Value)
	if err != nil {
		return v, err
	}
	if share.State == failover.Stable {
		v.Serves = share.Active
	}
	var mu sync.Mutex // guards v.Sites
	var asking sync.WaitGroup
	for _, site := range group.Sites {
		asking.Go(func() {
			s := t.lookAt(ctx, site, topic)
			mu.Lock()
			defer mu.Unlock()
			v.Sites[site] = s
		})
	}
	asking.Wait()
	return v, nil
}

// Look is what the sites of a topic's failover group have of it now.
func (t *Topics) Look(ctx context.Context, group spillway.FailoverGroup, topic string) (View, error) {
	return t.look(ctx, group, topic)
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

// end takes the record away, and tells the audit log how it ended (B).
func (t *Topics) end(ctx context.Context, c Change, version uint64, why error) (bool, error) {
	ops := []coordination.Op{{Key: t.keys.Topic(c.Topic), Version: version, Delete: true}}
	if why != nil {
		ops = append(ops, t.audit(c.Who, "taken back: "+c.String(), why.Error()))
	}
	err := t.config.Store.Txn(ctx, ops)
	if err != nil && !errors.Is(err, coordination.ErrConflict) { // conflict: somebody has ended it
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

// AuditOp is such an entry, to be written together with something else.
func (t *Topics) AuditOp(who, what, why string) coordination.Op { return t.audit(who, what, why) }

func (t *Topics) audit(who, what, why string) coordination.Op {
	now := time.Now().UTC()
	value, err := json.Marshal(failover.AuditEntry{At: now, Who: who, What: what, Why: why})
	if err != nil {
		panic(fmt.Sprintf("audit entry cannot be encoded: %v", err)) // plain data, cannot happen
	}
	return coordination.Op{Key: t.keys.Audit(now, rand.Text()[:8]), Value: value}
}

// Run carries on what has stood still for a while, until ctx ends and what it started has.
func (t *Topics) Run(ctx context.Context) {
	coordination.CarryOn(ctx, t.config.Store, t.keys.Topics(), t.config.TakeOver, TakenOverAtOnce, func(ctx context.Context, e coordination.Entry) {
		c, err := Decode(e.Value)
		if err != nil {
			t.told(Change{Topic: e.Key}, err)
			return
		}
		carrying, cancel := context.WithTimeout(ctx, stepMax)
		defer cancel()
		if err := t.Carry(carrying, c, false); err != nil && ctx.Err() == nil {
			t.told(c, err)
		}
	})
}
