package router

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"spillway"
)

// A site that takes a moment longer than another one fails once. While clients go on asking for
// both it is waited for again: that others were reached first tells nothing of it.
func TestASiteThatFailedOnceIsReachedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, translating(), kversion.V4_4_0())
		defer w.Close()
		w.sites["west"] = w.site
		near, far := net.Pipe()
		defer near.Close()
		defer far.Close()
		c := w.Connect(far)
		defer c.Close()
		ask := func(east time.Duration) (reached bool, took time.Duration) {
			begun := time.Now()
			goals := []*goal{
				{site: "east", find: func(ctx context.Context) (int32, error) {
					select {
					case <-time.After(east):
						return 0, nil
					case <-ctx.Done():
						return 0, ctx.Err()
					}
				}},
				{site: "west", find: func(context.Context) (int32, error) { return 0, nil }},
			}
			c.lanes.reach(t.Context(), OtherLane, goals)
			if goals[1].err != nil {
				t.Fatal(goals[1].err)
			}
			return goals[0].err == nil, time.Since(begun)
		}
		const away, far50 = time.Minute, 50 * time.Millisecond
		if reached, took := ask(away); reached || took != reachOthers {
			t.Errorf("away: %v after %s", reached, took)
		}
		begun := time.Now()
		for reached := false; !reached; {
			if reached, _ = ask(far50); time.Since(begun) > 2*slowFor {
				t.Fatalf("a site that is well was not reached in %s", time.Since(begun))
			}
			time.Sleep(100 * time.Millisecond)
		}
		if reached, took := ask(far50); !reached || took != far50 {
			t.Errorf("well: %v after %s", reached, took)
		}
		// One that stays away takes others' time once in slowFor.
		waited := 0
		for begun := time.Now(); time.Since(begun) < 5*slowFor; time.Sleep(100 * time.Millisecond) {
			if _, took := ask(away); took > 0 {
				waited++
			}
		}
		if waited < 3 || waited > 5 {
			t.Errorf("%d requests waited for it in %s", waited, 5*slowFor)
		}
	})
}

// Where epochs end is asked of the leader that is known. One that does not lead any more is
// looked for, aside.
func TestEpochsAskTheLeaderThatIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, translating(), kversion.V4_4_0())
		defer w.Close()
		var asked atomic.Int64
		var silent atomic.Bool
		w.sites["east"] = countingSite{w.site, &asked, &silent}
		var says atomic.Int32
		w.site.answers(func(up kmsg.Request) kmsg.Response {
			resp := up.ResponseKind().(*kmsg.ListOffsetsResponse)
			for _, topic := range up.(*kmsg.ListOffsetsRequest).Topics {
				out := kmsg.NewListOffsetsResponseTopic()
				out.Topic = topic.Topic
				for _, p := range topic.Partitions {
					one := kmsg.NewListOffsetsResponseTopicPartition()
					one.Partition, one.ErrorCode, one.Offset = p.Partition, int16(says.Load()), 5
					out.Partitions = append(out.Partitions, one)
				}
				resp.Topics = append(resp.Topics, out)
			}
			return resp
		})
		req := kmsg.NewPtrOffsetForLeaderEpochRequest()
		req.Version, req.ReplicaID = 4, -1
		p := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
		p.CurrentLeaderEpoch, p.LeaderEpoch = spillway.VirtualLeaderEpoch(1), spillway.VirtualLeaderEpoch(1)
		req.Topics = []kmsg.OffsetForLeaderEpochRequestTopic{{Topic: "orders", Partitions: []kmsg.OffsetForLeaderEpochRequestTopicPartition{p}}}
		for _, c := range []struct {
			says  *kerr.Error
			want  int16
			asked int64
		}{
			{nil, 0, 0},
			{kerr.NotLeaderForPartition, kerr.NotLeaderForPartition.Code, 1},
			{kerr.UnknownTopicOrPartition, kerr.UnknownTopicOrPartition.Code, 1},
			{kerr.TopicAuthorizationFailed, kerr.TopicAuthorizationFailed.Code, 0},
		} {
			asked.Store(0)
			if says.Store(0); c.says != nil {
				says.Store(int32(c.says.Code))
			}
			got := call[*kmsg.OffsetForLeaderEpochResponse](t, w, req).Topics[0].Partitions[0]
			time.Sleep(2 * lookupPause)
			if got.ErrorCode != c.want || asked.Load() != c.asked {
				t.Errorf("%v: error %d, want %d; the site was asked %d times for metadata, want %d", c.says, got.ErrorCode, c.want, asked.Load(), c.asked)
			}
		}
	})
}
