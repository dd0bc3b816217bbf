// Package groupdeletion takes what a consumer group has committed away at all sites: the
// group, or its positions in some partitions. At the site that serves it somebody was
// answered; at the others its positions are copies that mirrors made, and a move there
// would bring them back. So what is to be taken away is in the coordinator's store until
// it is gone everywhere. It knows what a site's admin can do and what a share record says,
// and neither the wire format of clients nor how mirrors copy positions.
//
// Invariants, cited by letter in code and tests:
//
//	A  the record is there before the site that serves is asked
//	B  at the other sites nothing is taken away that the site that serves has, and
//	   nothing once the share has moved: what is there then may have been committed since
//	C  a mirror may commit what it has read before: so the other sites are looked at once
//	   more when that must be over (settle)
//	D  every step may be done again, by anyone
package groupdeletion

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/federation/coordination"
	"spillway/federation/failover"
)

// Deletion is the record in the store.
type Deletion struct {
	Group string `json:"group"`
	Share string `json:"share"` // name of the failover group
	ID    string `json:"id"`    // random: tells it from a later one
	// Partitions by topic whose positions are taken away; nil: the group is.
	Partitions map[string][]int32 `json:"partitions,omitempty"`
	Site       spillway.SiteID    `json:"site"`  // that served it
	Epoch      spillway.Epoch     `json:"epoch"` // in which
	// Done: the site that served it has done it.
	Done  bool      `json:"done,omitempty"`
	Who   string    `json:"who"`
	Since time.Time `json:"since"`
}

// String is the deletion in a sentence.
func (d Deletion) String() string {
	if d.Partitions == nil {
		return fmt.Sprintf("consumer group %q is deleted", d.Group)
	}
	return fmt.Sprintf("positions of consumer group %q in topics %q are deleted", d.Group, slices.Sorted(maps.Keys(d.Partitions)))
}

func (d Deletion) positions() []spillway.TopicPartition {
	var tps []spillway.TopicPartition
	for _, topic := range slices.Sorted(maps.Keys(d.Partitions)) {
		for _, p := range d.Partitions[topic] {
			tps = append(tps, spillway.TopicPartition{Topic: topic, Partition: p})
		}
	}
	return tps
}

// Errors that callers branch on.
var (
	// ErrUnderWay: the group has a deletion that has not ended.
	ErrUnderWay = errors.New("another deletion of the group is under way")
	// ErrMoved: the share moves, or has moved.
	ErrMoved = errors.New("the failover group moves to another site")
)

// GroupBytesMax bounds the names of groups: they are part of a key of the store.
const GroupBytesMax = 249

// Config of Groups.
type Config struct {
	Topology *spillway.Topology
	Store    coordination.Store
	Sites    map[spillway.SiteID]broker.Cluster
	// TakeOver is how long a deletion must have stood still until Run carries it on;
	// default Settle and 5 s, or Run would do what somebody else does.
	TakeOver time.Duration
	// Settle is how long a mirror may take from its reading of a group to its commit;
	// default 15 s.
	Settle time.Duration
	// Told hears of deletions that Run could not end yet. May be nil.
	Told func(d Deletion, err error)
}

// Groups carries deletions out. All methods may be called by any goroutine.
type Groups struct {
	config Config
	keys   failover.Keys
}

// New prepares it. Nothing runs until Run.
func New(c Config) *Groups {
	if c.Settle <= 0 {
		c.Settle = 15 * time.Second
	}
	if c.TakeOver <= 0 {
		c.TakeOver = c.Settle + 5*time.Second
	}
	return &Groups{config: c, keys: failover.Keys(c.Topology.Name())}
}

const (
	// siteMax bounds what is asked of a site at once.
	siteMax = 10 * time.Second
	// atOnce bounds the deletions that Run carries on at the same time.
	atOnce = 4
)

func (g *Groups) key(group string) string { return g.keys.Group(url.QueryEscape(group)) }

