package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
)

// Special values of ListOffsets (KIP-79; the replica id −2 is Kafka's own for
// tools that debug).
const (
	latest        = -1
	earliest      = -2
	asConsumer    = -1
	asDebugger    = -2
	uncommitted   = 0
	committed     = 1
	listOffsetsV6 = 6 // later versions add only kinds of timestamps that are not asked for
)

type offsets = map[spillway.TopicPartition]spillway.LocalOffset

// LogEnds implements broker.Admin.
func (a *admin) LogEnds(ctx context.Context, tps []spillway.TopicPartition) (offsets, error) {
	return a.cluster.listOffsets(ctx, tps, asDebugger, uncommitted, latest)
}

// HighWatermarks implements broker.Admin.
func (a *admin) HighWatermarks(ctx context.Context, tps []spillway.TopicPartition) (offsets, error) {
	return a.cluster.listOffsets(ctx, tps, asConsumer, uncommitted, latest)
}

// StableEnds implements broker.Admin.
func (a *admin) StableEnds(ctx context.Context, tps []spillway.TopicPartition) (offsets, error) {
	return a.cluster.listOffsets(ctx, tps, asConsumer, committed, latest)
}

// LogStarts implements broker.Admin.
func (a *admin) LogStarts(ctx context.Context, tps []spillway.TopicPartition) (offsets, error) {
	return a.cluster.listOffsets(ctx, tps, asConsumer, uncommitted, earliest)
}

// LogBounds implements broker.Admin.
func (a *admin) LogBounds(ctx context.Context, tps []spillway.TopicPartition) (starts, ends offsets, err error) {
	starts, ends = make(offsets, len(tps)), make(offsets, len(tps))
	var fault error
	var beside sync.WaitGroup // who waits for one partition is not late with the ends of the others
	beside.Go(func() {
		fault = a.cluster.listOffsetsOnce(ctx, tps, starts, listing{asConsumer, uncommitted, earliest, forgetNothing})
	})
	err = a.cluster.listOffsetsOnce(ctx, tps, ends, listing{asConsumer, committed, latest, forgetNothing})
	beside.Wait()
	if err = errors.Join(err, fault); err != nil {
		err = fmt.Errorf("site %s: ListOffsets: %w", a.cluster.config.Site, err)
	}
	return starts, ends, err
}

// OffsetsForTime implements broker.Admin.
func (a *admin) OffsetsForTime(ctx context.Context, tps []spillway.TopicPartition, milliseconds int64) (offsets, error) {
	return a.cluster.listOffsets(ctx, tps, asConsumer, uncommitted, milliseconds)
}

// listing is what is asked of logs.
type listing struct {
	replica   int32
	isolation int8
	timestamp int64
	gone      func(node int32) // of a node that does not answer
}

// listOffsets asks each leader for its partitions; those that moved meanwhile
// are asked again. With an error it returns those that were found.
func (c *Cluster) listOffsets(ctx context.Context, tps []spillway.TopicPartition, replica int32, isolation int8, timestamp int64) (offsets, error) {
	found := make(offsets, len(tps))
	err := c.retry(ctx, func() error {
		return c.listOffsetsOnce(ctx, tps, found, listing{replica, isolation, timestamp, c.avoid})
	})
	if err != nil {
		err = fmt.Errorf("site %s: ListOffsets: %w", c.config.Site, err)
	}
	return found, err
}

