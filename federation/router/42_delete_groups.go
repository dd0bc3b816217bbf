package router

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/federation/groupdeletion"
	"spillway/federation/session"
)

// DeleteGroups (42). v1 throttling; v2 flexible.
//
// A group is deleted at the site that serves it, and then at the others, which have copies
// of its positions (package groupdeletion). The answer comes when the first has done it.
var deleteGroupsAPI = api{
	key: 42, min: 0, max: 2, needs: 0, begin: (*Client).beginDeleteGroups,
	level: AllAdministration, treatment: answeredHere, about: "With gateway.administration: all. At the site that serves the group; then at the others, which have copies of its positions.",
}

func (c *Client) beginDeleteGroups(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrDeleteGroupsRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	who := c.who(sreq)
	return func(ctx context.Context) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, changeMax)
		defer cancel()
		resp := req.ResponseKind().(*kmsg.DeleteGroupsResponse)
		resp.Groups = make([]kmsg.DeleteGroupsResponseGroup, len(req.Groups))
		named := make(map[string]int)
		for _, group := range req.Groups {
			named[group]++
		}
		atOnce(len(req.Groups), func(i int) {
			out := kmsg.NewDeleteGroupsResponseGroup()
			out.Group = req.Groups[i]
			if named[out.Group] > 1 {
				out.ErrorCode = kerr.InvalidRequest.Code
			} else {
				out.ErrorCode, _ = groupAnswer(c.router.deleteOfGroup(ctx, groupdeletion.Deletion{Group: out.Group, Who: who}))
			}
			resp.Groups[i] = out
		})
		return resp.AppendTo(nil), nil
	}, nil
}

// deletionsAside bounds the deletions of groups that go on at the sites that follow at the
// same time. What is beyond is left to the control loops.
const deletionsAside = 8

// deleteOfGroup does it at the site that serves the group, and has it done at the others.
func (r *Router) deleteOfGroup(ctx context.Context, d groupdeletion.Deletion) error {
	share, ok := r.GroupShare(d.Group)
	switch {
	case d.Group == "" || len(d.Group) > groupdeletion.GroupBytesMax:
		return refuse(kerr.InvalidGroupID, "consumer group %s: names have 1 to %d bytes", short(d.Group), groupdeletion.GroupBytesMax)
	case !ok:
		return refuse(kerr.GroupIDNotFound, "consumer group %s belongs to no failover group", short(d.Group))
	}
	d.Share = share.Group.Name
	if _, refusal := r.awaitStill(ctx, share.Group); refusal != nil {
		return refuse(kerr.CoordinatorNotAvailable, "%s", refusal.message)
	}
	if err := r.paced(ctx); err != nil {
		return err
	}
	groups := r.config.Groups
	d, err := groups.Begin(ctx, d)
	if err != nil {
		return err
	}
	if d, err = groups.AtHome(ctx, d); err != nil {
		return err
	}
	select {
	case r.deleting <- struct{}{}:
		r.background.Go(func() {
			defer func() { <-r.deleting }()
			_ = groups.Elsewhere(r.ctx, d) // what is left a control loop carries on
		})
	default: // it carries on all of it
	}
	return nil
}

// groupAnswer puts an error about a group into Kafka's words.
func groupAnswer(err error) (int16, *string) {
	if errors.Is(err, groupdeletion.ErrMoved) || errors.Is(err, groupdeletion.ErrUnderWay) {
		return kerr.CoordinatorNotAvailable.Code, nil // asked again
	}
	return answerTo(err)
}
