package router

import (
	"math/rand/v2"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/batch"
	"spillway/broker/wire/wiretest"
	"spillway/mirror/offsetmap"
)

// codec says how the messages of one API are proved. All funcs may be nil.
type codec struct {
	alone bool // answered here, the site is never asked
	// ask makes a random request one that is passed on; answer makes a random
	// answer one to what the site was asked.
	ask    func(*rand.Rand, mapping, kmsg.Request)
	answer func(*rand.Rand, mapping, kmsg.Request, kmsg.Response)
	// asked and told take out of a message, at the other side, what the head of the
	// API's file says is left out. Where nothing of it is there, bytes are equal.
	asked func(kmsg.Request) kmsg.Request
	told  func(in kmsg.Request, resp kmsg.Response) kmsg.Response
	// own takes out of both what the gateway decides itself: limits.
	own func(wiretest.Message)
	// stored undoes what a request carries at the site beside what the client sent.
	stored func(mapping, kmsg.Request) error
	tagged bool // tagged fields that nobody knows are passed on
	nested bool // they are in what is copied whole, else not
}

// codecs has every API that the router serves; TestEveryAPIHasACodecProof looks.
var codecs = map[int16]codec{
	0:  {ask: askProduce, answer: answerProduce, told: toldProduce},
	1:  {ask: askFetch, answer: answerFetch, asked: askedFetch, told: toldFetch, own: ownFetch},
	2:  {ask: askListOffsets, answer: answerListOffsets, asked: askedListOffsets, told: noThrottle},
	3:  {alone: true},
	8:  {answer: answerOffsetCommit, asked: askedOffsetCommit, stored: storedOffsetCommit},
	9:  {nested: true, answer: answerOffsetFetch, asked: askedOffsetFetch, told: toldOffsetFetch},
	10: {alone: true},
	11: {tagged: true, ask: func(random *rand.Rand, _ mapping, r kmsg.Request) {
		req := r.(*kmsg.JoinGroupRequest)
		req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = random.Int32N(1e5), random.Int32N(1e5)
	}},
	12: {tagged: true},
	13: {tagged: true},
	14: {tagged: true},
	15: {nested: true, ask: func(_ *rand.Rand, _ mapping, r kmsg.Request) {
		req := r.(*kmsg.DescribeGroupsRequest)
		req.Groups = firsts(req.Groups, itself) // one that is named again is answered once
	}, answer: func(_ *rand.Rand, _ mapping, r kmsg.Request, resp kmsg.Response) {
		groups := &resp.(*kmsg.DescribeGroupsResponse).Groups
		*groups = append(*groups, kmsg.NewDescribeGroupsResponseGroup())[:1]
		(*groups)[0].Group = r.(*kmsg.DescribeGroupsRequest).Groups[0]
	}, asked: func(r kmsg.Request) kmsg.Request {
		r.(*kmsg.DescribeGroupsRequest).IncludeAuthorizedOperations = false
		return r
	}, told: noThrottle},
	16: {nested: true, answer: func(random *rand.Rand, _ mapping, _ kmsg.Request, resp kmsg.Response) {
		if random.IntN(4) == 0 {
			resp.(*kmsg.ListGroupsResponse).ErrorCode = kerr.CoordinatorLoadInProgress.Code
		}
	}, told: func(in kmsg.Request, r kmsg.Response) kmsg.Response {
		if resp := r.(*kmsg.ListGroupsResponse); resp.ErrorCode != 0 {
			resp.ErrorCode, resp.Groups = kerr.CoordinatorNotAvailable.Code, nil
		}
		return noThrottle(in, r)
	}},
	17: {alone: true},
	18: {alone: true},
	19: {alone: true},
	22: {tagged: true, ask: askInitProducerID},
	23: {alone: true},
	24: {tagged: true, ask: askAddPartitionsToTxn},
	25: {tagged: true},
	26: {tagged: true},
	28: {nested: true, answer: answerTxnOffsetCommit, asked: askedTxnOffsetCommit, stored: storedTxnOffsetCommit},
	32: {nested: true, ask: askDescribeConfigs, answer: answerDescribeConfigs, told: toldDescribeConfigs},
	33: {alone: true},
	44: {alone: true},
	36: {alone: true},
	60: {alone: true},
	68: {tagged: true, told: func(_ kmsg.Request, r kmsg.Response) kmsg.Response {
		resp := r.(*kmsg.ConsumerGroupHeartbeatResponse)
		resp.HeartbeatIntervalMillis = min(resp.HeartbeatIntervalMillis, beatMillisMax)
		return resp
	}},
	69: {nested: true, ask: func(_ *rand.Rand, _ mapping, r kmsg.Request) {
		req := r.(*kmsg.ConsumerGroupDescribeRequest)
		req.Groups = firsts(req.Groups, itself)
	}, answer: func(_ *rand.Rand, _ mapping, r kmsg.Request, resp kmsg.Response) {
		groups := &resp.(*kmsg.ConsumerGroupDescribeResponse).Groups
		*groups = append(*groups, kmsg.NewConsumerGroupDescribeResponseGroup())[:1]
		(*groups)[0].Group = r.(*kmsg.ConsumerGroupDescribeRequest).Groups[0]
	}, asked: func(r kmsg.Request) kmsg.Request {
		r.(*kmsg.ConsumerGroupDescribeRequest).IncludeAuthorizedOperations = false
		return r
	}, told: noThrottle},
}

