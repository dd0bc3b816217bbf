package mirror

import (
	"context"
	"testing"
	"time"

	"spillway/broker"
)

// expirySite is a site whose brokers say how long they remember producers.
type expirySite struct {
	broker.Cluster
	admin expiryAdmin
}

type expiryAdmin struct {
	broker.Admin
	expiry map[int32]string
	asked  int
}

func (f *expirySite) Capabilities() broker.Capabilities {
	return broker.Capabilities{ProducerExpiry: true}
}
func (f *expirySite) Admin() broker.Admin { return &f.admin }

func (a *expiryAdmin) BrokerConfig(_ context.Context, name string) (map[int32]string, error) {
	a.asked++
	if name != "producer.id.expiration.ms" {
		return nil, broker.ErrNotSupported
	}
	return a.expiry, nil
}

// A target that forgets producers sooner than Kafka's default gets records in
// aged mode sooner too, or a resend would be appended twice (C3).
func TestAgedAsTheTargetForgets(t *testing.T) {
	t.Parallel()
	now := time.Now()
	site := &expirySite{admin: expiryAdmin{expiry: map[int32]string{1: "86400000", 2: "3600000", 3: "not told"}}}
	m := &Mirror{local: site, config: Config{Now: func() time.Time { return now }}}
	batch := outgoing{maxTimestamp: now.Add(-31 * time.Minute).UnixMilli()}
	if m.aged(batch) {
		t.Error("before the target was asked its default counts")
	}
	m.learnExpiry(t.Context())
	m.learnExpiry(t.Context())
	if !m.aged(batch) || site.admin.asked != 1 {
		t.Errorf("half an hour is old where an hour is remembered; asked %d times", site.admin.asked)
	}
	site.admin.expiry = map[int32]string{1: "86400000"}
	now = now.Add(expiryInterval)
	m.learnExpiry(t.Context())
	if m.aged(batch) {
		t.Error("the setting was raised again")
	}
}
