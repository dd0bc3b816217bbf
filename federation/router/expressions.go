package router

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/federation/authorization"
)

// Expressions by which members of consumer groups subscribe (KIP-848). Where rights are looked
// at, the site's coordinator never sees them: it would go through its topics as the gateway
// that asks, and give members what they may not know of. It gets the names of the topics.
//
//	A  the coordinator is told of no topic that the member may not describe, and of each
//	   that it may, matches, and is of a failover group, soon after that is so
//	B  a topic that nobody can tell of now, as its site is away, stays as the coordinator
//	   was last told: a group does not rebalance for what a gateway does not know
//	C  what the coordinator has of a member is what this gateway told it last; where it
//	   does not know that, it asks the member to say all that it wants

// Bounds of one expression, and for how many are remembered.
const (
	expressionBytesMax = 1024
	// expressionStepsMax is of what it is compiled to: a few bytes may say "a thousand times".
	expressionStepsMax = 2000
	expressionsMax     = 256
	// besideBytesMax is of topics that a member names beside its expression.
	besideBytesMax = 64 << 10
)

// expression is what a member sent, compiled. RE2J, which brokers use, and Go's regexp are
// both RE2: they differ in names of Unicode classes and the like.
type expression struct {
	compiled *regexp.Regexp

	mu struct {
		sync.Mutex
		looked time.Time
		names  []string // sorted; of the topics that match, as known when looked
		told   []string // what a member was given last: equal lists are one in memory
	}

	used time.Time // guarded by expressions
}

func newExpression(text string) (*expression, error) {
	if len(text) > expressionBytesMax {
		return nil, fmt.Errorf("the expression has %d bytes, and %d are the most", len(text), expressionBytesMax)
	}
	parsed, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil, err
	}
	if program, err := syntax.Compile(parsed.Simplify()); err != nil {
		return nil, err
	} else if n := len(program.Inst); n > expressionStepsMax {
		return nil, fmt.Errorf("the expression comes to %d steps, and %d are the most", n, expressionStepsMax)
	}
	e := &expression{}
	if e.compiled, err = regexp.Compile(text); err != nil {
		return nil, err
	}
	e.compiled.Longest() // so that it tells whether all of a name can match
	return e, nil
}

// matches tells whether all of a name does, as brokers ask.
func (e *expression) matches(name string) bool {
	at := e.compiled.FindStringIndex(name)
	return at != nil && at[0] == 0 && at[1] == len(name)
}

// matching are the names of the topics that match, as their sites have told so far.
func (e *expression) matching(t *topics) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if newest := t.nudge(); e.mu.names == nil || !newest.Before(e.mu.looked) {
		e.mu.looked, e.mu.names = time.Now(), []string{}
		for _, md := range t.all(ended) {
			if e.matches(md.Name) {
				e.mu.names = append(e.mu.names, md.Name)
			}
		}
		slices.Sort(e.mu.names)
	}
	return e.mu.names
}

// keep is a list of topics that a member is given.
func (e *expression) keep(names []string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !slices.Equal(e.mu.told, names) {
		e.mu.told = names
	}
	return e.mu.told
}

// expressions remembers those that members use: there are few, and many members.
type expressions struct {
	mu    sync.Mutex
	known map[string]*expression
}

