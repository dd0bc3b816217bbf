package router

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker"
	"spillway/broker/conn"
	"spillway/federation/authentication"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/federation/session"
	"spillway/federation/topicchange"
)

// What clients ask of whole topics is a change of all sites (package topicchange). Here it
// is checked, begun, carried on while the client waits, and answered.

// Administration is what is served beside reading and writing. Which client may do it the
// rights say, where there are any (rights.go).
type Administration int

// Levels, each with what those before it allow.
const (
	NoAdministration    Administration = iota
	TopicAdministration                // create topics, change their settings
)

// Bounds for what one request asks of topics.
const (
	// partitionsMax bounds the partitions of a topic, and what one request creates: a
	// controller takes 10,000 changes at once, and each is a few files at each site.
	partitionsMax = 10_000
	// settingsMax and settingsBytes bound what is set on a new topic: it is in the store
	// until the topic is there.
	settingsMax      = 100
	newSettingsBytes = 16 << 10
	// changesAtOnce bounds the topics of one request that are changed at the same time.
	changesAtOnce = 8
	// changeMax bounds the wait for a change; clients wait for 30 s (request.timeout.ms).
	changeMax = 25 * time.Second
	// lookEvery is between two looks whether something can be done, or is shown.
	lookEvery = 100 * time.Millisecond
	// defaultPartitions is what a topic with the default number of partitions counts for.
	defaultPartitions = 100
	// changesPerSecond and changesBurst bound what all clients of a gateway change, since
	// each change is an entry of the audit log: a client may create a thousand topics at
	// once, and for an hour 20 a second.
	changesPerSecond = 20
	changesBurst     = 1000
	// groupsNamed bounds the failover groups that a refusal names.
	groupsNamed = 5
	// clientNameBytes and principalBytes bound what the audit log has of who asked.
	clientNameBytes = 100
	principalBytes  = 300
)

// topicError is a refusal in Kafka's words.
type topicError struct {
	code    *kerr.Error
	message string
}

func (e *topicError) Error() string { return e.code.Message + ": " + e.message }

func refuse(code *kerr.Error, format string, args ...any) *topicError {
	return &topicError{code, fmt.Sprintf(format, args...)}
}

// errUnread: the site's list of rights was never read, so that nobody can tell whether the
// client may change anything. It asks again.
var errUnread = refuse(kerr.NotController, "what clients may do is not known yet; ask again")

// answerTo puts an error into Kafka's words. What nobody can know any better is told as a
// time-out: the client looks, and asks again. Brokers, and where they are, are named in the
// log only (promise D).
func (r *Router) answerTo(err error) (code int16, message *string) {
	var own *topicError
	var site *kerr.Error
	var fault *conn.Fault
	text := ""
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &own):
		return own.code.Code, &own.message
	case errors.Is(err, topicchange.ErrPending):
		code, text = kerr.RequestTimedOut.Code, topicchange.ErrPending.Error()
	case errors.Is(err, topicchange.ErrGone):
		code, text = kerr.RequestTimedOut.Code, topicchange.ErrGone.Error()
	case errors.Is(err, context.DeadlineExceeded):
		code, text = kerr.RequestTimedOut.Code, "no answer came in time; look what became of it, and ask again"
	case errors.Is(err, topicchange.ErrTooMany):
		code, text = kerr.ThrottlingQuotaExceeded.Code, err.Error() // asked again
	case errors.Is(err, broker.ErrNotAuthorized):
		// The gateway's own rights are too few; the client cannot mend it.
		code, text = kerr.PolicyViolation.Code, "the gateway itself may not do that at the site"
	case errors.Is(err, coordination.ErrUnavailable):
		code, text = kerr.NotController.Code, "the coordinator store does not answer; ask again" // asked again
	case errors.Is(err, topicchange.ErrMoves):
		code, text = kerr.NotController.Code, err.Error() // asked again
	case errors.As(err, &fault):
		code, text = kerr.RequestTimedOut.Code, "the site does not answer; look what became of it, and ask again"
	case errors.As(err, &site):
		code, text = site.Code, err.Error()
	default:
		code, text = kerr.UnknownServerError.Code, "this cannot be done; the log of the gateway says why"
	}
	if code != kerr.ThrottlingQuotaExceeded.Code && site == nil {
		r.changeFailed(err)
	}
	return code, &text
}

// changeFailed tells the log, but for what only shows that the client had no more time.
func (r *Router) changeFailed(err error) {
	for _, ordinary := range []error{topicchange.ErrMoves, topicchange.ErrGone, context.DeadlineExceeded, context.Canceled} {
		if errors.Is(err, ordinary) {
			return
		}
	}
	r.events.changeFailed(err)
}

// who asks, for the audit log. What others have chosen is quoted, so that nothing of it looks
// like the rest.
func (c *Client) who(sreq session.Request) string {
	name := "a client without a name"
	if sreq.HasClientID && sreq.ClientID != "" {
		name = "client " + strconv.QuoteToASCII(sreq.ClientID[:min(len(sreq.ClientID), clientNameBytes)])
	}
	if p := c.login.Principal(); p != "" && p != authentication.Anonymous {
		name = strconv.QuoteToASCII(string(p[:min(len(p), principalBytes)])) + " by " + name
	}
	address := ""
	if a := c.conn.RemoteAddr(); a != nil {
		address = a.String()
		if host, _, err := net.SplitHostPort(address); err == nil {
			address = host
		}
	}
	return fmt.Sprintf("%s at %s, gateway %s", name, address, c.router.config.Gateway)
}

