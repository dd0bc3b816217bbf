package router

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// describe asks a gateway for the settings of topics, of which each has one of so many bytes.
func (w *codecWorld) describe(t *testing.T, valueBytes int, names ...string) (resources []kmsg.DescribeConfigsResponseResource, asked []int) {
	t.Helper()
	w.site.answers(func(up kmsg.Request) kmsg.Response {
		resp := up.ResponseKind().(*kmsg.DescribeConfigsResponse)
		for _, r := range up.(*kmsg.DescribeConfigsRequest).Resources {
			out := kmsg.NewDescribeConfigsResponseResource()
			out.ResourceType, out.ResourceName = r.ResourceType, r.ResourceName
			setting := kmsg.NewDescribeConfigsResponseResourceConfig()
			setting.Name, setting.Value = "a", kmsg.StringPtr(strings.Repeat("x", valueBytes))
			out.Configs = append(out.Configs, setting)
			resp.Resources = append(resp.Resources, out)
		}
		return resp
	})
	resources = w.describeOf(t, names...)
	requests, _ := w.site.take()
	for _, r := range requests {
		asked = append(asked, len(r.(*kmsg.DescribeConfigsRequest).Resources))
	}
	return resources, asked
}

func (w *codecWorld) describeOf(t *testing.T, names ...string) []kmsg.DescribeConfigsResponseResource {
	t.Helper()
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.Version = 4
	for _, name := range names {
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, name
		req.Resources = append(req.Resources, r)
	}
	body, err := w.serve(t.Context(), req.Key(), req.Version, req.AppendTo(nil))
	if err != nil {
		t.Fatal(err)
	}
	resp := req.ResponseKind().(*kmsg.DescribeConfigsResponse)
	if err := resp.ReadFrom(body); err != nil {
		t.Fatal(err)
	}
	if len(resp.Resources) != len(names) {
		t.Fatalf("%d answers to %d topics", len(resp.Resources), len(names))
	}
	return resp.Resources
}

func topicNames(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("topic-%d", i))
	}
	return names
}

// A site is asked for some topics at a time, and for each one once.
func TestSettingsAreAskedForInPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, translating(), kversion.V4_4_0())
		defer w.Close()
		got, asked := w.describe(t, 10, append(topicNames(120), "topic-7", "topic-7")...)
		if fmt.Sprint(asked) != "[50 50 20]" {
			t.Errorf("the site was asked for %v topics", asked)
		}
		for i, r := range got {
			want := int16(0)
			if i >= 120 {
				want = kerr.InvalidRequest.Code
			}
			if r.ErrorCode != want || (want == 0) != (len(r.Configs) == 1) {
				t.Errorf("%d: %+v", i, r)
			}
		}
	})
}

// What does not fit any more is refused, and the rest is answered.
func TestSettingsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, translating(), kversion.V4_4_0())
		defer w.Close()
		got, asked := w.describe(t, settingsBytesMax/describedTogether/2, topicNames(describedTogether+1)...)
		if fmt.Sprint(asked) != "[50]" {
			t.Errorf("the site was asked for %v topics", asked)
		}
		last := got[describedTogether]
		if got[0].ErrorCode != 0 || last.ErrorCode != kerr.PolicyViolation.Code || !strings.Contains(*last.ErrorMessage, "fewer") {
			t.Errorf("first %d, last %+v", got[0].ErrorCode, last)
		}
	})
}

// A broker that does not answer is left for another one, and what it says later is in
// nobody's way.
func TestABrokerThatHangsDoesNotHoldSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, translating(), kversion.V4_4_0())
		defer w.Close()
		var asked atomic.Int32
		w.site.says(func(up kmsg.Request) []byte {
			if asked.Add(1) == 1 {
				time.Sleep(2 * describeSiteMax)
			}
			resp := up.ResponseKind().(*kmsg.DescribeConfigsResponse)
			out := kmsg.NewDescribeConfigsResponseResource()
			out.ResourceType, out.ResourceName = kmsg.ConfigResourceTypeTopic, "orders"
			resp.Resources = append(resp.Resources, out)
			return resp.AppendTo(nil)
		})
		began := time.Now()
		if got := w.describeOf(t, "orders"); got[0].ErrorCode != 0 {
			t.Errorf("%+v", got[0])
		}
		if took := time.Since(began); took > describeSiteMax {
			t.Errorf("it took %s", took)
		}
		time.Sleep(2 * describeSiteMax) // the broker answers, to nobody
	})
}

// Clients of settings do not ask again by themselves: they are told what to do.
func TestASiteWithoutAnswerIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, translating(), kversion.V4_4_0())
		defer w.Close()
		var refused []string
		w.events.Refused = func(reason string) { refused = append(refused, reason) }
		var tries atomic.Int32
		w.site.says(func(kmsg.Request) []byte { tries.Add(1); return []byte("nonsense") })
		got := w.describeOf(t, "orders")[0]
		if got.ErrorCode != kerr.LeaderNotAvailable.Code || got.ErrorMessage == nil || !strings.Contains(*got.ErrorMessage, "site east") {
			t.Errorf("%+v", got)
		}
		if tries.Load() < 2 || fmt.Sprint(refused) != "[settings-site]" {
			t.Errorf("%d tries, events %v", tries.Load(), refused)
		}
	})
}
