package router

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/federation/session"
)

// DescribeCluster (60). v1 endpoint type (KIP-919), v2 fenced brokers. The
// virtual cluster's nodes; there are no controllers to list.
var describeClusterAPI = api{
	key: 60, min: 0, max: 2, needs: -1, begin: (*Client).beginDescribeCluster,
	treatment: answeredHere, about: "Gateways as brokers; no controllers.",
}

func (c *Client) beginDescribeCluster(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrDescribeClusterRequest()
	req.EndpointType = 1 // brokers, for version 0
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	resp := req.ResponseKind().(*kmsg.DescribeClusterResponse)
	resp.ClusterID, resp.EndpointType = c.router.topology.ClusterID(), req.EndpointType
	if req.EndpointType != 1 {
		resp.ErrorCode = kerr.UnsupportedEndpointType.Code
		return reply(resp), nil
	}
	for i, n := range c.router.layout.Current().Nodes {
		if i == 0 {
			resp.ControllerID = n.ID
		}
		b := kmsg.NewDescribeClusterResponseBroker()
		b.NodeID, b.Host, b.Port, b.Rack = n.ID, n.Host, n.Port, kmsg.StringPtr(string(n.Site))
		resp.Brokers = append(resp.Brokers, b)
	}
	return reply(resp), nil
}
