package router

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/federation/authorization"
	"spillway/federation/session"
	"spillway/mirror/offsetmap"
)

// OffsetCommit (8). v5 no retention time; v6 leader epoch; v7 static members;
// v8 flexible; v9 KIP-848; v10 topic ids.
//
// A position is stored at the site in the site's own numbers, and the exact
// virtual one in front of the client's metadata (C16). Leader epochs are not
// stored. Commits pass while groups drain; a move waits for those on their way.
var offsetCommitAPI = api{
	key: 8, min: 2, max: 10, needs: 2, begin: (*Client).beginOffsetCommit,
	treatment: translated, about: "Stored in the site's own offsets, the exact virtual one in front of the metadata.",
}

const (
	offsetCommitUpstreamMax = 9
	// commitMetadataMax is Kafka's offset.metadata.max.bytes, less the prefix.
	commitMetadataMax = 4096 - offsetmap.CommitPrefixMax
)

func (c *Client) beginOffsetCommit(_ context.Context, sreq session.Request) (session.Answer, error) {
	req := kmsg.NewPtrOffsetCommitRequest()
	if err := decode(sreq, req); err != nil {
		return nil, err
	}
	mark := c.router.members.mark()
	return func(ctx context.Context) ([]byte, error) {
		return c.offsetCommit(ctx, req, mark).AppendTo(nil), nil
	}, nil
}

func (c *Client) offsetCommit(ctx context.Context, req *kmsg.OffsetCommitRequest, mark uint64) *kmsg.OffsetCommitResponse {
	share, ok := c.router.GroupShare(req.Group)
	code := c.groupCode(authorization.Read, req.Group, share)
	cm := c.newCommit(ctx, req, code)
	if code == 0 && !ok {
		return cm.refuse(kerr.GroupAuthorizationFailed.Code)
	} else if code != 0 {
		return cm.resp
	}
	if !c.whileHeld(ctx, share, c.holdUntil(share), func() attempt {
		code = kerr.CoordinatorLoadInProgress.Code
		t, serving := share.Serving()
		if !serving {
			return moving
		}
		up, ready := cm.upstream(share, t)
		switch {
		case !ready:
			return soon // the site's map will tell
		case len(up.Topics) == 0:
			return done
		}
		got, err := c.coordinate(ctx, groupCall{share: share, group: req.Group, req: up, counted: true})
		switch attemptOf(err) {
		case done:
			committed := got.(*kmsg.OffsetCommitResponse)
			cm.take(share, committed)
			if accepted(committed) {
				c.router.members.commits(req.Group, req.MemberID, req.Generation, mark, false)
			}
		case soon:
			code = kerr.NotCoordinator.Code
		}
		return attemptOf(err)
	}) {
		return cm.refuse(code)
	}
	return cm.resp
}

// commit is one OffsetCommit request on its way.
type commit struct {
	client *Client
	req    *kmsg.OffsetCommitRequest
	resp   *kmsg.OffsetCommitResponse
	names  []string                                                             // by topic of the request
	outs   map[spillway.TopicPartition]*kmsg.OffsetCommitResponseTopicPartition // without an answer yet
}

