package kafka

import (
	"context"
	"math"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker"
	"spillway/broker/conn"
)

// declared is what every supported Kafka (3.9 and later) does; five of them
// are probed and may be taken back.
var declared = broker.Capabilities{
	LogEndOffset: true, DescribeProducers: true, ProducerExpiry: true, ACLs: true, Replicas: true, TimestampLimits: true,
	FirstSequenceOnEmptyPartition: true, SequenceWrap: true, ProducerEpochPerPartition: true, LogAppendTime: true,
	ConsumerGroupV2: true, Durable: true, ProducersDurable: true, TransactionOutcome: true, DiskSpace: true,
}

// Capabilities implements broker.Cluster. Until the cluster was reached once
// they are what is usual for Kafka.
func (c *Cluster) Capabilities() broker.Capabilities {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.capabilities
}

const keyDescribeProducers = 61

// probe asks what can be asked, once. A question that fails leaves the
// declared answer and is asked again next time.
func (c *Cluster) probe(ctx context.Context) {
	c.mu.Lock()
	probed, found := c.mu.probed, c.mu.capabilities
	c.mu.Unlock()
	if probed {
		return
	}
	link, err := c.own(ctx, broker.AnyNode)
	if err != nil {
		return
	}
	found.DescribeProducers = link.MaxVersion(keyDescribeProducers) >= 0
	found.DiskSpace = link.MaxVersion(int16(kmsg.DescribeLogDirs)) >= describeLogDirsRoom
	found.ConsumerGroupV2 = link.Feature(conn.GroupVersion) >= 1
	if found.ACLs, err = c.authorizes(ctx); err != nil {
		return
	}
	if found.TimestampLimits, err = c.limitsTimestamps(ctx); err != nil {
		return
	}
	c.mu.Lock()
	c.mu.capabilities, c.mu.probed = found, true
	c.mu.Unlock()
}

// authorizes tells whether the cluster has an authorizer: without one every
// question about ACLs is refused as such.
func (c *Cluster) authorizes(ctx context.Context) (bool, error) {
	req := kmsg.NewPtrDescribeACLsRequest()
	name := "spillway"
	req.ResourceType, req.ResourceName, req.ResourcePatternType = kmsg.ACLResourceTypeTopic, &name, kmsg.ACLResourcePatternTypeLiteral
	req.Operation, req.PermissionType = kmsg.ACLOperationAny, kmsg.ACLPermissionTypeAny
	answer, err := c.any(ctx, req, req.MaxVersion())
	if err != nil {
		return false, err
	}
	return answer.(*kmsg.DescribeACLsResponse).ErrorCode != kerr.SecurityDisabled.Code, nil
}

// limitsTimestamps reads the broker's bound for records from the future; where
// it may not be read, there might be one.
func (c *Cluster) limitsTimestamps(ctx context.Context) (bool, error) {
	c.mu.Lock()
	node := int32(math.MaxInt32)
	for id := range c.mu.nodes {
		node = min(node, id)
	}
	c.mu.Unlock()
	if node == math.MaxInt32 {
		return true, broker.ErrUnknownNode
	}
	value, known, err := c.brokerConfig(ctx, node, "log.message.timestamp.after.max.ms")
	return !known || value != strconv.FormatInt(math.MaxInt64, 10), err
}

// brokerConfig asks a broker for one of its own settings.
func (c *Cluster) brokerConfig(ctx context.Context, node int32, name string) (value string, known bool, err error) {
	req := kmsg.NewPtrDescribeConfigsRequest()
	r := kmsg.NewDescribeConfigsRequestResource()
	r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeBroker, strconv.Itoa(int(node))
	r.ConfigNames = []string{name}
	req.Resources = []kmsg.DescribeConfigsRequestResource{r}
	answer, err := c.do(ctx, node, req, req.MaxVersion())
	if err != nil {
		return "", false, err
	}
	for _, r := range answer.(*kmsg.DescribeConfigsResponse).Resources {
		for _, e := range r.Configs {
			if e.Name == name && e.Value != nil {
				return *e.Value, true, nil
			}
		}
	}
	return "", false, nil
}
