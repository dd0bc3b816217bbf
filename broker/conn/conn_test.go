package conn_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"spillway/broker/conn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1), kfake.SeedTopics(2, "orders")}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func open(t *testing.T, config conn.Config) *conn.Conn {
	t.Helper()
	config.Site = "east"
	c, err := conn.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestRequestIsAnsweredInTheHighestCommonVersion(t *testing.T) {
	c := open(t, conn.Config{Address: start(t).ListenAddrs()[0]})
	resp, err := c.Do(t.Context(), kmsg.NewPtrMetadataRequest())
	if err != nil {
		t.Fatal(err)
	}
	m := resp.(*kmsg.MetadataResponse)
	if len(m.Topics) != 1 || *m.Topics[0].Topic != "orders" || len(m.Topics[0].Partitions) != 2 {
		t.Errorf("topics %+v", m.Topics)
	}
	if m.Version != min(c.MaxVersion(3), new(kmsg.MetadataRequest).MaxVersion()) {
		t.Errorf("version %d", m.Version)
	}
	if c.MaxVersion(32000) != -1 {
		t.Error("a request that nobody knows is offered")
	}
}

func TestAnswersGoToTheirOwnRequests(t *testing.T) {
	c := open(t, conn.Config{Address: start(t).ListenAddrs()[0], InFlightMax: 3})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 50 {
				topic := "orders"
				if i%2 == 0 {
					topic = "unknown"
				}
				req := kmsg.NewPtrMetadataRequest()
				req.Topics = []kmsg.MetadataRequestTopic{{Topic: &topic}}
				resp, err := c.Do(t.Context(), req)
				if err != nil {
					t.Error(err)
					return
				}
				if got := *resp.(*kmsg.MetadataResponse).Topics[0].Topic; got != topic {
					t.Errorf("asked for %s, answered %s", topic, got)
				}
			}
		})
	}
	all.Wait()
}

func TestCloseGivesUnansweredRequestsAReason(t *testing.T) {
	cluster := start(t)
	cluster.ControlKey(3, func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.SleepControl(func() { time.Sleep(100 * time.Millisecond) })
		return nil, nil, false
	})
	c := open(t, conn.Config{Address: cluster.ListenAddrs()[0]})
	req := kmsg.NewPtrMetadataRequest()
	p := c.Send(t.Context(), req.Key(), 0, true, req.AppendTo(nil))
	c.Close()
	if _, err := p.Wait(t.Context()); !errors.Is(err, conn.ErrClosed) {
		t.Errorf("error %v", err)
	}
	if _, err := c.Do(t.Context(), req); !errors.Is(err, conn.ErrClosed) {
		t.Errorf("later error %v", err)
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	cluster := start(t)
	release := make(chan struct{})
	defer close(release)
	cluster.ControlKey(3, func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.SleepControl(func() { <-release })
		return nil, nil, false
	})
	c := open(t, conn.Config{Address: cluster.ListenAddrs()[0]})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Do(ctx, kmsg.NewPtrMetadataRequest()); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestMechanisms(t *testing.T) {
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		t.Run(mechanism, func(t *testing.T) {
			address := start(t, kfake.EnableSASL(), kfake.Superuser(mechanism, "mirror", "secret")).ListenAddrs()[0]
			c := open(t, conn.Config{Address: address, SASL: &conn.SASL{Mechanism: mechanism, User: "mirror", Password: "secret"}})
			if _, err := c.Do(t.Context(), kmsg.NewPtrMetadataRequest()); err != nil {
				t.Error(err)
			}
			_, err := conn.Open(t.Context(), conn.Config{Site: "east", Node: 1, Address: address,
				SASL: &conn.SASL{Mechanism: mechanism, User: "mirror", Password: "wrong"}})
			if err == nil {
				t.Error("a wrong password was accepted")
			}
			t.Log(err)
		})
	}
}
