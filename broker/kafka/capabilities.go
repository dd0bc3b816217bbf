package kafka

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

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

const (
	// probeMax bounds one round of questions about capabilities.
	probeMax = 5 * time.Second
	// probeWaitMax is how long a caller waits for the answers, and probeShare which part
	// of its own time: a broker that hangs must not use up what is for something else.
	probeWaitMax = time.Second
	probeShare   = 4
	// probeNodes is how many nodes are asked at once for what each of them can tell.
	probeNodes = 3
)

// probe asks what can be asked, once, aside from the caller, who waits for it for a
// moment. A question that fails leaves the declared answer and is asked again next time.
func (c *Cluster) probe(ctx context.Context) {
	c.mu.Lock()
	if c.mu.probed || c.mu.closed {
		c.mu.Unlock()
		return
	}
	done := c.mu.probing
	if done == nil {
		done = make(chan struct{})
		c.mu.probing = done
		c.besides.Go(func() {
			aside, cancel := context.WithTimeout(c.life, probeMax)
			defer cancel()
			c.askCapabilities(aside)
			c.mu.Lock()
			c.mu.probing = nil
			c.mu.Unlock()
			close(done)
		})
	}
	c.mu.Unlock()
	most := probeWaitMax
	if at, ok := ctx.Deadline(); ok {
		most = min(most, time.Until(at)/probeShare)
	}
	enough := time.NewTimer(most)
	defer enough.Stop()
	select {
	case <-done:
	case <-enough.C:
	case <-ctx.Done():
	}
}

func (c *Cluster) askCapabilities(ctx context.Context) {
	c.mu.Lock()
	found := c.mu.capabilities
	c.mu.Unlock()
	link, err := c.own(ctx, broker.AnyNode, c.avoid)
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

// limitsTimestamps reads the brokers' bound for records from the future; where
// it may not be read, there might be one.
func (c *Cluster) limitsTimestamps(ctx context.Context) (bool, error) {
	limits, err := firstOf(ctx, c, func(ctx context.Context, node int32) (bool, error) {
		value, known, err := c.brokerConfig(ctx, node, "log.message.timestamp.after.max.ms")
		return !known || value != strconv.FormatInt(math.MaxInt64, 10), err
	})
	return limits || err != nil, err
}

// errNoneKnown: it is not known which nodes there are.
var errNoneKnown = fmt.Errorf("none is known: %w", broker.ErrUnknownNode)

// firstOf asks some of the nodes that are known, others each time, and who answers first
// counts: any of them may hang.
func firstOf[T any](ctx context.Context, c *Cluster, ask func(ctx context.Context, node int32) (T, error)) (T, error) {
	type answer struct {
		told T
		err  error
	}
	answers := make(chan answer, probeNodes)
	asked := 0
	c.mu.Lock()
	for node := range c.mu.nodes { // in no order
		if asked == probeNodes || c.mu.closed {
			break
		}
		asked++
		// Not cut off by the answer of another: the connection is of use later.
		c.besides.Go(func() {
			ctx, cancel := context.WithTimeout(c.life, probeMax)
			defer cancel()
			told, err := ask(ctx, node)
			answers <- answer{told, err}
		})
	}
	c.mu.Unlock()
	var none T
	err := errNoneKnown
	for range asked {
		select {
		case a := <-answers:
			if a.err == nil {
				return a.told, nil
			}
			err = a.err
		case <-ctx.Done():
			return none, ctx.Err()
		}
	}
	return none, err
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
