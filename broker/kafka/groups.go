package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
)

// The last versions of OffsetFetch and OffsetCommit that name topics; later
// ones carry topic ids, which differ from site to site.
const (
	offsetFetchByName  = 9
	offsetCommitByName = 9
)

// atCoordinator asks the coordinator of something, again where it moved. Others' stay known.
func (c *Cluster) atCoordinator(ctx context.Context, at coordinatorKey, f func(node int32) error) error {
	return c.retryAfter(ctx, func() error { c.misplaced(at); return nil }, func() error {
		node, err := c.Coordinator(ctx, at.kind, at.key)
		if err != nil {
			return err
		}
		return f(node)
	})
}

func (a *admin) atCoordinator(ctx context.Context, what, group string, f func(node int32) error) error {
	c := a.cluster
	if err := c.atCoordinator(ctx, coordinatorKey{broker.GroupCoordinator, group}, f); err != nil {
		return fmt.Errorf("site %s: %s of group %s: %w", c.config.Site, what, group, err)
	}
	return nil
}

// listPart is the part of what is left of a deadline for which nodes are asked for their
// groups: who has a deadline wants to do something about these, and clients are held when a
// move asks. Without one a node has requestMax.
const listPart = 2

// nodesOfMax bounds how long one node is asked which there are; then another one is.
const nodesOfMax = time.Second

// part is the time for a step that may take 1/n of what is left, and most at most.
func part(ctx context.Context, n int, most time.Duration) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return min(most, time.Until(deadline)/time.Duration(n))
	}
	return most
}

// nodesOf asks which nodes there are, and where there is no answer soon some of those that are
// known: the first one may hang, and its connection is kept for longer than there is time.
func (c *Cluster) nodesOf(ctx context.Context) ([]broker.Node, error) {
	ask := func(most time.Duration, f func(context.Context, *kmsg.MetadataRequest) (broker.Metadata, error)) ([]broker.Node, error) {
		bounded, cancel := context.WithTimeout(ctx, most)
		defer cancel()
		m, err := f(bounded, onlyNodes())
		return m.Nodes, err
	}
	nodes, err := ask(part(ctx, listPart+1, nodesOfMax), c.metadata)
	if err == nil || ctx.Err() != nil {
		return nodes, err
	}
	if nodes, other := ask(part(ctx, listPart+1, nodesOfMax), c.askKnown); other == nil {
		return nodes, nil
	}
	if _, hurries := ctx.Deadline(); hurries {
		return nil, err
	}
	return ask(requestMax, c.metadata) // all are slow, or the site is away
}

// ListGroups implements broker.Admin: it asks all nodes at once. One that hangs keeps
// nobody from the groups of the others, nor takes all the time that there is.
func (a *admin) ListGroups(ctx context.Context) ([]broker.GroupListing, error) {
	c := a.cluster
	nodes, err := c.nodesOf(ctx)
	if err != nil {
		return nil, fmt.Errorf("site %s: ListGroups: %w: %w", c.config.Site, broker.ErrAllUnreachable, err)
	}
	ctx, cancel := context.WithTimeout(ctx, part(ctx, listPart, requestMax))
	defer cancel()
	answered := false
	var mu sync.Mutex
	var wg sync.WaitGroup
	var groups []broker.GroupListing
	var faults []error
	for _, n := range nodes {
		wg.Go(func() {
			found, some, err := a.groupsOf(ctx, n.ID)
			mu.Lock()
			defer mu.Unlock()
			answered = answered || some
			if err != nil {
				faults = append(faults, fmt.Errorf("site %s: ListGroups of broker %d: %w", c.config.Site, n.ID, err))
			}
			groups = append(groups, found...)
		})
	}
	wg.Wait()
	slices.SortFunc(groups, func(a, b broker.GroupListing) int { return strings.Compare(a.ID, b.ID) })
	if !answered {
		faults = append([]error{broker.ErrAllUnreachable}, faults...)
	}
	return groups, errors.Join(faults...)
}