// askInitProducerID: without a transactional id the site hears of nothing.
func askInitProducerID(random *rand.Rand, m mapping, r kmsg.Request) {
	req := r.(*kmsg.InitProducerIDRequest)
	req.TransactionalID, req.ProducerID = kmsg.StringPtr("app"), m.producer(codecProducer, atClient)
	if req.ProducerEpoch &= 1<<15 - 1; random.IntN(2) == 0 {
		req.ProducerID, req.ProducerEpoch = -1, -1
	}
}

func askAddPartitionsToTxn(_ *rand.Rand, _ mapping, r kmsg.Request) {
	r.(*kmsg.AddPartitionsToTxnRequest).Transactions = nil // between brokers
}

// randomBatch is one that a producer sends (base 0), or that a site has.
func randomBatch(random *rand.Rand, base int64) []byte {
	h := batch.Header{Magic: 2, BaseOffset: base, LeaderEpoch: -1, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1, BaseTimestamp: random.Int64N(1 << 42)}
	if random.IntN(2) == 0 {
		h.ProducerID, h.ProducerEpoch, h.BaseSequence = spillway.ClientProducerID(random.Uint64()), int16(random.IntN(1<<15)), random.Int32()
	}
	records := make([]batch.Record, 1+random.IntN(3))
	for i := range records {
		records[i] = batch.Record{OffsetDelta: int32(i), Key: []byte("k"), Value: make([]byte, random.IntN(50))}
	}
	b, err := batch.Rebuild(h, records, batch.Codec(random.IntN(int(batch.Snappy)+1)))
	if err != nil {
		panic(err)
	}
	return b
}

// inTransaction is a batch as a transactional producer sends it.
func inTransaction(b []byte, id int64, epoch int16, sequence int32) []byte {
	h, _, err := batch.Parse(b)
	if err != nil {
		panic(err)
	}
	records, err := batch.Records(b, len(b)+1<<20)
	if err != nil {
		panic(err)
	}
	h.Attributes, h.ProducerID, h.ProducerEpoch, h.BaseSequence = h.Attributes|batch.AttributeTransactional, id, epoch, sequence
	if b, err = batch.Rebuild(h, records, h.Codec()); err != nil {
		panic(err)
	}
	return b
}

func askProduce(random *rand.Rand, m mapping, r kmsg.Request) {
	req := r.(*kmsg.ProduceRequest)
	req.TransactionID, req.Acks, req.TimeoutMillis = nil, int16(1-2*random.IntN(2)), 1+random.Int32N(60_000)
	if random.IntN(2) == 0 {
		req.TransactionID = kmsg.StringPtr("app")
	}
	for i := range req.Topics {
		for j := range req.Topics[i].Partitions {
			b := randomBatch(random, 0)
			if req.TransactionID != nil {
				b = inTransaction(b, m.producer(codecProducer, atClient), int16(random.IntN(1<<15)), random.Int32())
			}
			req.Topics[i].Partitions[j].Records = b
		}
	}
}

