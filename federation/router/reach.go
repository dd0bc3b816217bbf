package router

import (
	"context"
	"sync"
	"time"

	"spillway"
	"spillway/broker"
)

// goal is something for which an upstream connection is looked for, as a rule a partition.
type goal struct {
	site spillway.SiteID
	// find tells which broker has it.
	find func(ctx context.Context) (node int32, err error)

	// What came of it.
	lane *Lane
	err  error
}

// reachOthers is how long a request waits for further brokers once it has reached one. A
// connection that takes longer to be made is made all the same, and there for the next try.
const reachOthers = 500 * time.Millisecond

// reach finds the connections of all goals. Neither do sites wait for one another, nor
// brokers of a site: one that swallows all that is sent to it keeps nobody from the others.
// Where that was so a moment ago, the others do not wait for it at all.
func (ls *lanes) reach(ctx context.Context, kind LaneKind, goals []*goal) {
	whole := ctx
	ctx, cancel := context.WithTimeout(ctx, dialMax)
	defer cancel()
	hasty, one := context.WithCancel(ctx) // ends once one is reached
	defer one()
	var first sync.Once
	var others *time.Timer
	reached := func() { first.Do(func() { one(); others = time.AfterFunc(reachOthers, cancel) }) }
	patience := func(k laneKey) context.Context {
		if ls.slow(k) {
			return hasty
		}
		return ctx
	}
	// Who was cut off since another one was reached was not given the time to be slow: were it
	// called slow anew each time, one that failed once would stay so for as long as others ask.
	cutOff := func(search context.Context) bool { return search == hasty && hasty.Err() != nil && ctx.Err() == nil }
	bySite := make(map[spillway.SiteID][]*goal)
	for _, g := range goals {
		bySite[g.site] = append(bySite[g.site], g)
	}
	var all sync.WaitGroup
	for site, goals := range bySite {
		all.Go(func() {
			anywhere := laneKey{kind, site, broker.AnyNode}
			search := patience(anywhere)
			byNode, told := make(map[int32][]*goal), true
			for _, g := range goals {
				var node int32
				if node, g.err = g.find(search); g.err == nil {
					byNode[node] = append(byNode[node], g)
				} else if search.Err() != nil {
					told = false
				}
			}
			if told || whole.Err() == nil && !cutOff(search) {
				ls.was(anywhere, told)
			}
			for node, goals := range byNode {
				all.Go(func() {
					k := laneKey{kind, site, node}
					search := patience(k)
					lane, err := ls.Lane(search, kind, site, node)
					for _, g := range goals {
						g.lane, g.err = lane, err
					}
					if err == nil || whole.Err() == nil && !cutOff(search) {
						ls.was(k, err == nil)
					}
					if err == nil {
						reached()
					}
				})
			}
		})
	}
	all.Wait()
	if others != nil {
		others.Stop()
	}
}

// slowFor is how long a broker counts as slow. What is not known of it is looked for once in
// that time, and nobody else waits longer than reachOthers for that.
const slowFor = 2 * time.Second

// slow tells whether a broker, or AnyNode of a site, could not be reached a moment ago.
func (ls *lanes) slow(k laneKey) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	at, was := ls.mu.slow[k]
	return was && time.Since(at) < slowFor
}

func (ls *lanes) was(k laneKey, reached bool) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	switch {
	case reached:
		delete(ls.mu.slow, k)
	case ls.mu.slow == nil:
		ls.mu.slow = map[laneKey]time.Time{k: time.Now()}
	default:
		ls.mu.slow[k] = time.Now()
	}
}

// changes tell when the shares of a request change; each is closed at the next change. Ask
// for them before looking at the shares.
type changes map[*Share]<-chan struct{}

// partOfShare is a part of a request; its share is nil if there is none.
type partOfShare interface{ ofShare() *Share }

func changesOf[P partOfShare](parts []P) changes {
	c := make(changes)
	for _, p := range parts {
		if s := p.ofShare(); s != nil && c[s] == nil {
			c[s] = s.Changed()
		}
	}
	return c
}

// untilChanged returns a context that ends when the share of any of the parts changes: a share
// that moves takes with it what waits for its site, and nothing else.
func untilChanged[P partOfShare](ctx context.Context, c changes, parts []P) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	watched := make(map[*Share]bool, 1)
	for _, p := range parts {
		s := p.ofShare()
		if s == nil || watched[s] {
			continue
		}
		watched[s] = true
		go func() {
			select {
			case <-c[s]:
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	return ctx, cancel
}

func (p *fetchPart) ofShare() *Share { return p.share }

func (p *part) ofShare() *Share { return p.share }