// groupsOf asks a node for its groups, and tells whether it answered at all.
func (a *admin) groupsOf(ctx context.Context, node int32) (groups []broker.GroupListing, answered bool, err error) {
	c := a.cluster
	err = c.retry(ctx, func() error {
		req := kmsg.NewPtrListGroupsRequest()
		answer, err := c.do(ctx, node, req, req.MaxVersion())
		if err != nil {
			return err
		}
		answered = true
		resp := answer.(*kmsg.ListGroupsResponse)
		if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
			return sentinel(err)
		}
		groups = nil
		for _, g := range resp.Groups {
			groups = append(groups, broker.GroupListing{
				ID: g.Group, State: g.GroupState, ProtocolType: g.ProtocolType, Type: strings.ToLower(g.GroupType), Coordinator: node,
			})
		}
		return nil
	})
	return groups, answered, err
}

// DescribeGroup implements broker.Admin. Groups of the newer protocol have a
// request of their own (KIP-848); which one a group needs only the answer tells.
func (a *admin) DescribeGroup(ctx context.Context, group string) (d broker.GroupDescription, err error) {
	err = a.atCoordinator(ctx, "DescribeGroups", group, func(node int32) error {
		d, err = a.describeConsumer(ctx, node, group)
		if errors.Is(err, kerr.GroupIDNotFound) || errors.Is(err, broker.ErrNotSupported) || errors.Is(err, kerr.UnsupportedVersion) {
			d, err = a.describeClassic(ctx, node, group)
		}
		if errors.Is(err, kerr.GroupIDNotFound) {
			d, err = broker.GroupDescription{ID: group, State: "Dead"}, nil
		}
		return err
	})
	return d, err
}

func (a *admin) describeConsumer(ctx context.Context, node int32, group string) (broker.GroupDescription, error) {
	d := broker.GroupDescription{ID: group}
	req := kmsg.NewPtrConsumerGroupDescribeRequest()
	req.Groups = []string{group}
	answer, err := a.cluster.do(ctx, node, req, req.MaxVersion())
	if err != nil {
		return d, err
	}
	for _, g := range answer.(*kmsg.ConsumerGroupDescribeResponse).Groups {
		if g.Group != group {
			continue
		}
		if err := kerr.ErrorForCode(g.ErrorCode); err != nil {
			return d, sentinel(err)
		}
		d.State, d.Protocol = g.State, g.AssignorName
		for _, m := range g.Members {
			member := broker.GroupMember{ID: m.MemberID, ClientID: m.ClientID, ClientHost: m.ClientHost}
			if m.InstanceID != nil {
				member.InstanceID = *m.InstanceID
			}
			for _, t := range m.Assignment.TopicPartitions {
				for _, p := range t.Partitions {
					member.Assigned = append(member.Assigned, spillway.TopicPartition{Topic: t.Topic, Partition: p})
				}
			}
			d.Members = append(d.Members, member)
		}
		return d, nil
	}
	return d, errors.New("the group is not in the answer")
}

func (a *admin) describeClassic(ctx context.Context, node int32, group string) (broker.GroupDescription, error) {
	d := broker.GroupDescription{ID: group}
	req := kmsg.NewPtrDescribeGroupsRequest()
	req.Groups = []string{group}
	answer, err := a.cluster.do(ctx, node, req, req.MaxVersion())
	if err != nil {
		return d, err
	}
	for _, g := range answer.(*kmsg.DescribeGroupsResponse).Groups {
		if g.Group != group {
			continue
		}
		if err := kerr.ErrorForCode(g.ErrorCode); err != nil {
			return d, sentinel(err)
		}
		d.State, d.Protocol = g.State, g.Protocol
		for _, m := range g.Members {
			member := broker.GroupMember{ID: m.MemberID, ClientID: m.ClientID, ClientHost: m.ClientHost}
			if m.InstanceID != nil {
				member.InstanceID = *m.InstanceID
			}
			if g.ProtocolType == "consumer" {
				member.Assigned = assigned(m.MemberAssignment)
			}
			d.Members = append(d.Members, member)
		}
		return d, nil
	}
	return d, errors.New("the group is not in the answer")
}