func answerProduce(random *rand.Rand, m mapping, r kmsg.Request, a kmsg.Response) {
	resp := a.(*kmsg.ProduceResponse)
	resp.Topics = nil
	for _, t := range r.(*kmsg.ProduceRequest).Topics {
		topic := kmsg.NewProduceResponseTopic()
		topic.Topic = t.Topic
		for _, p := range t.Partitions {
			out := kmsg.NewProduceResponseTopicPartition()
			out.Partition, out.BaseOffset, out.LogAppendTime = p.Partition, random.Int64N(1<<40), random.Int64N(1<<42)-1
			if !m.same {
				out.LogStartOffset, out.CurrentLeader.LeaderID = random.Int64N(1<<40), random.Int32()
			}
			if random.IntN(4) == 0 {
				out = kmsg.NewProduceResponseTopicPartition()
				out.Partition, out.ErrorCode, out.ErrorMessage = p.Partition, kerr.InvalidRecord.Code, kmsg.StringPtr("no")
				out.ErrorRecords = []kmsg.ProduceResponseTopicPartitionErrorRecord{{RelativeOffset: 3, ErrorMessage: kmsg.StringPtr("why")}}
				out.BaseOffset = -1
			}
			topic.Partitions = append(topic.Partitions, out)
		}
		resp.Topics = append(resp.Topics, topic)
	}
	if m.same {
		resp.Brokers = nil
	}
}

func toldProduce(_ kmsg.Request, r kmsg.Response) kmsg.Response {
	resp := r.(*kmsg.ProduceResponse)
	resp.Brokers = nil
	for i := range resp.Topics {
		for j := range resp.Topics[i].Partitions {
			p := &resp.Topics[i].Partitions[j]
			p.LogStartOffset, p.CurrentLeader = -1, kmsg.NewProduceResponseTopicPartitionCurrentLeader()
		}
	}
	return resp
}

func askFetch(random *rand.Rand, m mapping, r kmsg.Request) {
	req := r.(*kmsg.FetchRequest)
	req.SessionID, req.SessionEpoch, req.MaxWaitMillis, req.MaxBytes = 0, -1, random.Int32N(500), 1<<20
	req.IsolationLevel = int8(random.IntN(2)) // others are refused
	if m.same {
		askedFetch(r)
	}
}

func askedFetch(r kmsg.Request) kmsg.Request {
	req := r.(*kmsg.FetchRequest)
	req.ClusterID, req.ReplicaID, req.ReplicaState, req.ForgottenTopics, req.Rack = nil, -1, kmsg.NewFetchRequestReplicaState(), nil, ""
	for i := range req.Topics {
		for j := range req.Topics[i].Partitions {
			p, own := &req.Topics[i].Partitions[j], kmsg.NewFetchRequestTopicPartition()
			p.CurrentLeaderEpoch, p.LastFetchedEpoch, p.LogStartOffset = -1, -1, -1
			p.ReplicaDirectoryID, p.HighWatermark = own.ReplicaDirectoryID, own.HighWatermark
		}
	}
	return req
}

func ownFetch(m wiretest.Message) {
	if req, ok := m.(*kmsg.FetchRequest); ok {
		req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 0, 0, 0
		for i := range req.Topics {
			for j := range req.Topics[i].Partitions {
				req.Topics[i].Partitions[j].PartitionMaxBytes = 0
			}
		}
	}
}