// waitFor is how long a client wants a change to be waited for.
func waitFor(millis int32) time.Duration {
	return min(max(time.Duration(millis)*time.Millisecond, time.Millisecond), changeMax)
}

// topicGroup is the failover group that a topic belongs to by its name, with a refusal
// that helps if there is none.
func (r *Router) topicGroup(name string) (spillway.FailoverGroup, *topicError) {
	if why := badName(name); why != "" {
		return spillway.FailoverGroup{}, refuse(kerr.InvalidTopicException, "topic name %q: %s", name[:min(len(name), topicNameMax)], why)
	}
	if hidden(name) {
		return spillway.FailoverGroup{}, refuse(kerr.PolicyViolation, "topic %s: names that begin with %s belong to each site alone", name, internalTopics)
	}
	g, ok := r.topology.GroupOfTopic(name)
	if !ok {
		return g, refuse(kerr.PolicyViolation, "topic %s belongs to no failover group, so no site would serve it; its name has to match one of them: %s", name, r.groupsByPatterns())
	}
	return g, nil
}

// groupsByPatterns names failover groups with what their topics are called.
func (r *Router) groupsByPatterns() string {
	var words, seen []string
	for _, g := range r.topology.Groups() {
		name := g.Name
		if g.Siblings.Of != "" {
			name = g.Siblings.Of
		}
		if slices.Contains(seen, name) {
			continue
		}
		seen = append(seen, name)
		if len(words) == groupsNamed {
			words = append(words, "and others")
			break
		}
		patterns := g.Topics[:min(len(g.Topics), groupsNamed)]
		words = append(words, fmt.Sprintf("%s (%s)", name, strings.Join(patterns, ", ")))
	}
	return strings.Join(words, "; ")
}

// badName tells why a name is none of a topic, as brokers do; empty if it is one.
func badName(name string) string {
	switch {
	case name == "":
		return "it is empty"
	case name == "." || name == "..":
		return "it cannot be . or .."
	case len(name) > topicNameMax:
		return fmt.Sprintf("it has %d characters, at most %d are allowed", len(name), topicNameMax)
	}
	for _, b := range []byte(name) {
		if !(b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '.' || b == '_' || b == '-') {
			return "only letters, digits, '.', '_' and '-' are allowed"
		}
	}
	return ""
}

// awaitStill waits until a failover group does not move, and tells which site serves it.
func (r *Router) awaitStill(ctx context.Context, group spillway.FailoverGroup) (spillway.SiteID, *topicError) {
	share, ok := r.shares[spillway.ShareID{Group: group.Name}]
	if !ok {
		return "", refuse(kerr.UnknownServerError, "failover group %s is not known to this gateway", group.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, r.config.HoldMax)
	defer cancel()
	for {
		changed := share.Changed()
		if t, serving := share.Serving(); serving && share.Record().State == failover.Stable && r.lease.Held() {
			return t.Site, nil
		}
		select {
		case <-changed:
		case <-time.After(lookEvery): // the lease changes unsaid
		case <-ctx.Done():
			return "", refuse(kerr.NotController, "failover group %s moves to another site; try again", group.Name)
		}
	}
}

// paced waits until the client may change something, see changesPerSecond.
func (r *Router) paced(ctx context.Context) error {
	if err := r.changing.Wait(ctx); err != nil {
		return refuse(kerr.ThrottlingQuotaExceeded, "clients of this gateway change too much: beyond %d changes at once it is %d a second; try again later", changesBurst, changesPerSecond)
	}
	return nil
}

// makeTopic begins a creation and carries it on until it is done or ctx ends.
func (r *Router) makeTopic(ctx context.Context, c topicchange.Change) error {
	if err := r.paced(ctx); err != nil {
		return err
	}
	changes := r.config.Changes
	begun, err := changes.Begin(ctx, c)
	if errors.Is(err, topicchange.ErrUnderWay) {
		// Somebody else was faster; what this one wants is seen when that is done.
		if err := changes.Await(ctx, begun); err != nil {
			return err
		}
		return broker.ErrTopicExists
	}
	if err != nil {
		return err
	}
	return changes.Carry(ctx, begun, true)
}

// TopicChanged has a topic looked up anew, as another gateway has changed it.
func (r *Router) TopicChanged(name string) { r.topics.stale(name) }

// awaitShown waits until this gateway shows a topic.
func (r *Router) awaitShown(ctx context.Context, name string) (md broker.TopicMetadata) {
	for ctx.Err() == nil {
		r.topics.stale(name)
		if md, _ = r.topics.find(ctx, name); len(md.Partitions) > 0 {
			break
		}
		pause(ctx, lookEvery)
	}
	return md
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// atOnce calls f for 0 to n−1, some at the same time.
func atOnce(n int, f func(i int)) {
	slots := make(chan struct{}, changesAtOnce)
	for i := range n {
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			f(i)
		}()
	}
	for range changesAtOnce {
		slots <- struct{}{}
	}
}