// listOffsetsOnce adds to found what is not there yet.
func (c *Cluster) listOffsetsOnce(ctx context.Context, tps []spillway.TopicPartition, found offsets, what listing) error {
	if err := c.leadersOf(ctx, tps); err != nil {
		return err
	}
	byNode := map[int32]map[spillway.TopicPartition]leadership{}
	for _, tp := range tps {
		if _, ok := found[tp]; ok {
			continue
		}
		l, err := c.leader(ctx, tp)
		if err != nil {
			return err
		}
		if byNode[l.node] == nil {
			byNode[l.node] = map[spillway.TopicPartition]leadership{}
		}
		byNode[l.node][tp] = l
	}
	var faults []error
	for node, of := range byNode {
		part, err := c.listOffsetsAt(ctx, node, of, what)
		maps.Copy(found, part)
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// listOffsetsAt names the leader's epoch in the request, so that a node that
// only follows refuses (invariant B).
func (c *Cluster) listOffsetsAt(ctx context.Context, node int32, of map[spillway.TopicPartition]leadership, what listing) (offsets, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID, req.IsolationLevel = what.replica, what.isolation
	byTopic := map[string]int{}
	for tp, l := range of {
		at, ok := byTopic[tp.Topic]
		if !ok {
			at = len(req.Topics)
			byTopic[tp.Topic] = at
			req.Topics = append(req.Topics, kmsg.ListOffsetsRequestTopic{Topic: tp.Topic})
		}
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.CurrentLeaderEpoch, p.Timestamp = tp.Partition, l.epoch, what.timestamp
		req.Topics[at].Partitions = append(req.Topics[at].Partitions, p)
	}
	answer, err := c.request(ctx, node, req, listOffsetsV6, what.gone)
	if err != nil {
		return nil, err
	}
	found := offsets{}
	var faults []error
	for _, t := range answer.(*kmsg.ListOffsetsResponse).Topics {
		for _, p := range t.Partitions {
			tp := spillway.TopicPartition{Topic: t.Topic, Partition: p.Partition}
			if _, asked := of[tp]; !asked {
				continue
			}
			switch err := kerr.ErrorForCode(p.ErrorCode); {
			case err != nil:
				faults = append(faults, fmt.Errorf("node %d: %s: %w", node, tp, sentinel(err)))
			case p.Offset < 0 && what.timestamp < 0:
				faults = append(faults, fmt.Errorf("node %d: %s: offset %d, which cannot be", node, tp, p.Offset))
			default:
				found[tp] = spillway.LocalOffset(p.Offset)
			}
		}
	}
	if len(faults) == 0 && len(found) < len(of) {
		faults = append(faults, fmt.Errorf("node %d answered for %d of %d partitions", node, len(found), len(of)))
	}
	return found, errors.Join(faults...)
}

// NewProducerID implements broker.Admin.
func (a *admin) NewProducerID(ctx context.Context) (id int64, err error) {
	err = a.cluster.retry(ctx, func() error {
		req := kmsg.NewPtrInitProducerIDRequest()
		req.ProducerID, req.ProducerEpoch = -1, -1
		answer, err := a.cluster.any(ctx, req, req.MaxVersion())
		if err != nil {
			return err
		}
		resp := answer.(*kmsg.InitProducerIDResponse)
		id = resp.ProducerID
		return sentinel(kerr.ErrorForCode(resp.ErrorCode))
	})
	if err != nil {
		return -1, fmt.Errorf("site %s: InitProducerId: %w", a.cluster.config.Site, err)
	}
	return id, nil
}

// DescribeProducers implements broker.Admin.
func (a *admin) DescribeProducers(ctx context.Context, tp spillway.TopicPartition) ([]broker.ProducerState, error) {
	c := a.cluster
	var states []broker.ProducerState
	err := c.retry(ctx, func() error {
		l, err := c.leader(ctx, tp)
		if err != nil {
			return err
		}
		req := kmsg.NewPtrDescribeProducersRequest()
		req.Topics = []kmsg.DescribeProducersRequestTopic{{Topic: tp.Topic, Partitions: []int32{tp.Partition}}}
		answer, err := c.do(ctx, l.node, req, req.MaxVersion())
		if err != nil {
			return err
		}
		states, err = producersOf(answer.(*kmsg.DescribeProducersResponse), tp)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("site %s: DescribeProducers of %s: %w", c.config.Site, tp, err)
	}
	return states, nil
}

func producersOf(resp *kmsg.DescribeProducersResponse, tp spillway.TopicPartition) ([]broker.ProducerState, error) {
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if t.Topic != tp.Topic || p.Partition != tp.Partition {
				continue
			}
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return nil, sentinel(err)
			}
			states := make([]broker.ProducerState, 0, len(p.ActiveProducers))
			for _, s := range p.ActiveProducers {
				states = append(states, broker.ProducerState{
					ID: s.ProducerID, Epoch: int16(s.ProducerEpoch), LastSequence: s.LastSequence,
					LastTimestamp: s.LastTimestamp, CurrentTxnStart: s.CurrentTxnStartOffset, CoordinatorEpoch: s.CoordinatorEpoch,
				})
			}
			return states, nil
		}
	}
	return nil, errors.New("the partition is not in the answer")
}

