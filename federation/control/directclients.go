package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/federation/coordination"
	"spillway/federation/direct"
	"spillway/federation/failover"
	"spillway/federation/layout"
)

// Bounds of a look for clients past the gateways.
const (
	// directPartitionsMax is of how many partitions the producers are asked for, and
	// directGroupsMax of how many groups the members. What is beyond may hide somebody.
	directPartitionsMax = 10_000
	directGroupsMax     = 5_000
	directAtOnce        = 8
	// directBetween lies between the two readings of a look: who writes shows then.
	directBetween = time.Second
	// directLease is more than lies between two renewals of a gateway's lease.
	directLease = 1500 * time.Millisecond
	// directMax bounds a look.
	directMax = time.Minute
	// DirectQuiet is for how long a producer must not have written to count as gone.
	DirectQuiet = 10 * time.Minute
)

// lookDirect reads what the site that serves a failover group shows of its clients.
func lookDirect(ctx context.Context, cluster broker.Cluster, topology *spillway.Topology, g spillway.FailoverGroup, leases gateways) direct.Look {
	look := looked{direct.Look{Site: cluster.Site(), Grew: map[spillway.TopicPartition]int64{}, Transactional: func(id string) bool {
		of, ok := topology.GroupOfTransactionalID(id)
		return ok && of.Name == g.Name
	}}}
	var unread unreadNotes
	before, err := leases(ctx)
	unread.note("gateways", err)
	admin := cluster.Admin()
	var tps []spillway.TopicPartition
	md, err := cluster.Metadata(ctx)
	unread.note("topics", err)
	for name, t := range md.Topics {
		if t.Internal || !topology.HasTopic(g, name) {
			continue
		}
		if t.ErrorCode != 0 {
			unread.note("topics", fmt.Errorf("the site tells nothing of topic %s (error code %d)", name, t.ErrorCode))
		}
		for _, p := range t.Partitions {
			tps = append(tps, spillway.TopicPartition{Topic: name, Partition: p.Partition})
		}
	}
	slices.SortFunc(tps, spillway.TopicPartition.Compare)
	if more := len(tps) - directPartitionsMax; more > 0 {
		unread.note("producers", fmt.Errorf("those of %d partitions were asked for, not of %d more", directPartitionsMax, more))
		tps = tps[:directPartitionsMax]
	}
	producers := func() []direct.Producer {
		if cluster.Capabilities().DescribeProducers {
			return producersOf(ctx, admin, tps, &unread)
		}
		return nil
	}
	logEnds := func() map[spillway.TopicPartition]spillway.LocalOffset {
		ends, err := admin.LogEnds(ctx, tps)
		unread.note("log ends", err)
		return ends
	}
	if !cluster.Capabilities().DescribeProducers {
		unread.note("producers", errors.New("brokers of this kind do not list them"))
	}
	look.Before = producers()
	ends := logEnds()
	look.Members = membersOf(ctx, admin, topology, g, &unread)
	open, err := admin.OpenTransactions(ctx)
	unread.note("transactions", err)
	look.Transactions = map[int64]string{}
	for _, t := range open {
		look.Transactions[t.ProducerID] = t.TransactionalID
	}
	look.Epochs = epochsOf(ctx, admin, open, look.Transactional, &unread)
	pause(ctx, directBetween)
	// The ends are read between the producers: what a log grew by, some of these have written.
	if can := cluster.Capabilities().DescribeProducers; can {
		for tp, end := range logEnds() {
			if was, ok := ends[tp]; ok && end > was {
				look.Grew[tp] = int64(end - was)
			}
		}
	}
	look.Producers = producers()
	pause(ctx, directLease) // so that gateways have said what they sent meanwhile
	said, err := leases(ctx)
	unread.note("gateways", err)
	look.believe(g, speaking(before, said))
	look.At, look.Unread = time.Now().UTC(), unread.all()
	return look.Look
}

// gateways reads their leases.
type gateways func(context.Context) ([]layout.GatewayLease, error)

// speaking are the leases of gateways that renewed them between two readings, and do not
// leave: keys of gateways outlive them, and what a dead one said of its clients was true of
// their last connection.
func speaking(before, said []layout.GatewayLease) (live []layout.GatewayLease) {
	type start struct {
		id   spillway.GatewayID
		boot string
	}
	beats := map[start]uint64{}
	for _, l := range before {
		beats[start{l.ID, l.Boot}] = l.Beat
	}
	for _, l := range said {
		if was, known := beats[start{l.ID, l.Boot}]; known && was != l.Beat && !l.Leaving {
			live = append(live, l)
		}
	}
	return live
}

// looked is a look that lacks what gateways say.
type looked struct{ direct.Look }

