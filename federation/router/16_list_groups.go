package router

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/federation/authorization"
	"spillway/federation/session"
)

// ListGroups (16). v3 flexible; v4 states; v5 types.
//
// Groups of failover groups alone, each as the site that serves it knows it.
var listGroupsAPI = api{
	key: 16, min: 0, max: 5, needs: 0, begin: (*Client).beginListGroups,
	treatment: forwarded, about: "Groups of failover groups alone, each as the site that serves it knows it.",
}

func (c *Client) beginListGroups(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrListGroupsRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	return func(ctx context.Context) ([]byte, error) {
		resp := req.ResponseKind().(*kmsg.ListGroupsResponse)
		every := c.listsAll()
		if every == authorization.Unknown { // none, or some, would pass for all of them
			resp.ErrorCode = kerr.CoordinatorNotAvailable.Code
			return resp.AppendTo(nil), nil
		}
		// As of one moment: a group that moves meanwhile is neither left out nor there twice.
		homes, sites := make(map[*Share]spillway.SiteID), make(map[spillway.SiteID]bool)
		for _, share := range c.router.shares {
			site := home(share)
			if homes[share] = site; c.router.sites[site] != nil {
				sites[site] = true
			}
		}
		groups, err := c.listGroups(ctx, req, sites, func(site spillway.SiteID, group string) bool {
			s, ok := c.router.GroupShare(group)
			return ok && homes[s] == site && (every == authorization.Allowed || c.mayQuietly(authorization.Describe, authorization.Group, group, s))
		})
		if err != nil { // a part would pass for all of them
			resp.ErrorCode, groups = kerr.CoordinatorNotAvailable.Code, nil
		}
		resp.Groups = groups
		return resp.AppendTo(nil), nil
	}, nil
}

// listsAll tells whether the client may know of all groups. Who may not sees those that it
// may describe. The right is one for the cluster, which counts at any site.
func (c *Client) listsAll() authorization.Verdict {
	if !c.checked() {
		return authorization.Allowed
	}
	return c.decide(authorization.Describe, authorization.Cluster, authorization.ClusterName, nil).Decision.Verdict
}

const (
	listGroupsMax    = 5 * time.Second // for all brokers of all sites to answer in
	listGroupsAtOnce = 16              // brokers that are asked at the same time
)

// listing is what brokers have told so far.
type listing struct {
	client *Client
	req    *kmsg.ListGroupsRequest
	slots  chan struct{} // one for each broker that is being asked

	mu     sync.Mutex
	shows  func(site spillway.SiteID, group string) bool // the client is told of it; called with mu held
	groups []kmsg.ListGroupsResponseGroup                // those alone: sites may have many others
	err    error
}

// listGroups asks all sites at once. An error: some groups are missing.
func (c *Client) listGroups(ctx context.Context, req *kmsg.ListGroupsRequest, sites map[spillway.SiteID]bool, shows func(spillway.SiteID, string) bool) ([]kmsg.ListGroupsResponseGroup, error) {
	ctx, cancel := context.WithTimeout(ctx, listGroupsMax)
	defer cancel()
	l := &listing{client: c, req: req, slots: make(chan struct{}, listGroupsAtOnce), shows: shows}
	var all sync.WaitGroup
	for site := range sites {
		all.Go(func() { l.site(ctx, site) })
	}
	all.Wait()
	return l.groups, l.err
}

// site asks every broker of a site.
func (l *listing) site(ctx context.Context, site spillway.SiteID) {
	md, err := l.client.router.sites[site].Metadata(ctx)
	if err != nil {
		l.take(site, nil, err)
		return
	}
	var all sync.WaitGroup
	defer all.Wait()
	for _, node := range md.Nodes {
		select {
		case l.slots <- struct{}{}:
		case <-ctx.Done():
			l.take(site, nil, ctx.Err())
			return
		}
		all.Go(func() {
			defer func() { <-l.slots }()
			groups, err := l.client.groupsOf(ctx, site, node.ID, l.req)
			l.take(site, groups, err)
		})
	}
}

// take keeps of an answer what the client is told.
func (l *listing) take(site spillway.SiteID, groups []kmsg.ListGroupsResponseGroup, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err = cmp.Or(l.err, err); l.err != nil {
		l.groups = nil
		return
	}
	for _, g := range groups {
		if l.shows(site, g.Group) {
			l.groups = append(l.groups, g)
		}
	}
}

// groupsOf asks one broker. One that has just begun to coordinate groups does not know them.
func (c *Client) groupsOf(ctx context.Context, site spillway.SiteID, node int32, req *kmsg.ListGroupsRequest) ([]kmsg.ListGroupsResponseGroup, error) {
	lane, err := c.lanes.Lane(ctx, OtherLane, site, node)
	if err != nil {
		return nil, err
	}
	up := kmsg.NewPtrListGroupsRequest()
	up.Version = min(req.Version, lane.conn.MaxVersion(up.Key()))
	up.StatesFilter, up.TypesFilter = req.StatesFilter, req.TypesFilter
	got, err := c.lanes.ask(ctx, lane, up)
	if err != nil {
		return nil, err
	}
	listed := got.(*kmsg.ListGroupsResponse)
	return listed.Groups, kerr.ErrorForCode(listed.ErrorCode)
}
