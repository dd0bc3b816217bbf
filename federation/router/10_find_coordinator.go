package router

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/federation/authorization"
	"spillway/federation/session"
)

// FindCoordinator (10). v1 key type; v3 flexible; v4 several keys; v6 share
// groups.
//
// A coordinator is one of the virtual nodes that Metadata lists, under the same
// id (docs/decisions/0005). Left out: transactional ids and share groups. A
// group that no failover group names has no home.
var findCoordinatorAPI = api{
	key: 10, min: 0, max: 6, needs: 0, begin: (*Client).beginFindCoordinator,
	treatment: answeredHere, about: "A gateway, for groups that a failover group names. Transactional ids and share groups are refused.",
}

func (c *Client) beginFindCoordinator(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrFindCoordinatorRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	resp := req.ResponseKind().(*kmsg.FindCoordinatorResponse)
	if req.Version < 4 {
		found := c.coordinator(req.CoordinatorType, req.CoordinatorKey)
		resp.ErrorCode, resp.ErrorMessage = found.ErrorCode, found.ErrorMessage
		resp.NodeID, resp.Host, resp.Port = found.NodeID, found.Host, found.Port
		return reply(resp), nil
	}
	for _, key := range req.CoordinatorKeys {
		resp.Coordinators = append(resp.Coordinators, c.coordinator(req.CoordinatorType, key))
	}
	return reply(resp), nil
}

func (c *Client) coordinator(kind int8, key string) kmsg.FindCoordinatorResponseCoordinator {
	r := c.router
	found := kmsg.NewFindCoordinatorResponseCoordinator()
	found.Key, found.NodeID, found.Port = key, -1, -1
	refuse := func(err *kerr.Error, why string) kmsg.FindCoordinatorResponseCoordinator {
		r.events.refused("coordinator")
		found.ErrorCode, found.ErrorMessage = err.Code, &why
		return found
	}
	switch kind {
	case 0:
	case 1:
		return refuse(kerr.TransactionalIDAuthorizationFailed, "transactions are not served by this virtual cluster")
	default:
		return refuse(kerr.InvalidRequest, fmt.Sprintf("coordinators of type %d are not served by this virtual cluster", kind))
	}
	share, ok := r.GroupShare(key)
	switch c.may(authorization.Describe, authorization.Group, key, share) {
	case authorization.Denied:
		return refuse(kerr.GroupAuthorizationFailed, kerr.GroupAuthorizationFailed.Description)
	case authorization.Unknown:
		return refuse(kerr.CoordinatorNotAvailable, "what clients may do is not known yet")
	}
	if !ok {
		return refuse(kerr.GroupAuthorizationFailed, fmt.Sprintf("consumer group %q belongs to no failover group; add it to consumerGroups of one", key))
	}
	n, ok := r.layout.Current().Coordinator(share.ID, key)
	if !ok {
		return refuse(kerr.CoordinatorNotAvailable, "no gateway is laid out yet")
	}
	found.NodeID, found.Host, found.Port = n.ID, n.Host, n.Port
	return found
}