// believe adds what gateways say in their leases of who came by them.
func (l *looked) believe(g spillway.FailoverGroup, leases []layout.GatewayLease) {
	static := map[uint64]bool{}
	l.ByGateways, l.Plain = map[int64]int16{}, map[spillway.TopicPartition]bool{}
	for _, lease := range leases {
		for _, came := range lease.Transactional[spillway.ShareID{Group: g.Name}.String()] {
			l.ByGateways[came.Producer] = max(l.ByGateways[came.Producer], came.Epoch)
		}
		for _, key := range lease.Static {
			static[key] = true
		}
		for topic, partitions := range lease.Plain {
			for _, p := range partitions {
				l.Plain[spillway.TopicPartition{Topic: topic, Partition: p}] = true
			}
		}
	}
	l.StaticByGateways = func(group, id string) bool { return static[layout.MemberKey(group, id)] }
}

// unreadNotes collects what could not be asked for, the first fault about each.
type unreadNotes struct {
	mu    sync.Mutex
	notes []direct.Unread
}

func (u *unreadNotes) note(about string, err error) {
	if err == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if !slices.ContainsFunc(u.notes, func(n direct.Unread) bool { return n.About == about }) {
		u.notes = append(u.notes, direct.Unread{About: about, Why: clip(err.Error())})
	}
}

func (u *unreadNotes) all() []direct.Unread {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.notes
}

// producersOf asks leaders what they remember of producers.
func producersOf(ctx context.Context, admin broker.Admin, tps []spillway.TopicPartition, unread *unreadNotes) (all []direct.Producer) {
	var mu sync.Mutex
	eachOf(tps, func(tp spillway.TopicPartition) {
		states, err := admin.DescribeProducers(ctx, tp)
		unread.note("producers", err)
		mu.Lock()
		defer mu.Unlock()
		for _, s := range states {
			all = append(all, direct.Producer{TopicPartition: tp, ID: s.ID, Epoch: s.Epoch, Sequence: s.LastSequence,
				Last: time.UnixMilli(s.LastTimestamp).UTC(), Open: s.CurrentTxnStart >= 0})
		}
	})
	return all
}

// epochsOf asks for the epochs of the producers that have transactions open.
func epochsOf(ctx context.Context, admin broker.Admin, open []broker.Transaction, of func(id string) bool, unread *unreadNotes) map[int64]int16 {
	open = slices.DeleteFunc(slices.Clone(open), func(t broker.Transaction) bool { return !of(t.TransactionalID) })
	if more := len(open) - directGroupsMax; more > 0 {
		unread.note("transactions", fmt.Errorf("%d were asked for, not %d more", directGroupsMax, more))
		open = open[:directGroupsMax]
	}
	var mu sync.Mutex
	epochs := map[int64]int16{}
	eachOf(open, func(one broker.Transaction) {
		t, err := admin.DescribeTransaction(ctx, one.TransactionalID)
		if err != nil && !errors.Is(err, broker.ErrUnknownTransactionalID) {
			unread.note("transactions", err)
		}
		if err == nil && t.State == "Ongoing" { // while one ends, its coordinator has a newer one
			mu.Lock()
			defer mu.Unlock()
			epochs[t.ProducerID] = t.ProducerEpoch
		}
	})
	return epochs
}

// membersOf are the members of the consumer groups of a failover group, and of groups that
// are nobody's and read its topics.
func membersOf(ctx context.Context, admin broker.Admin, topology *spillway.Topology, g spillway.FailoverGroup, unread *unreadNotes) (all []direct.Member) {
	listed, err := admin.ListGroups(ctx)
	unread.note("consumer groups", err)
	listed = slices.DeleteFunc(listed, func(one broker.GroupListing) bool { return one.State == "Empty" || one.State == "Dead" })
	slices.SortFunc(listed, func(a, b broker.GroupListing) int { // its own first
		return rankOf(topology, g, a.ID) - rankOf(topology, g, b.ID)
	})
	if more := len(listed) - directGroupsMax; more > 0 {
		unread.note("consumer groups", fmt.Errorf("the members of %d groups were asked for, not of %d more", directGroupsMax, more))
		listed = listed[:directGroupsMax]
	}
	var mu sync.Mutex
	eachOf(listed, func(one broker.GroupListing) {
		d, err := admin.DescribeGroup(ctx, one.ID)
		unread.note("consumer groups", err)
		mu.Lock()
		defer mu.Unlock()
		for _, m := range d.Members {
			reads := slices.DeleteFunc(slices.Clone(m.Assigned), func(tp spillway.TopicPartition) bool { return !topology.Has(g, tp) })
			if rankOf(topology, g, one.ID) == 0 || len(reads) > 0 {
				all = append(all, direct.Member{Group: one.ID, ID: m.ID, Instance: m.InstanceID, ClientID: m.ClientID, Host: m.ClientHost, Partitions: reads})
			}
		}
	})
	return all
}

