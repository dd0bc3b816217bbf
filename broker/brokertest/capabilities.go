package brokertest

import (
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
)

// declared compares what was seen with what the adapter says of itself.
func (f *fixture) declared(capability string, seen, declared bool) {
	f.Helper()
	if seen != declared {
		f.Errorf("%s: declared %v, seen %v", capability, declared, seen)
	}
}

// logEnd: the end may be above the high watermark, never below. That it is
// where a follower trails takes several brokers; the tests of broker/kafka show it.
func logEnd(t *testing.T, f *fixture) {
	tp := f.topic(1, nil)
	for end := range spillway.LocalOffset(3) {
		ends, err := f.admin.LogEnds(f.ctx, []spillway.TopicPartition{tp})
		f.must(err)
		f.declared("LogEndOffset", ends[tp] == end, f.can.LogEndOffset)
		marks, err := f.admin.HighWatermarks(f.ctx, []spillway.TopicPartition{tp})
		if err != nil || marks[tp] > ends[tp] {
			t.Errorf("high watermark %d above the end %d, %v", marks[tp], ends[tp], err)
		}
		if _, code := f.produce(f.Cluster, tp, 1, plain(1, time.Now())); code != 0 {
			t.Fatalf("produce with acks 1: error code %d", code)
		}
	}
}

func producers(t *testing.T, f *fixture) {
	tp, w := f.topic(1, nil), newWriter()
	f.append(tp, w.batch(0, 3, time.Now()))
	states, err := f.admin.DescribeProducers(f.ctx, tp)
	f.must(err)
	f.declared("DescribeProducers", len(states) == 1, f.can.DescribeProducers)
	if len(states) == 1 && (states[0].ID != w.id || states[0].LastSequence != 2 || states[0].CurrentTxnStart != -1 || states[0].Epoch != 0) {
		t.Errorf("state %+v", states[0])
	}
	if _, err := f.admin.DescribeProducers(f.ctx, spillway.TopicPartition{Topic: f.name("absent")}); !errors.Is(err, broker.ErrUnknownTopic) {
		t.Errorf("producers of an absent topic: %v", err)
	}
}

// producerExpiry: the age of records, not of the producer, decides (C3).
func producerExpiry(t *testing.T, f *fixture) {
	tp, w := f.topic(1, map[string]string{"retention.ms": "-1"}), newWriter()
	old := w.batch(0, 1, time.Now().Add(-25*time.Hour))
	f.append(tp, old)
	if f.can.ProducerExpiry {
		f.eventually("the producer is forgotten", func() bool {
			states, err := f.admin.DescribeProducers(f.ctx, tp)
			f.must(err)
			return len(states) == 0
		})
	} else {
		<-time.After(2 * f.ExpiryCheck) // nothing is to happen, so there is nothing to wait for
	}
	offset := f.append(tp, old)
	f.declared("ProducerExpiry", offset == 1, f.can.ProducerExpiry)
}

func firstSequence(t *testing.T, f *fixture) {
	tp := f.topic(1, nil)
	_, code := f.produce(f.Cluster, tp, -1, newWriter().batch(100, 1, time.Now()))
	f.declared("FirstSequenceOnEmptyPartition", code == 0, f.can.FirstSequenceOnEmptyPartition)
	// On a partition that was written any first sequence is accepted; masked
	// producer ids rest on this (critique R1).
	tp = f.topic(1, nil)
	f.append(tp, plain(1, time.Now()))
	if _, code := f.produce(f.Cluster, tp, -1, newWriter().batch(100, 1, time.Now())); code != 0 {
		t.Errorf("an unknown producer was refused: error code %d", code)
	}
}

func sequenceWrap(t *testing.T, f *fixture) {
	tp, w := f.topic(1, nil), newWriter()
	f.append(tp, plain(1, time.Now()))
	f.append(tp, w.batch(2147483640, 10, time.Now()))
	_, code := f.produce(f.Cluster, tp, -1, w.batch(batch.NextSequence(2147483640, 10), 1, time.Now()))
	f.declared("SequenceWrap", code == 0, f.can.SequenceWrap)
}