func answerFetch(random *rand.Rand, m mapping, r kmsg.Request, a kmsg.Response) {
	resp := a.(*kmsg.FetchResponse)
	resp.Topics = nil
	for _, t := range r.(*kmsg.FetchRequest).Topics {
		topic := kmsg.NewFetchResponseTopic()
		topic.Topic = t.Topic
		for _, p := range t.Partitions {
			out := kmsg.NewFetchResponseTopicPartition()
			wiretest.FillStruct(random, &out)
			out.Partition, out.ErrorCode, out.RecordBatches = p.Partition, 0, nil
			next := p.FetchOffset
			if next < 0 || next >= 1<<41 {
				out.ErrorCode = kerr.OffsetOutOfRange.Code
				topic.Partitions = append(topic.Partitions, out)
				continue
			}
			for range 1 + random.IntN(3) {
				b := randomBatch(random, next)
				epoch := int32(random.IntN(100))
				if m.same {
					epoch = spillway.VirtualLeaderEpoch(1)
				}
				batch.SetLeaderEpoch(b, epoch)
				h, _, _ := batch.Parse(b)
				next = h.NextOffset()
				out.RecordBatches = append(out.RecordBatches, b...)
			}
			out.LogStartOffset = random.Int64N(p.FetchOffset + 1)
			out.LastStableOffset = next + random.Int64N(100)
			out.HighWatermark = out.LastStableOffset + random.Int64N(100)
			for i := range out.AbortedTransactions {
				out.AbortedTransactions[i].FirstOffset = out.LogStartOffset + random.Int64N(100)
			}
			topic.Partitions = append(topic.Partitions, out)
		}
		resp.Topics = append(resp.Topics, topic)
	}
	resp.ErrorCode = 0
	if m.same {
		toldFetch(r, a)
	}
}

func toldFetch(_ kmsg.Request, r kmsg.Response) kmsg.Response {
	resp := r.(*kmsg.FetchResponse)
	resp.ThrottleMillis, resp.SessionID, resp.Brokers = 0, 0, nil
	for i := range resp.Topics {
		for j := range resp.Topics[i].Partitions {
			p, own := &resp.Topics[i].Partitions[j], kmsg.NewFetchResponseTopicPartition()
			p.DivergingEpoch, p.CurrentLeader, p.SnapshotID, p.PreferredReadReplica = own.DivergingEpoch, own.CurrentLeader, own.SnapshotID, -1
		}
	}
	return resp
}

func askListOffsets(random *rand.Rand, m mapping, r kmsg.Request) {
	req := r.(*kmsg.ListOffsetsRequest)
	req.IsolationLevel = int8(random.IntN(2)) // others are refused
	for i := range req.Topics {
		for j := range req.Topics[i].Partitions {
			req.Topics[i].Partitions[j].Timestamp = []int64{timestampMax, timestampEarliest, timestampLatest, random.Int64()}[random.IntN(4)]
		}
	}
	if m.same {
		askedListOffsets(r)
	}
}

func askedListOffsets(r kmsg.Request) kmsg.Request {
	req := r.(*kmsg.ListOffsetsRequest)
	req.ReplicaID = -1
	return req
}

func answerListOffsets(random *rand.Rand, m mapping, r kmsg.Request, a kmsg.Response) {
	resp := a.(*kmsg.ListOffsetsResponse)
	resp.Topics = nil
	for _, t := range r.(*kmsg.ListOffsetsRequest).Topics {
		topic := kmsg.NewListOffsetsResponseTopic()
		topic.Topic = t.Topic
		for _, p := range t.Partitions {
			out := kmsg.NewListOffsetsResponseTopicPartition()
			out.Partition, out.Offset, out.Timestamp = p.Partition, random.Int64N(1<<40), random.Int64()
			if !m.same {
				out.LeaderEpoch = random.Int32N(100)
			}
			topic.Partitions = append(topic.Partitions, out)
		}
		resp.Topics = append(resp.Topics, topic)
	}
}

// noThrottle: where one request becomes several, throttle times are the gateway's.
func noThrottle(_ kmsg.Request, r kmsg.Response) kmsg.Response {
	switch resp := r.(type) {
	case *kmsg.ListOffsetsResponse:
		resp.ThrottleMillis = 0
	case *kmsg.DescribeGroupsResponse:
		resp.ThrottleMillis = 0
	case *kmsg.ListGroupsResponse:
		resp.ThrottleMillis = 0
	case *kmsg.ConsumerGroupDescribeResponse:
		resp.ThrottleMillis = 0
	case *kmsg.OffsetFetchResponse:
		resp.ThrottleMillis = 0
	case *kmsg.DescribeConfigsResponse:
		resp.ThrottleMillis = 0
	}
	return r
}