// Begin writes a deletion into the store, for the site that serves the group now (A).
// ErrMoved, and ErrUnderWay while there is another one.
func (g *Groups) Begin(ctx context.Context, d Deletion) (Deletion, error) {
	share, err := g.share(ctx, d.Share)
	if err != nil {
		return d, err
	}
	if share.State != failover.Stable {
		return d, ErrMoved
	}
	d.ID, d.Since, d.Site, d.Epoch = rand.Text(), time.Now().UTC(), share.Active, share.Epoch
	ops := []coordination.Op{{Key: g.key(d.Group), Value: encode(d)}, g.audit(d, d.String(), "")}
	err = g.config.Store.Txn(ctx, ops)
	if errors.Is(err, coordination.ErrConflict) {
		return d, fmt.Errorf("consumer group %q: %w", d.Group, ErrUnderWay)
	}
	return d, err
}

// AtHome does it at the site that serves, and ends it if that refuses. Then the share must
// stand as it did, or nobody knows whether the move took the group along: ErrMoved.
func (g *Groups) AtHome(ctx context.Context, d Deletion) (Deletion, error) {
	ctx, cancel := context.WithTimeout(ctx, siteMax)
	defer cancel()
	err := g.take(ctx, d.Site, d)
	share, moved := g.share(ctx, d.Share)
	if moved == nil && (share.State != failover.Stable || share.Epoch != d.Epoch) {
		moved = ErrMoved
	}
	if err != nil || moved != nil {
		return d, errors.Join(err, moved, g.end(ctx, d, errors.Join(err, moved)))
	}
	e, err := g.config.Store.Get(ctx, g.key(d.Group))
	if err != nil {
		return d, err
	}
	if now, err := decode(e); err != nil || now.ID != d.ID {
		return d, err // somebody has taken it over
	}
	d.Done = true
	_, err = g.config.Store.Put(ctx, e.Key, encode(d), e.Version)
	return d, err
}

// take takes it away at a site.
func (g *Groups) take(ctx context.Context, site spillway.SiteID, d Deletion) error {
	cluster := g.config.Sites[site]
	if cluster == nil {
		return fmt.Errorf("site %s is not configured here", site)
	}
	if d.Partitions == nil {
		return cluster.Admin().DeleteGroup(ctx, d.Group)
	}
	return cluster.Admin().DeleteGroupOffsets(ctx, d.Group, d.positions())
}