func newProducerID(t *testing.T, f *fixture) {
	seen := map[int64]bool{}
	for range 3 {
		id, err := f.admin.NewProducerID(f.ctx)
		f.must(err)
		if id < 0 || seen[id] {
			t.Errorf("producer id %d, after %v", id, seen)
		}
		seen[id] = true
	}
}

func producerEpochs(t *testing.T, f *fixture) {
	a, w := f.topic(2, nil), newWriter()
	b := spillway.TopicPartition{Topic: a.Topic, Partition: 1}
	newer := writer{id: w.id, epoch: 1}
	f.append(a, newer.batch(0, 1, time.Now()))
	_, code := f.produce(f.Cluster, b, -1, w.batch(0, 1, time.Now()))
	f.declared("ProducerEpochPerPartition", code == 0, f.can.ProducerEpochPerPartition)
	if _, code := f.produce(f.Cluster, a, -1, w.batch(0, 1, time.Now())); code != kerr.InvalidProducerEpoch.Code {
		t.Errorf("an older epoch in the same partition: error code %d", code)
	}
}

func timestampLimits(t *testing.T, f *fixture) {
	_, code := f.produce(f.Cluster, f.topic(1, nil), -1, plain(1, time.Now().Add(2*time.Hour)))
	f.declared("TimestampLimits", code == kerr.InvalidTimestamp.Code, f.can.TimestampLimits)
}

func logAppendTime(t *testing.T, f *fixture) {
	tp := f.topic(1, map[string]string{"message.timestamp.type": "LogAppendTime"})
	hourAgo := time.Now().Add(-time.Hour)
	f.append(tp, plain(1, hourAgo))
	h, _, err := batch.Parse(f.fetch(tp, 0))
	f.must(err)
	stamped := h.Attributes&batch.AttributeLogAppendTime != 0 && h.MaxTimestamp > hourAgo.Add(time.Minute).UnixMilli()
	f.declared("LogAppendTime", stamped, f.can.LogAppendTime)
}