func askDescribeConfigs(_ *rand.Rand, _ mapping, r kmsg.Request) {
	req := r.(*kmsg.DescribeConfigsRequest)
	for i := range req.Resources {
		req.Resources[i].ResourceType, req.Resources[i].ResourceName = kmsg.ConfigResourceTypeTopic, codecTopics[i]
	}
}

func answerDescribeConfigs(random *rand.Rand, m mapping, r kmsg.Request, a kmsg.Response) {
	resp := a.(*kmsg.DescribeConfigsResponse)
	resp.Resources = nil
	for _, asked := range r.(*kmsg.DescribeConfigsRequest).Resources {
		out := kmsg.NewDescribeConfigsResponseResource()
		wiretest.FillStruct(random, &out)
		out.ResourceType, out.ResourceName = asked.ResourceType, asked.ResourceName
		if len(out.Configs) > 1 && !m.same {
			out.Configs[0].Name = ofBrokers[random.IntN(len(ofBrokers))]
		}
		resp.Resources = append(resp.Resources, out)
	}
}

func toldDescribeConfigs(in kmsg.Request, r kmsg.Response) kmsg.Response {
	resp := r.(*kmsg.DescribeConfigsResponse)
	for i := range resp.Resources {
		if c := resp.Resources[i].Configs; len(c) > 0 && slices.Contains(ofBrokers, c[0].Name) {
			resp.Resources[i].Configs = c[1:]
		}
	}
	return noThrottle(in, r)
}

func answerOffsetCommit(random *rand.Rand, _ mapping, r kmsg.Request, a kmsg.Response) {
	resp := a.(*kmsg.OffsetCommitResponse)
	resp.Topics = nil
	for _, t := range r.(*kmsg.OffsetCommitRequest).Topics {
		topic := kmsg.NewOffsetCommitResponseTopic()
		topic.Topic = t.Topic
		for _, p := range t.Partitions {
			out := kmsg.NewOffsetCommitResponseTopicPartition()
			out.Partition, out.ErrorCode = p.Partition, []int16{0, kerr.UnknownMemberID.Code, kerr.IllegalGeneration.Code}[random.IntN(3)]
			topic.Partitions = append(topic.Partitions, out)
		}
		resp.Topics = append(resp.Topics, topic)
	}
}

func askedOffsetCommit(r kmsg.Request) kmsg.Request {
	req := r.(*kmsg.OffsetCommitRequest)
	for i := range req.Topics {
		for j := range req.Topics[i].Partitions {
			if p := &req.Topics[i].Partitions[j]; p.Metadata == nil {
				p.Metadata = kmsg.StringPtr("") // the same for a broker
			}
		}
	}
	return req
}

func storedOffsetCommit(m mapping, r kmsg.Request) error {
	req := r.(*kmsg.OffsetCommitRequest)
	for i := range req.Topics {
		for j := range req.Topics[i].Partitions {
			p := &req.Topics[i].Partitions[j]
			v, epoch, metadata, ok := offsetmap.DecodeCommit(*p.Metadata)
			if !ok || int64(v) != p.Offset+m.base || epoch != 1 {
				return errNotStored
			}
			p.Metadata = &metadata
		}
	}
	return nil
}

func answerTxnOffsetCommit(random *rand.Rand, _ mapping, r kmsg.Request, a kmsg.Response) {
	resp := a.(*kmsg.TxnOffsetCommitResponse)
	resp.Topics = nil
	for _, t := range r.(*kmsg.TxnOffsetCommitRequest).Topics {
		topic := kmsg.NewTxnOffsetCommitResponseTopic()
		topic.Topic = t.Topic
		for _, p := range t.Partitions {
			out := kmsg.NewTxnOffsetCommitResponseTopicPartition()
			out.Partition, out.ErrorCode = p.Partition, []int16{0, kerr.UnknownMemberID.Code, kerr.IllegalGeneration.Code}[random.IntN(3)]
			topic.Partitions = append(topic.Partitions, out)
		}
		resp.Topics = append(resp.Topics, topic)
	}
}