// writeTxnMarkersV1 is the newest version in which a marker may carry the epoch
// that the producer has; later ones ask for a higher one where transactions are
// of version 2.
const writeTxnMarkersV1 = 1

// AbortTransaction implements broker.Admin.
func (a *admin) AbortTransaction(ctx context.Context, tp spillway.TopicPartition, of broker.ProducerState) error {
	c := a.cluster
	err := c.retry(ctx, func() error {
		l, err := c.leader(ctx, tp)
		if err != nil {
			return err
		}
		marker := kmsg.NewWriteTxnMarkersRequestMarker()
		marker.ProducerID, marker.ProducerEpoch, marker.CoordinatorEpoch = of.ID, of.Epoch, max(of.CoordinatorEpoch, 0)
		marker.Topics = []kmsg.WriteTxnMarkersRequestMarkerTopic{{Topic: tp.Topic, Partitions: []int32{tp.Partition}}}
		req := kmsg.NewPtrWriteTxnMarkersRequest()
		req.Markers = []kmsg.WriteTxnMarkersRequestMarker{marker}
		answer, err := c.do(ctx, l.node, req, writeTxnMarkersV1)
		if err != nil {
			return err
		}
		for _, m := range answer.(*kmsg.WriteTxnMarkersResponse).Markers {
			for _, t := range m.Topics {
				for _, p := range t.Partitions {
					if t.Topic == tp.Topic && p.Partition == tp.Partition {
						return sentinel(kerr.ErrorForCode(p.ErrorCode))
					}
				}
			}
		}
		return errors.New("the partition is not in the answer")
	})
	if err != nil {
		return fmt.Errorf("site %s: abort the transaction of producer %d in %s: %w", c.config.Site, of.ID, tp, err)
	}
	return nil
}

// sentinel joins Kafka's errors with those of package broker.
func sentinel(err error) error {
	for kafka, ours := range map[error]error{
		kerr.TopicAlreadyExists:                 broker.ErrTopicExists,
		kerr.UnknownTopicOrPartition:            broker.ErrUnknownTopic,
		kerr.NotLeaderForPartition:              broker.ErrNotLeader,
		kerr.TopicAuthorizationFailed:           broker.ErrNotAuthorized,
		kerr.GroupAuthorizationFailed:           broker.ErrNotAuthorized,
		kerr.ClusterAuthorizationFailed:         broker.ErrNotAuthorized,
		kerr.UnknownMemberID:                    broker.ErrGroupActive,
		kerr.IllegalGeneration:                  broker.ErrGroupActive,
		kerr.RebalanceInProgress:                broker.ErrGroupActive,
		kerr.NonEmptyGroup:                      broker.ErrGroupActive,
		kerr.StaleMemberEpoch:                   broker.ErrGroupActive,
		kerr.GroupIDNotFound:                    broker.ErrUnknownGroup,
		kerr.TransactionalIDNotFound:            broker.ErrUnknownTransactionalID,
		kerr.ConcurrentTransactions:             broker.ErrTransactionEnding,
		kerr.TransactionalIDAuthorizationFailed: broker.ErrNotAuthorized,
	} {
		if errors.Is(err, kafka) {
			return fmt.Errorf("%w: %w", ours, err)
		}
	}
	return err
}