func (x *expressions) of(text string) (*expression, error) {
	if e := x.find(text); e != nil {
		return e, nil
	}
	e, err := newExpression(text)
	if err != nil {
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.known == nil {
		x.known = make(map[string]*expression)
	}
	if len(x.known) >= expressionsMax {
		oldest := ""
		for text, e := range x.known {
			if oldest == "" || e.used.Before(x.known[oldest].used) {
				oldest = text
			}
		}
		delete(x.known, oldest)
	}
	e.used = time.Now()
	x.known[text] = e
	return e, nil
}

func (x *expressions) find(text string) *expression {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.known[text]
	if e != nil {
		e.used = time.Now()
	}
	return e
}

// ended is for who takes what is known, and has the rest asked for.
var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// nudge has the sites asked for their topics whose answer is old, and waits for none. It
// tells when one answered last.
func (t *topics) nudge() (newest time.Time) {
	for _, site := range t.router.homes.lately(t) {
		if site != "" {
			t.at(ended, site, t.router.config.MetadataMax)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.mu.bySite {
		if s.at.After(newest) {
			newest = s.at
		}
	}
	return newest
}

// await waits for sites that have never told of their topics, as long as one may take.
func (t *topics) await(ctx context.Context) {
	t.nudge()
	ctx, cancel := context.WithTimeout(ctx, topicsAskMax)
	defer cancel()
	for _, site := range t.router.homes.lately(t) {
		if site != "" && !t.heard(site) {
			t.at(ctx, site, t.router.config.MetadataMax)
		}
	}
}

// subscription is what a member reads. It is never changed, but replaced.
type subscription struct {
	expression string   // empty: it reads what it names, and the coordinator knows that alone
	names      []string // that it gave beside the expression
	topics     []string // sorted; of the expression, as the coordinator was told last
	sure       bool     // the coordinator has answered that
}

// byNames is that of all members without an expression.
var byNames = &subscription{}

// errSayAll: the member is to say all that it wants.
var errSayAll = errors.New("what the member wants is not known here")

// subscribe makes of what a member sends what the site's coordinator gets. next is what is to be
// remembered once that has taken it.
func (c *Client) subscribe(ctx context.Context, req, up *kmsg.ConsumerGroupHeartbeatRequest) (next *subscription, _ error) {
	if !c.checked() || req.Version < 1 { // which has no expressions
		return byNames, nil
	}
	up.SubscribedTopicRegex = nil
	if req.MemberEpoch < 0 { // it leaves
		return byNames, nil
	}
	ms := c.router.members
	last := ms.subscription(req.Group, req.MemberID)
	var had []string // before it joined anew, perhaps
	if last != nil {
		had = last.topics
	}
	if req.MemberEpoch == 0 {
		last = byNames
	}
	if saysTooLittle(req, last) && ms.sayAll(req.Group, req.MemberID) {
		return nil, errSayAll
	}
	if last == nil {
		last = byNames
	}
	now := *last
	if req.SubscribedTopicNames != nil {
		now.names = req.SubscribedTopicNames
	}
	if req.SubscribedTopicRegex != nil {
		now.expression = *req.SubscribedTopicRegex
	}
	if now.expression == "" {
		if last.expression != "" { // and its topics go
			up.SubscribedTopicNames = append([]string{}, now.names...)
		}
		up.SubscribedTopicRegex = req.SubscribedTopicRegex
		return byNames, nil
	}
	if n := bytesOfAll(now.names); n > besideBytesMax {
		return nil, fmt.Errorf("the member names topics of %d bytes beside its expression, and %d are the most", n, besideBytesMax)
	}
	e, err := c.router.expressions.of(now.expression)
	if err != nil {
		return nil, err
	}
	if isWhole(req) {
		c.router.topics.await(ctx)
	}
	now.topics = e.keep(c.describedBy(e, had))
	if changed := req.SubscribedTopicNames != nil || req.SubscribedTopicRegex != nil; !changed && last.sure && slices.Equal(now.topics, last.topics) {
		return last, nil
	}
	up.SubscribedTopicNames = append(append([]string{}, now.names...), now.topics...)
	slices.Sort(up.SubscribedTopicNames)
	up.SubscribedTopicNames = slices.Compact(up.SubscribedTopicNames)
	if req.SubscribedTopicRegex != nil {
		up.SubscribedTopicRegex = new(string) // of before rights were looked at
	}
	now.sure = true
	if last != byNames { // until it has answered
		unsure := *last
		unsure.sure = false
		ms.subscribe(req.Group, req.MemberID, &unsure)
	}
	return &now, nil
}

// describedBy are the topics that match and that the client may know of, and those of had that
// nobody can tell of.
func (c *Client) describedBy(e *expression, had []string) []string {
	names, t := []string{}, c.router.topics
	for _, name := range e.matching(t) {
		v := c.describes(name)
		_, told := slices.BinarySearch(had, name)
		if v == authorization.Allowed || v == authorization.Unknown && told {
			names = append(names, name)
		}
	}
	for _, name := range had {
		if share, ok := c.router.ShareOf(spillway.TopicPartition{Topic: name}); ok && !t.heard(home(share)) && e.matches(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// saysTooLittle tells whether a member leaves out what this gateway does not know: it came
// from another one, or this one has begun anew.
func saysTooLittle(req *kmsg.ConsumerGroupHeartbeatRequest, last *subscription) bool {
	names, expression := req.SubscribedTopicNames != nil, req.SubscribedTopicRegex != nil
	switch {
	case req.MemberEpoch == 0 || isWhole(req):
		return false
	case last == nil:
		return !names || !expression
	default: // names are remembered beside expressions alone
		return last == byNames && !names && expression && *req.SubscribedTopicRegex != ""
	}
}

// isWhole tells the requests of members that join, or have had an error: they say all. Kafka's
// coordinator tells them so, and answers with the whole assignment.
func isWhole(req *kmsg.ConsumerGroupHeartbeatRequest) bool {
	return req.MemberEpoch == 0 || req.RebalanceTimeoutMillis != -1 && req.Topics != nil && (req.SubscribedTopicNames != nil || req.SubscribedTopicRegex != nil)
}

func bytesOfAll(names []string) (n int) {
	for _, name := range names {
		n += len(name)
	}
	return n
}

// subscription is what this gateway knows that a member reads; nil: nothing.
func (m *members) subscription(group, id string) *subscription {
	m.mu.Lock()
	defer m.mu.Unlock()
	if mb := m.mu.byGroup[group][id]; mb != nil {
		return mb.subscribed
	}
	return nil
}

// subscribe notes what a member reads, and is a sign of life.
func (m *members) subscribe(group, id string, s *subscription) {
	m.update(group, id, func(mb *member) { mb.subscribed, mb.asked = s, false })
}

// sayAll tells whether a member is to be asked to say all that it wants: once, as one that
// does not would be asked for ever.
func (m *members) sayAll(group, id string) (ask bool) {
	m.update(group, id, func(mb *member) { ask, mb.asked = !mb.asked, true })
	return ask
}

// unsubscribed is the answer to a member that subscribe has nothing for.
func unsubscribed(resp *kmsg.ConsumerGroupHeartbeatResponse, err error) kmsg.Response {
	if resp.ErrorCode = kerr.CoordinatorLoadInProgress.Code; !errors.Is(err, errSayAll) { // at which all clients say all
		why := err.Error()
		resp.ErrorCode, resp.ErrorMessage = kerr.InvalidRegularExpression.Code, &why
	}
	return resp
}