func askedTxnOffsetCommit(r kmsg.Request) kmsg.Request {
	req := r.(*kmsg.TxnOffsetCommitRequest)
	for i := range req.Topics {
		for j := range req.Topics[i].Partitions {
			if p := &req.Topics[i].Partitions[j]; p.Metadata == nil {
				p.Metadata = kmsg.StringPtr("") // the same for a broker
			}
		}
	}
	return req
}

func storedTxnOffsetCommit(m mapping, r kmsg.Request) error {
	req := r.(*kmsg.TxnOffsetCommitRequest)
	plain := plainCommit(req)
	err := storedOffsetCommit(m, plain)
	for i := range req.Topics {
		for j := range req.Topics[i].Partitions {
			req.Topics[i].Partitions[j].Metadata = plain.Topics[i].Partitions[j].Metadata
		}
	}
	return err
}

func answerOffsetFetch(random *rand.Rand, m mapping, r kmsg.Request, a kmsg.Response) {
	resp := a.(*kmsg.OffsetFetchResponse)
	resp.Groups = resp.Groups[:0]
	for _, asked := range r.(*kmsg.OffsetFetchRequest).Groups {
		g := kmsg.NewOffsetFetchResponseGroup()
		g.Group = asked.Group
		for _, name := range codecTopics {
			topic := kmsg.NewOffsetFetchResponseGroupTopic()
			topic.Topic = name
			for p := range int32(random.IntN(codecPartitions)) {
				out := kmsg.NewOffsetFetchResponseGroupTopicPartition()
				out.Partition, out.Offset = p, random.Int64N(1<<40)-1
				if !m.same {
					out.LeaderEpoch = random.Int32N(100)
				}
				switch metadata := "of the client"; random.IntN(3) {
				case 0:
					out.Metadata = &metadata
				case 1:
					if out.Offset >= 0 {
						stored := offsetmap.EncodeCommit(spillway.Offset(out.Offset+m.base), 1, metadata)
						out.Metadata = &stored
					}
				}
				topic.Partitions = append(topic.Partitions, out)
			}
			g.Topics = append(g.Topics, topic)
		}
		resp.Groups = append(resp.Groups, g)
	}
}

// askedOffsetFetch: the site is asked in the form for several groups.
func askedOffsetFetch(r kmsg.Request) kmsg.Request {
	req := r.(*kmsg.OffsetFetchRequest)
	if req.Version >= 8 {
		return req
	}
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = req.Group
	if req.Topics != nil {
		g.Topics = []kmsg.OffsetFetchRequestGroupTopic{}
	}
	for _, t := range req.Topics {
		topic := kmsg.NewOffsetFetchRequestGroupTopic()
		topic.Topic, topic.Partitions = t.Topic, t.Partitions
		g.Topics = append(g.Topics, topic)
	}
	req.Groups, req.Topics, req.Group = []kmsg.OffsetFetchRequestGroup{g}, nil, ""
	return req
}

func toldOffsetFetch(in kmsg.Request, r kmsg.Response) kmsg.Response {
	resp := noThrottle(in, r).(*kmsg.OffsetFetchResponse)
	for i := range resp.Groups {
		for j := range resp.Groups[i].Topics {
			for k := range resp.Groups[i].Topics[j].Partitions {
				p := &resp.Groups[i].Topics[j].Partitions[k]
				if p.Metadata == nil {
					continue
				}
				if _, _, metadata, ok := offsetmap.DecodeCommit(*p.Metadata); ok {
					p.Metadata = &metadata
				}
			}
		}
	}
	if in.GetVersion() >= 8 {
		return resp
	}
	for _, t := range resp.Groups[0].Topics {
		topic := kmsg.NewOffsetFetchResponseTopic()
		topic.Topic = t.Topic
		for _, p := range t.Partitions {
			out := kmsg.NewOffsetFetchResponseTopicPartition()
			out.Partition, out.Offset, out.LeaderEpoch, out.Metadata = p.Partition, p.Offset, p.LeaderEpoch, p.Metadata
			topic.Partitions = append(topic.Partitions, out)
		}
		resp.Topics = append(resp.Topics, topic)
	}
	return resp
}