// newCommit answers what cannot be committed; denied, if it is not 0, is the answer to all.
func (c *Client) newCommit(ctx context.Context, req *kmsg.OffsetCommitRequest, denied int16) *commit {
	cm := &commit{client: c, req: req, resp: req.ResponseKind().(*kmsg.OffsetCommitResponse), names: make([]string, len(req.Topics)),
		outs: make(map[spillway.TopicPartition]*kmsg.OffsetCommitResponseTopicPartition)}
	cm.resp.Topics = make([]kmsg.OffsetCommitResponseTopic, len(req.Topics))
	naming := c.naming()
	for i, t := range req.Topics {
		out := &cm.resp.Topics[i]
		*out = kmsg.NewOffsetCommitResponseTopic()
		out.Topic, out.TopicID = t.Topic, t.TopicID
		name, known := naming.of(ctx, req.Version >= 10, t.Topic, t.TopicID)
		cm.names[i] = name
		may := c.guardByID(req.Version >= 10, authorization.Read, name)
		may.codeOf = (*Client).positionCode
		out.Partitions = make([]kmsg.OffsetCommitResponseTopicPartition, len(t.Partitions))
		for j, p := range t.Partitions {
			o := &out.Partitions[j]
			*o = kmsg.NewOffsetCommitResponseTopicPartition()
			o.Partition = p.Partition
			tp := spillway.TopicPartition{Topic: name, Partition: p.Partition}
			_, served := c.router.ShareOf(tp)
			switch {
			case denied != 0:
				o.ErrorCode = denied
			case !known:
				o.ErrorCode = kerr.UnknownTopicID.Code
			case may.of(p.Partition) != 0:
				o.ErrorCode = may.code
			case !served:
				o.ErrorCode = kerr.UnknownTopicOrPartition.Code
			case p.Metadata != nil && len(*p.Metadata) > commitMetadataMax:
				o.ErrorCode = kerr.OffsetMetadataTooLarge.Code
			default:
				cm.outs[tp] = o
			}
		}
	}
	return cm
}

// refuse answers with an error of the gateway's own.
func (cm *commit) refuse(code int16) *kmsg.OffsetCommitResponse {
	cm.client.router.events.refused("coordinator")
	for _, o := range cm.outs {
		o.ErrorCode = code
	}
	return cm.resp
}

// upstream is the commit in the numbers of the site of the coordinator's term. False: the
// site's map does not know one of the partitions yet.
func (cm *commit) upstream(coordinator *Share, t Term) (*kmsg.OffsetCommitRequest, bool) {
	up := kmsg.NewPtrOffsetCommitRequest()
	up.Version = min(cm.req.Version, offsetCommitUpstreamMax)
	up.Group, up.Generation, up.MemberID, up.InstanceID = cm.req.Group, cm.req.Generation, cm.req.MemberID, cm.req.InstanceID
	up.RetentionTimeMillis = cm.req.RetentionTimeMillis
	for i, in := range cm.req.Topics {
		topic := kmsg.NewOffsetCommitRequestTopic()
		topic.Topic = cm.names[i]
		for _, p := range in.Partitions {
			tp := spillway.TopicPartition{Topic: topic.Topic, Partition: p.Partition}
			if cm.outs[tp] == nil {
				continue
			}
			share, _ := cm.client.router.ShareOf(tp)
			view := cm.client.router.committedView(coordinator, t, share, tp)
			if view == nil {
				return nil, false
			}
			metadata := ""
			if p.Metadata != nil {
				metadata = *p.Metadata
			}
			out := kmsg.NewOffsetCommitRequestTopicPartition()
			out.Partition, out.LeaderEpoch = p.Partition, -1
			if p.Offset < 0 { // the coordinator's to refuse
				out.Offset, out.Metadata = p.Offset, p.Metadata
			} else {
				local, _ := view.ToLocal(spillway.Offset(p.Offset))
				encoded := offsetmap.EncodeCommit(spillway.Offset(p.Offset), t.Epoch, metadata)
				out.Offset, out.Metadata = int64(local), &encoded
			}
			topic.Partitions = append(topic.Partitions, out)
		}
		if len(topic.Partitions) > 0 {
			up.Topics = append(up.Topics, topic)
		}
	}
	return up, true
}

// take copies the coordinator's answer.
func (cm *commit) take(share *Share, got *kmsg.OffsetCommitResponse) {
	cm.resp.ThrottleMillis = got.ThrottleMillis
	for _, t := range got.Topics {
		for _, p := range t.Partitions {
			if o := cm.outs[spillway.TopicPartition{Topic: t.Topic, Partition: p.Partition}]; o != nil {
				o.ErrorCode = p.ErrorCode
				cm.client.stale(share, theGroup(cm.req.Group), p.ErrorCode)
			}
		}
	}
}