func rankOf(topology *spillway.Topology, g spillway.FailoverGroup, group string) int {
	if of, ok := topology.GroupOfConsumerGroup(group); ok && of.Name == g.Name {
		return 0
	}
	return 1
}

// eachOf does something for each of many, a few at a time.
func eachOf[T any](all []T, do func(T)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, directAtOnce)
	for _, one := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			do(one)
		})
	}
	wg.Wait()
}

// DirectClients looks who goes past the gateways to the site that serves a failover group.
func (o *Operator) DirectClients(ctx context.Context, group string) (direct.Found, error) {
	g, ok := o.topology.Group(group)
	if !ok {
		return direct.Found{}, fmt.Errorf("there is no failover group %q; see spillway failover-group list", group)
	}
	share, _, err := o.share(ctx, group)
	if err != nil {
		return direct.Found{}, err
	}
	return o.directClients(ctx, g, share)
}

func (o *Operator) directClients(ctx context.Context, g spillway.FailoverGroup, share failover.Share) (direct.Found, error) {
	cluster := o.Sites[share.Active]
	if cluster == nil {
		return direct.Found{}, fmt.Errorf("look for clients of %s past the gateways: no way to its active site %s is known", g.Name, share.Active)
	}
	ctx, cancel := context.WithTimeout(ctx, directMax)
	defer cancel()
	quiet := o.DirectQuiet
	if quiet <= 0 {
		quiet = DirectQuiet
	}
	found := direct.Judge(g.Name, lookDirect(ctx, cluster, o.topology, g, o.Gateways), quiet)
	// Clients say the time of their records. The loop goes by its own clock, over many looks.
	if len(found.Gone) > 0 && (share.Adoption == nil || !share.Adoption.None) {
		found.OneLook = fmt.Sprintf("%d producers have not written lately by the time of their records, which one look cannot know: the control loop has not found yet that they wrote nothing for %s", len(found.Gone)+found.MoreGone, quiet)
	}
	return found, nil
}

// foundNow is the adoption of a share with what a look finds now, or with why none could.
func (o *Operator) foundNow(ctx context.Context, g spillway.FailoverGroup, share failover.Share) *failover.Adoption {
	a := failover.Adoption{}
	if share.Adoption != nil {
		a = *share.Adoption
	}
	if o.Sites == nil {
		return &a
	}
	found, err := o.directClients(ctx, g, share)
	if a.Direct = found.String(); err != nil {
		a.Direct = err.Error()
	}
	return &a
}

// AdoptionEnd says what the end of an adoption means, or that it has ended.
type AdoptionEnd struct {
	Group  string       `json:"failoverGroup"`
	Found  direct.Found `json:"found"`
	Ended  bool         `json:"ended"`
	DryRun bool         `json:"dryRun"`
	// Refused is why it does not end; "": it may.
	Refused string `json:"refused,omitempty"`
}

// EndAdoption ends the adoption of a failover group for which the configuration does not ask
// any more, if a look finds no client past the gateways. With accept it ends all the same, and
// the audit log says whom that leaves behind.
func (o *Operator) EndAdoption(ctx context.Context, group, who, why string, accept, dryRun bool) (AdoptionEnd, error) {
	end := AdoptionEnd{Group: group, DryRun: dryRun}
	g, ok := o.topology.Group(group)
	if !ok {
		return end, fmt.Errorf("there is no failover group %q; see spillway failover-group list", group)
	}
	for {
		share, version, err := o.share(ctx, group)
		if err != nil {
			return end, err
		}
		next, err := failover.EndAdoption(share, g)
		if err != nil {
			return end, err
		}
		if end.Found, err = o.directClients(ctx, g, share); err != nil && !accept {
			return end, err
		}
		what := fmt.Sprintf("adoption of failover group %s ended: %s", group, end.Found)
		if err != nil {
			what = fmt.Sprintf("adoption of failover group %s ended without a look for clients past the gateways: %v", group, err)
		}
		if err == nil && !end.Found.None() && !accept {
			end.Refused = end.Found.String()
		}
		if dryRun || end.Refused != "" {
			return end, nil
		}
		if accept && (err != nil || !end.Found.None()) {
			what += "; accepted that they stay behind when the group moves"
		}
		if err = o.write(ctx, next, version, what, who, why); !errors.Is(err, coordination.ErrConflict) {
			end.Ended = err == nil
			return end, err
		}
	}
}

