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
		for site, listed := range c.listGroups(ctx, req) {
			if listed.err != nil {
				resp.ErrorCode = kerr.CoordinatorNotAvailable.Code
			}
			for _, g := range listed.groups {
				if s, ok := c.router.GroupShare(g.Group); ok && home(s) == site && (every == authorization.Allowed || c.mayQuietly(authorization.Describe, authorization.Group, g.Group, s)) {
					resp.Groups = append(resp.Groups, g)
				}
			}
		}
		if resp.ErrorCode != 0 {
			resp.Groups = nil // a part would pass for all of them
		}
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

// listGroupsMax is for all brokers of all sites to answer in.
const listGroupsMax = 5 * time.Second

// siteGroups are the groups that a site knows, of failover groups or not.
type siteGroups struct {
	groups []kmsg.ListGroupsResponseGroup
	err    error
}

// listGroups asks all sites at once.
func (c *Client) listGroups(ctx context.Context, req *kmsg.ListGroupsRequest) map[spillway.SiteID]*siteGroups {
	ctx, cancel := context.WithTimeout(ctx, listGroupsMax)
	defer cancel()
	bySite := make(map[spillway.SiteID]*siteGroups)
	var all sync.WaitGroup
	for site := range c.router.topics.homes() {
		listed := new(siteGroups)
		bySite[site] = listed
		all.Go(func() { listed.groups, listed.err = c.groupsAt(ctx, site, req) })
	}
	all.Wait()
	return bySite
}

// groupsAt asks every broker of a site.
func (c *Client) groupsAt(ctx context.Context, site spillway.SiteID, req *kmsg.ListGroupsRequest) ([]kmsg.ListGroupsResponseGroup, error) {
	md, err := c.router.sites[site].Metadata(ctx)
	if err != nil {
		return nil, err
	}
	byNode := make([]siteGroups, len(md.Nodes))
	var all sync.WaitGroup
	for i, node := range md.Nodes {
		all.Go(func() { byNode[i].groups, byNode[i].err = c.groupsOf(ctx, site, node.ID, req) })
	}
	all.Wait()
	var found siteGroups
	for _, one := range byNode {
		found.groups, found.err = append(found.groups, one.groups...), cmp.Or(found.err, one.err)
	}
	return found.groups, found.err
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