// assigned decodes what a client of the classic protocol wrote for its peers.
// It is shown to people only; what cannot be read is left out.
func assigned(b []byte) (tps []spillway.TopicPartition) {
	var assignment kmsg.ConsumerMemberAssignment
	if len(b) == 0 || len(b) > assignmentBytesMax || assignment.ReadFrom(b) != nil {
		return nil
	}
	for _, t := range assignment.Topics {
		for _, p := range t.Partitions {
			tps = append(tps, spillway.TopicPartition{Topic: t.Topic, Partition: p})
		}
	}
	return tps
}

// assignmentBytesMax keeps a member's bytes, which nobody checked, from
// costing much: the decoder may allocate some 50 bytes for each.
const assignmentBytesMax = 1 << 20

// FetchGroupOffsets implements broker.Admin.
func (a *admin) FetchGroupOffsets(ctx context.Context, group string) (map[spillway.TopicPartition]broker.GroupOffset, error) {
	return a.groupOffsets(ctx, group, false)
}

// unstablePause is between two tries of StableGroupOffsets. A coordinator hears of the end of a
// transaction some milliseconds after everybody else; who leaves one open must not stop a move.
const unstablePause = 5 * time.Millisecond

// StableGroupOffsets implements broker.Admin (KIP-447).
func (a *admin) StableGroupOffsets(ctx context.Context, group string) (map[spillway.TopicPartition]broker.GroupOffset, error) {
	for began := time.Now(); time.Since(began) < broker.UndecidedMax; {
		found, err := a.groupOffsets(ctx, group, true)
		if !errors.Is(err, kerr.UnstableOffsetCommit) {
			return found, err
		}
		select {
		case <-time.After(unstablePause):
		case <-ctx.Done():
			return nil, err
		}
	}
	return a.groupOffsets(ctx, group, false)
}

func (a *admin) groupOffsets(ctx context.Context, group string, stable bool) (found map[spillway.TopicPartition]broker.GroupOffset, err error) {
	err = a.atCoordinator(ctx, "OffsetFetch", group, func(node int32) error {
		req := kmsg.NewPtrOffsetFetchRequest()
		req.Group, req.Topics, req.RequireStable = group, nil, stable
		of := kmsg.NewOffsetFetchRequestGroup()
		of.Group = group
		req.Groups = []kmsg.OffsetFetchRequestGroup{of}
		answer, err := a.cluster.do(ctx, node, req, offsetFetchByName)
		if err != nil {
			return err
		}
		found, err = offsetsOf(answer.(*kmsg.OffsetFetchResponse), group)
		return err
	})
	return found, err
}

func offsetsOf(resp *kmsg.OffsetFetchResponse, group string) (map[spillway.TopicPartition]broker.GroupOffset, error) {
	found := map[spillway.TopicPartition]broker.GroupOffset{}
	add := func(topic string, partition int32, offset int64, epoch int32, metadata *string, code int16) error {
		if err := kerr.ErrorForCode(code); err != nil {
			return fmt.Errorf("%s-%d: %w", topic, partition, sentinel(err))
		}
		if offset < 0 { // nothing committed
			return nil
		}
		o := broker.GroupOffset{Offset: spillway.LocalOffset(offset), LeaderEpoch: epoch}
		if metadata != nil {
			o.Metadata = *metadata
		}
		found[spillway.TopicPartition{Topic: topic, Partition: partition}] = o
		return nil
	}
	faults := []error{kerr.ErrorForCode(resp.ErrorCode)}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			faults = append(faults, add(t.Topic, p.Partition, p.Offset, p.LeaderEpoch, p.Metadata, p.ErrorCode))
		}
	}
	for _, g := range resp.Groups {
		if g.Group != group {
			continue
		}
		faults = append(faults, kerr.ErrorForCode(g.ErrorCode))
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				faults = append(faults, add(t.Topic, p.Partition, p.Offset, p.LeaderEpoch, p.Metadata, p.ErrorCode))
			}
		}
	}
	err := errors.Join(faults...)
	if errors.Is(err, kerr.GroupIDNotFound) { // 4.x; older brokers answer that nothing is committed
		return found, nil
	}
	return found, err
}

