package router

import (
	"context"
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
		for site := range c.router.topics.homes() {
			groups, err := c.listGroups(ctx, site, req, every == authorization.Allowed)
			if err != nil {
				resp.ErrorCode = kerr.CoordinatorNotAvailable.Code
			}
			resp.Groups = append(resp.Groups, groups...)
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

// listGroups asks every broker of a site.
func (c *Client) listGroups(ctx context.Context, site spillway.SiteID, req *kmsg.ListGroupsRequest, every bool) ([]kmsg.ListGroupsResponseGroup, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	md, err := c.router.sites[site].Metadata(ctx)
	if err != nil {
		return nil, err
	}
	var found []kmsg.ListGroupsResponseGroup
	for _, node := range md.Nodes {
		lane, err := c.lanes.Lane(ctx, OtherLane, site, node.ID)
		if err != nil {
			return found, err
		}
		up := kmsg.NewPtrListGroupsRequest()
		up.Version = min(req.Version, lane.conn.MaxVersion(up.Key()))
		up.StatesFilter, up.TypesFilter = req.StatesFilter, req.TypesFilter
		got, err := c.lanes.ask(ctx, lane, up)
		if err != nil {
			return found, err
		}
		listed := got.(*kmsg.ListGroupsResponse)
		if err := kerr.ErrorForCode(listed.ErrorCode); err != nil {
			return found, err // a coordinator that has just begun does not know its groups
		}
		for _, g := range listed.Groups {
			if s, ok := c.router.GroupShare(g.Group); ok && home(s) == site && (every || c.mayQuietly(authorization.Describe, authorization.Group, g.Group, s)) {
				found = append(found, g)
			}
		}
	}
	return found, nil
}
