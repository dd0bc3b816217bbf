package router

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker"
	"spillway/federation/authorization"
	"spillway/federation/session"
)

// FindCoordinator (10). v1 key type; v3 flexible; v4 several keys; v6 share
// groups.
//
// A coordinator is one of the virtual nodes that Metadata lists, under the same
// id (docs/decisions/0005). Left out: share groups. A group or transactional id that no
// failover group names has no home.
var findCoordinatorAPI = api{
	key: 10, min: 0, max: 6, needs: 0, begin: (*Client).beginFindCoordinator,
	treatment: answeredHere, about: "A gateway, for groups and transactional ids that a failover group names. Share groups are refused.",
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
	var share *Share
	var ok bool
	var of authorization.Kind
	var denied *kerr.Error
	var homeless string // why nobody coordinates it
	switch broker.CoordinatorKind(kind) {
	case broker.GroupCoordinator:
		share, ok = r.GroupShare(key)
		of, denied, homeless = authorization.Group, kerr.GroupAuthorizationFailed, "consumer group %q belongs to no failover group; add it to consumerGroups of one"
	case broker.TransactionCoordinator:
		share, ok = r.TransactionShare(key)
		of, denied, homeless = authorization.TransactionalID, kerr.TransactionalIDAuthorizationFailed, "transactional id %q belongs to no failover group; add it to transactionalIds of one"
	default:
		return refuse(kerr.InvalidRequest, fmt.Sprintf("coordinators of type %d are not served by this virtual cluster", kind))
	}
	switch c.may(authorization.Describe, of, key, share) {
	case authorization.Denied:
		return refuse(denied, denied.Description)
	case authorization.Unknown:
		return refuse(kerr.CoordinatorNotAvailable, "what clients may do is not known yet")
	case authorization.Allowed:
	}
	if !ok {
		return refuse(denied, fmt.Sprintf(homeless, key))
	}
	n, ok := r.layout.Current().Coordinator(share.ID, key)
	if !ok {
		return refuse(kerr.CoordinatorNotAvailable, "no gateway is laid out yet")
	}
	found.NodeID, found.Host, found.Port = n.ID, n.Host, n.Port
	return found
}