// CommitGroupOffsets implements broker.Admin.
func (a *admin) CommitGroupOffsets(ctx context.Context, group string, offsets map[spillway.TopicPartition]broker.GroupOffset) error {
	if len(offsets) == 0 {
		return nil
	}
	return a.atCoordinator(ctx, "OffsetCommit", group, func(node int32) error {
		req := kmsg.NewPtrOffsetCommitRequest()
		req.Group, req.Generation, req.MemberID = group, -1, ""
		byTopic := map[string]int{}
		for tp, o := range offsets {
			at, ok := byTopic[tp.Topic]
			if !ok {
				at = len(req.Topics)
				byTopic[tp.Topic] = at
				req.Topics = append(req.Topics, kmsg.OffsetCommitRequestTopic{Topic: tp.Topic})
			}
			p := kmsg.NewOffsetCommitRequestTopicPartition()
			p.Partition, p.Offset, p.LeaderEpoch, p.Metadata = tp.Partition, int64(o.Offset), o.LeaderEpoch, &o.Metadata
			req.Topics[at].Partitions = append(req.Topics[at].Partitions, p)
		}
		answer, err := a.cluster.do(ctx, node, req, offsetCommitByName)
		if err != nil {
			return err
		}
		var faults []error
		for _, t := range answer.(*kmsg.OffsetCommitResponse).Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					faults = append(faults, fmt.Errorf("%s-%d: %w", t.Topic, p.Partition, sentinel(err)))
				}
			}
		}
		return errors.Join(faults...)
	})
}

// RemoveMembers implements broker.Admin. Which protocol the group speaks only
// the descriptions tell, as in DescribeGroup.
func (a *admin) RemoveMembers(ctx context.Context, group string) error {
	return a.atCoordinator(ctx, "LeaveGroup", group, func(node int32) error {
		d, err := a.describeConsumer(ctx, node, group)
		if err == nil {
			return a.leaveConsumer(ctx, node, d)
		}
		if !errors.Is(err, kerr.GroupIDNotFound) && !errors.Is(err, broker.ErrNotSupported) && !errors.Is(err, kerr.UnsupportedVersion) {
			return err
		}
		d, err = a.describeClassic(ctx, node, group)
		if errors.Is(err, kerr.GroupIDNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return a.leaveClassic(ctx, node, d)
	})
}

// leaveEpoch in a heartbeat says that the member leaves for good (KIP-848).
const leaveEpoch = -1

func (a *admin) leaveConsumer(ctx context.Context, node int32, d broker.GroupDescription) error {
	for _, m := range d.Members {
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.Group, req.MemberID, req.MemberEpoch = d.ID, m.ID, leaveEpoch
		if m.InstanceID != "" {
			req.InstanceID = &m.InstanceID
		}
		answer, err := a.cluster.do(ctx, node, req, req.MaxVersion())
		if err != nil {
			return err
		}
		if err := gone(answer.(*kmsg.ConsumerGroupHeartbeatResponse).ErrorCode); err != nil {
			return err
		}
	}
	return nil
}

func (a *admin) leaveClassic(ctx context.Context, node int32, d broker.GroupDescription) error {
	if len(d.Members) == 0 {
		return nil
	}
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group = d.ID
	for _, m := range d.Members {
		leave := kmsg.NewLeaveGroupRequestMember()
		leave.MemberID = m.ID
		if m.InstanceID != "" {
			leave.InstanceID = &m.InstanceID
		}
		req.Members = append(req.Members, leave)
	}
	answer, err := a.cluster.do(ctx, node, req, req.MaxVersion())
	if err != nil {
		return err
	}
	resp := answer.(*kmsg.LeaveGroupResponse)
	faults := []error{gone(resp.ErrorCode)}
	for _, m := range resp.Members {
		faults = append(faults, gone(m.ErrorCode))
	}
	return errors.Join(faults...)
}

// gone takes a member that is not there any more for one that left.
func gone(code int16) error {
	err := kerr.ErrorForCode(code)
	if errors.Is(err, kerr.UnknownMemberID) || errors.Is(err, kerr.GroupIDNotFound) {
		return nil
	}
	return sentinel(err)
}
