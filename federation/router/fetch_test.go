package router

import (
	"testing"
	"testing/synctest"

	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// A site that answers with nothing and does not wait is asked again after a pause.
func TestASiteThatDoesNotWaitIsNotAskedWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, identity(), kversion.V4_4_0())
		defer w.Close()
		w.site.answers(func(r kmsg.Request) kmsg.Response {
			resp := r.ResponseKind().(*kmsg.FetchResponse)
			resp.Topics = []kmsg.FetchResponseTopic{{Topic: "orders", Partitions: []kmsg.FetchResponseTopicPartition{kmsg.NewFetchResponseTopicPartition()}}}
			return resp
		})
		req := kmsg.NewPtrFetchRequest()
		req.Version, req.SessionEpoch, req.MinBytes, req.MaxBytes, req.MaxWaitMillis = 12, -1, 1, 1<<20, 500
		req.Topics = []kmsg.FetchRequestTopic{{Topic: "orders", Partitions: []kmsg.FetchRequestTopicPartition{kmsg.NewFetchRequestTopicPartition()}}}
		if _, err := w.serve(t.Context(), 1, 12, req.AppendTo(nil)); err != nil {
			t.Fatal(err)
		}
		if asked, _ := w.site.take(); len(asked) > 26 { // 500 ms of 20 ms pauses
			t.Errorf("the site was asked %d times", len(asked))
		}
	})
}