// Elsewhere takes it away at the other sites, twice (C), and ends it. An error: it has to
// be carried on.
func (g *Groups) Elsewhere(ctx context.Context, d Deletion) error {
	for last := range 2 {
		if last == 1 {
			select {
			case <-time.After(g.config.Settle):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		err := g.takeElsewhere(ctx, d)
		if errors.Is(err, ErrMoved) {
			return g.end(ctx, d, err)
		}
		if err != nil {
			return err
		}
	}
	return g.end(ctx, d, nil)
}

func (g *Groups) takeElsewhere(ctx context.Context, d Deletion) error {
	ctx, cancel := context.WithTimeout(ctx, siteMax)
	defer cancel()
	share, err := g.share(ctx, d.Share)
	if err != nil {
		return err
	}
	if share.State != failover.Stable || share.Epoch != d.Epoch || share.Active != d.Site {
		return ErrMoved // (B)
	}
	rest, err := g.rest(ctx, d)
	if err != nil || rest.Partitions != nil && len(rest.Partitions) == 0 || rest.ID == "" {
		return err
	}
	group, ok := g.config.Topology.Group(d.Share)
	if !ok {
		return nil
	}
	var faults []error
	for _, site := range group.Sites {
		if site == d.Site {
			continue
		}
		err := g.take(ctx, site, rest)
		if errors.Is(err, broker.ErrGroupActive) { // they have gone with the share, unsaid
			if err = g.config.Sites[site].Admin().RemoveMembers(ctx, d.Group); err == nil {
				err = g.take(ctx, site, rest)
			}
		}
		if err != nil && !errors.Is(err, broker.ErrUnknownGroup) {
			faults = append(faults, fmt.Errorf("site %s: %w", site, err))
		}
	}
	return errors.Join(faults...)
}

// rest is what of a deletion the site that serves does not have again (B); its ID is empty
// if it has the group.
func (g *Groups) rest(ctx context.Context, d Deletion) (Deletion, error) {
	admin := g.config.Sites[d.Site].Admin()
	if d.Partitions == nil {
		now, err := admin.DescribeGroup(ctx, d.Group)
		if err == nil && now.State != "Dead" {
			d.ID = ""
		}
		return d, err
	}
	there, err := admin.FetchGroupOffsets(ctx, d.Group)
	if err != nil && !errors.Is(err, broker.ErrUnknownGroup) {
		return d, err
	}
	rest := make(map[string][]int32)
	for _, tp := range d.positions() {
		if o, has := there[tp]; !has || o.Offset < 0 {
			rest[tp.Topic] = append(rest[tp.Topic], tp.Partition)
		}
	}
	d.Partitions = rest
	return d, nil
}

// Run carries on what has stood still for a while, until ctx ends and what it started has.
func (g *Groups) Run(ctx context.Context) {
	coordination.CarryOn(ctx, g.config.Store, g.keys.Groups(), g.config.TakeOver, atOnce, func(ctx context.Context, e coordination.Entry) {
		d, err := decode(e)
		if err == nil {
			err = g.carry(ctx, d)
		}
		if err != nil && ctx.Err() == nil && g.config.Told != nil {
			g.config.Told(d, err)
		}
	})
}

// carry goes on where somebody has left off. Whether the site that serves has done it can
// be seen there; nobody was told that it has, if it has not.
func (g *Groups) carry(ctx context.Context, d Deletion) error {
	if d.Done {
		return g.Elsewhere(ctx, d)
	}
	looking, cancel := context.WithTimeout(ctx, siteMax)
	defer cancel()
	if g.config.Sites[d.Site] == nil {
		return fmt.Errorf("site %s is not configured here", d.Site)
	}
	rest, err := g.rest(looking, d)
	if err != nil {
		return err
	}
	if rest.ID == "" || rest.Partitions != nil && len(rest.positions()) < len(d.positions()) {
		return g.end(ctx, d, errors.New("who began it died before the site that serves had done it"))
	}
	return g.Elsewhere(ctx, d)
}

// end takes the record away; why tells the audit log that it was not done.
func (g *Groups) end(ctx context.Context, d Deletion, why error) error {
	e, err := g.config.Store.Get(ctx, g.key(d.Group))
	if errors.Is(err, coordination.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if now, err := decode(e); err != nil || now.ID != d.ID {
		return err
	}
	ops := []coordination.Op{{Key: e.Key, Version: e.Version, Delete: true}}
	if why != nil {
		ops = append(ops, g.audit(d, "not, or not everywhere: "+d.String(), why.Error()))
	}
	if err := g.config.Store.Txn(ctx, ops); !errors.Is(err, coordination.ErrConflict) {
		return err
	}
	return nil
}

func (g *Groups) share(ctx context.Context, group string) (failover.Share, error) {
	e, err := g.config.Store.Get(ctx, g.keys.Share(spillway.ShareID{Group: group}))
	if err != nil {
		return failover.Share{}, fmt.Errorf("read where failover group %s is served: %w", group, err)
	}
	return failover.Decode(e.Value)
}

func (g *Groups) audit(d Deletion, what, why string) coordination.Op {
	now := time.Now().UTC()
	return coordination.Op{Key: g.keys.Audit(now, rand.Text()[:8]), Value: failover.ClientAudit(now, d.Who, what, why)}
}

func decode(e coordination.Entry) (Deletion, error) {
	var d Deletion
	if err := json.Unmarshal(e.Value, &d); err != nil {
		return d, fmt.Errorf("record %s: %w", e.Key, err)
	}
	return d, nil
}

func encode(d Deletion) []byte {
	b, err := json.Marshal(d)
	if err != nil {
		panic(fmt.Sprintf("record of a group's deletion cannot be encoded: %v", err)) // plain data, cannot happen
	}
	return b
}
