package mirror

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	expirySetting = "producer.id.expiration.ms"
	// expiryDefault is Kafka's; it counts until the target was asked, and where
	// it may not be.
	expiryDefault = 24 * time.Hour
	// expiryInterval is how often the target is asked: the setting is dynamic.
	expiryInterval = time.Minute
)

// expiry is how long the target remembers a producer, by the time of its
// records: the least of what its brokers say (C3).
type expiry struct {
	millis atomic.Int64 // 0: not known yet

	asking sync.Mutex // held while the target is asked
	asked  time.Time  // guarded by asking
}

func (e *expiry) get() time.Duration {
	if ms := e.millis.Load(); ms > 0 {
		return time.Duration(ms) * time.Millisecond
	}
	return expiryDefault
}

// learnExpiry asks the target, if that was long ago. What cannot be read stays
// as it was last known.
func (m *Mirror) learnExpiry(ctx context.Context) {
	if !m.local.Capabilities().ProducerExpiry || !m.expiry.asking.TryLock() {
		return
	}
	defer m.expiry.asking.Unlock()
	now := m.config.Now()
	if !m.expiry.asked.IsZero() && now.Sub(m.expiry.asked) < expiryInterval {
		return
	}
	values, err := m.local.Admin().BrokerConfig(ctx, expirySetting)
	if err != nil {
		return // asked again at the next look
	}
	m.expiry.asked = now
	if least, ok := leastMillis(values); ok {
		m.expiry.millis.Store(least)
	}
}

func leastMillis(values map[int32]string) (least int64, ok bool) {
	for _, text := range values {
		ms, err := strconv.ParseInt(text, 10, 32) // the setting is an INT
		if err == nil && ms > 0 && (!ok || ms < least) {
			least, ok = ms, true
		}
	}
	return least, ok
}

// aged tells whether a batch is so old that the target may forget its producer
// before the next one comes: producer state expires by record time (C3).
func (m *Mirror) aged(b outgoing) bool {
	return m.local.Capabilities().ProducerExpiry && m.config.Now().UnixMilli()-b.maxTimestamp > m.expiry.get().Milliseconds()/2
}