// directLook is what a control loop knows of clients past the gateways, while a failover
// group is adopting. It looks beside its other work, which must not wait.
type directLook struct {
	mu      sync.Mutex
	running bool
	of      adoptionID
	found   *failover.DirectView
	// nobody is when a look found nobody, as all have since; zero: the last one found somebody.
	nobody coordination.Instant
	last   coordination.Instant // when the last look began that found anything out
	seen   *direct.History
	next   coordination.Instant
	pause  time.Duration
}

// adoptionID tells adoptions apart: what was found in one says nothing of another.
type adoptionID struct {
	epoch spillway.Epoch
	since time.Time
}

const (
	// directEvery is the least time between two looks, and directPart the part of its time
	// that a loop spends on them at most.
	directEvery = 5 * time.Second
	directPart  = 20
	// directGap is more than lies between two looks: after a longer one nobody knows who was
	// there meanwhile, and what was found before it says nothing any more.
	directGap = 3 * directMax
)

// forget begins anew: nothing is known of who goes past the gateways.
func (l *directLook) forget(of adoptionID) {
	l.of, l.found, l.nobody, l.last, l.seen, l.pause = of, nil, coordination.Instant{}, coordination.Instant{}, &direct.History{}, 0
}

// expire forgets what was found where no look has found anything out for long.
func (l *directLook) expire(now coordination.Instant) {
	if !l.last.Time.IsZero() && l.last.Longest(now) > directGap {
		l.found, l.nobody, l.last = nil, coordination.Instant{}, coordination.Instant{}
	}
}

// direct is what the last looks have found; a new one is begun when it is time.
func (d *driver) direct(ctx context.Context, now coordination.Instant) *failover.DirectView {
	l := &d.looks
	l.mu.Lock()
	defer l.mu.Unlock()
	if d.share.Adoption == nil && l.of == (adoptionID{}) {
		return nil // as for most groups, at each step of a move too
	}
	site := d.share.Active
	if d.share.Adoption == nil || d.share.State != failover.Stable ||
		site != d.c.cfg.Site && d.c.hub.alive(d.c.keys.Ballot(site)) { // the loop there looks
		l.forget(adoptionID{})
		return nil
	}
	of := adoptionID{d.share.Epoch, d.share.Adoption.Since.Round(0).UTC()}
	if l.of != of {
		l.forget(of)
	}
	l.expire(now)
	if !l.running && (l.pause == 0 || l.next.Longest(now) >= l.pause) {
		l.running = true
		seen := l.seen
		d.besides.Go(func() { d.lookDirect(ctx, site, of, seen) })
	}
	return l.found
}

func (d *driver) lookDirect(ctx context.Context, site spillway.SiteID, of adoptionID, seen *direct.History) {
	begun := d.c.cfg.Clock.Now()
	ctx, cancel := context.WithTimeout(ctx, directMax)
	defer cancel()
	leases := func(context.Context) ([]layout.GatewayLease, error) {
		return decodeGateways(d.c.hub.entries(d.c.keys.Gateways())), nil
	}
	look := lookDirect(ctx, d.c.cfg.Sites[site].Cluster, d.c.cfg.Topology, d.group, leases)
	look.History = seen
	found := direct.Judge(d.id.Group, look, d.c.cfg.DirectQuiet)
	l := &d.looks
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running, l.next = false, d.c.cfg.Clock.Now()
	l.pause = max(d.c.cfg.DirectEvery, min(directPart*(begun.Shortest(l.next)-directBetween-directLease), directMax))
	if l.of != of || ctx.Err() != nil {
		return
	}
	l.heed(found, begun, d.c.cfg.DirectQuiet)
}

// heed takes in one more look. Nobody must have been found for all of quiet: a client that is
// started anew is away for a while. A look that could not see everything, and found nobody in
// the rest, says nothing of who is there.
func (l *directLook) heed(found direct.Found, at coordination.Instant, quiet time.Duration) {
	l.expire(at)
	if len(found.Unread) > 0 && found.Count() == 0 { // no look: it does not tell who is there
		known := failover.DirectView{}
		if l.found != nil {
			known = *l.found
		}
		known.None, known.Unread = false, found.String()
		l.found = &known
		return
	}
	l.last = at
	known := &failover.DirectView{Clients: found.Count(), None: found.None(), What: found.String()}
	switch {
	case !found.None():
		l.nobody = coordination.Instant{}
	case l.nobody.Time.IsZero():
		l.nobody = at
		fallthrough
	case l.nobody.Shortest(at) < quiet:
		if l.found != nil && l.found.What != "" {
			known.Clients, known.What = l.found.Clients, l.found.What // one that is away for a while is no news
		} else {
			known.What += fmt.Sprintf(", and that has not held for %s yet", quiet)
		}
		known.None = false
	}
	l.found = known
}
