package router

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/federation/session"
)

// DescribeConfigs (32). v1 synonyms; v3 documentation and types; v4 flexible.
//
// Settings of topics, as the site has them that serves the share. Left out:
// settings that name brokers of the site, and those of brokers, groups and client
// metrics, which are a site's own.
var describeConfigsAPI = api{
	key: 32, min: 1, max: 4, needs: 1, begin: (*Client).beginDescribeConfigs,
	treatment: forwarded, about: "Settings of topics, read alone. Those of brokers and groups are refused.",
}

// describeConfigsMax bounds the wait for one site.
const describeConfigsMax = 5 * time.Second

// ofBrokers are the settings of a topic that name brokers (KIP-73).
var ofBrokers = []string{"leader.replication.throttled.replicas", "follower.replication.throttled.replicas"}

func (c *Client) beginDescribeConfigs(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrDescribeConfigsRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	return func(ctx context.Context) ([]byte, error) { return c.describeConfigs(ctx, req).AppendTo(nil), nil }, nil
}

func (c *Client) describeConfigs(ctx context.Context, req *kmsg.DescribeConfigsRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.DescribeConfigsResponse)
	resp.Resources = make([]kmsg.DescribeConfigsResponseResource, len(req.Resources))
	bySite := make(map[spillway.SiteID][]int)
	for i, asked := range req.Resources {
		out := &resp.Resources[i]
		*out = kmsg.NewDescribeConfigsResponseResource()
		out.ResourceType, out.ResourceName = asked.ResourceType, asked.ResourceName
		if asked.ResourceType != kmsg.ConfigResourceTypeTopic {
			out.ErrorCode = kerr.InvalidRequest.Code
			out.ErrorMessage = kmsg.StringPtr(fmt.Sprintf("settings of a %s are a site's own; ask there", asked.ResourceType))
			continue
		}
		share, ok := c.router.ShareOf(spillway.TopicPartition{Topic: asked.ResourceName})
		if !ok {
			out.ErrorCode = kerr.UnknownTopicOrPartition.Code
			continue
		}
		out.ErrorCode = kerr.LeaderNotAvailable.Code // until the site has answered; clients ask again
		bySite[home(share)] = append(bySite[home(share)], i)
	}
	for site, indices := range bySite {
		c.describeAt(ctx, site, req, indices, resp)
	}
	return resp
}

// describeAt fills in what one site knows.
func (c *Client) describeAt(ctx context.Context, site spillway.SiteID, req *kmsg.DescribeConfigsRequest, indices []int, resp *kmsg.DescribeConfigsResponse) {
	ctx, cancel := context.WithTimeout(ctx, describeConfigsMax)
	defer cancel()
	lane, err := c.lanes.Lane(ctx, OtherLane, site, broker.AnyNode)
	if err != nil {
		return
	}
	up := kmsg.NewPtrDescribeConfigsRequest()
	up.Version = min(req.Version, lane.conn.MaxVersion(up.Key()))
	up.IncludeSynonyms, up.IncludeDocumentation = req.IncludeSynonyms, req.IncludeDocumentation
	for _, i := range indices {
		asked := kmsg.NewDescribeConfigsRequestResource()
		asked.ResourceType, asked.ResourceName, asked.ConfigNames = req.Resources[i].ResourceType, req.Resources[i].ResourceName, req.Resources[i].ConfigNames
		up.Resources = append(up.Resources, asked)
	}
	got, err := lane.conn.DoVersion(ctx, up)
	if err != nil {
		return
	}
	found := make(map[string]kmsg.DescribeConfigsResponseResource)
	for _, r := range got.(*kmsg.DescribeConfigsResponse).Resources {
		r.Configs = slices.DeleteFunc(r.Configs, func(s kmsg.DescribeConfigsResponseResourceConfig) bool { return slices.Contains(ofBrokers, s.Name) })
		found[r.ResourceName] = r
	}
	for _, i := range indices {
		if r, ok := found[req.Resources[i].ResourceName]; ok {
			r.ResourceType = req.Resources[i].ResourceType
			resp.Resources[i] = r
		}
	}
}