// acls: the fence closes one topic for one principal, and opens it again.
func acls(t *testing.T, f *fixture) {
	tp := f.topic(1, nil)
	names := []string{tp.Topic}
	if !f.can.ACLs {
		if err := f.admin.DenyWrite(f.ctx, "User:guest", names); !errors.Is(err, broker.ErrNotSupported) {
			t.Errorf("a fence without an authorizer: %v", err)
		}
		if err := f.admin.AllowWrite(f.ctx, "User:guest", names); !errors.Is(err, broker.ErrNotSupported) {
			t.Errorf("taking it back: %v", err)
		}
		if _, err := f.admin.ACLs(f.ctx); !errors.Is(err, broker.ErrNotSupported) {
			t.Errorf("ACLs without an authorizer: %v", err)
		}
		if _, err := f.admin.AllACLs(f.ctx); !errors.Is(err, broker.ErrNotSupported) {
			t.Errorf("all ACLs without an authorizer: %v", err)
		}
		return
	}
	if f.Guest == nil {
		t.Fatal("ACLs are declared, but the test has no guest")
	}
	entries := []spillway.ACL{
		{Resource: spillway.ACLTopic, Pattern: spillway.ACLPrefixed, Name: tp.Topic, Principal: "User:nobody", Host: "*", Operation: "READ", Permission: "ALLOW"},
		{Resource: spillway.ACLGroup, Pattern: spillway.ACLLiteral, Name: tp.Topic, Principal: "User:nobody", Host: "10.0.0.1", Operation: "READ", Permission: spillway.ACLDeny},
	}
	listed := func() (n int) {
		all, err := f.admin.ACLs(f.ctx)
		f.must(err)
		for _, e := range entries {
			if slices.Contains(all, e) {
				n++
			}
		}
		return n
	}
	for range 2 {
		f.must(f.admin.CreateACLs(f.ctx, entries))
	}
	f.eventually("the entries are listed", func() bool { return listed() == 2 })
	for range 2 {
		f.must(f.admin.DeleteACLs(f.ctx, entries[:1]))
	}
	f.eventually("one of them is gone", func() bool { return listed() == 1 })
	f.must(f.admin.DeleteACLs(f.ctx, entries))
	others := []spillway.ACL{
		{Resource: "CLUSTER", Pattern: spillway.ACLLiteral, Name: "kafka-cluster", Principal: "User:nobody", Host: "*", Operation: "IDEMPOTENT_WRITE", Permission: "ALLOW"},
		{Resource: "TRANSACTIONAL_ID", Pattern: spillway.ACLPrefixed, Name: tp.Topic, Principal: "User:nobody", Host: "*", Operation: "DESCRIBE", Permission: spillway.ACLDeny},
		{Resource: spillway.ACLGroup, Pattern: spillway.ACLLiteral, Name: "*", Principal: "User:nobody", Host: "*", Operation: "ALL", Permission: "ALLOW"},
	}
	f.must(f.admin.CreateACLs(f.ctx, others))
	f.eventually("all kinds are listed", func() bool {
		all, err := f.admin.AllACLs(f.ctx)
		f.must(err)
		return !slices.ContainsFunc(others, func(e spillway.ACL) bool { return !slices.Contains(all, e) })
	})
	f.must(f.admin.DeleteACLs(f.ctx, others))
	refused := func() bool {
		_, code := f.produce(f.Guest, tp, -1, plain(1, time.Now()))
		if code != 0 && code != kerr.TopicAuthorizationFailed.Code {
			t.Fatalf("error code %d", code)
		}
		return code != 0
	}
	if refused() {
		t.Fatal("refused before the fence")
	}
	for range 2 { // both may be repeated
		f.must(f.admin.DenyWrite(f.ctx, f.GuestPrincipal, names))
	}
	f.eventually("the fence holds", refused)
	f.append(tp, plain(1, time.Now())) // others write on
	for range 2 {
		f.must(f.admin.AllowWrite(f.ctx, f.GuestPrincipal, names))
	}
	f.eventually("the fence is gone", func() bool { return !refused() })
}

// quotas bind users, clients, and the defaults of both.
func quotas(t *testing.T, f *fixture) {
	name := "alice, of=sales"
	alice := broker.NewQuotaEntity(map[string]*string{"user": &name, "client-id": nil})
	rate, half := 1000.0, 0.5
	read := func() map[string]float64 {
		all, err := f.admin.Quotas(f.ctx)
		f.must(err)
		return all[alice]
	}
	f.must(f.admin.SetQuota(f.ctx, alice, map[string]*float64{"producer_byte_rate": &rate, "request_percentage": &half}))
	f.eventually("both values are there", func() bool {
		return maps.Equal(read(), map[string]float64{"producer_byte_rate": rate, "request_percentage": half})
	})
	f.must(f.admin.SetQuota(f.ctx, alice, map[string]*float64{"producer_byte_rate": nil}))
	f.eventually("one is left", func() bool { return maps.Equal(read(), map[string]float64{"request_percentage": half}) })
	f.must(f.admin.SetQuota(f.ctx, alice, map[string]*float64{"request_percentage": nil}))
	f.eventually("none is left", func() bool { return len(read()) == 0 })
}

func scramUsers(t *testing.T, f *fixture) {
	users, err := f.admin.ScramUsers(f.ctx)
	f.must(err)
	for user, mechanisms := range users {
		if user == "" || len(mechanisms) == 0 || slices.Contains(mechanisms, "") {
			t.Errorf("user %q with %v", user, mechanisms)
		}
	}
	if f.ScramUser != "" && len(users[f.ScramUser]) == 0 {
		t.Errorf("user %s is not among %v", f.ScramUser, users)
	}
}
