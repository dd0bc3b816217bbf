package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"spillway"
)

// ErrProducerIDs means that a cluster will hand out producer ids that are
// Spillway's own.
var ErrProducerIDs = errors.New("its producer ids may be Spillway's own")

// ids remembers that the site's producer ids were looked at.
type ids struct {
	sync.Mutex
	apart bool
}

// idsCounted is the most that lies between two ids of a cluster that counts: its
// brokers take them in blocks of a thousand.
const idsCounted = 1 << 32

// idsApart refuses a site whose cluster counts its producer ids where Spillway's
// own are: of two producers with one id the broker takes the second one's batches
// for copies, acknowledges them, and appends nothing (C25). Kafka counts from 0
// and stays far below; others begin above the highest id that they have seen, and
// that is a mirror's, so they show it at the next start. A cluster that draws its
// ids at random, as the embedded one does, meets ours no sooner than those meet
// each other. The site is asked once per process.
func (m *Mirror) idsApart(ctx context.Context) error {
	m.ids.Lock()
	defer m.ids.Unlock()
	if m.ids.apart {
		return nil
	}
	var drawn [2]int64
	for i := range drawn {
		var err error
		if drawn[i], err = m.local.Admin().NewProducerID(ctx); err != nil {
			return fmt.Errorf("look at the producer ids of site %s: %w", m.site, err)
		}
	}
	if apart := max(drawn[0]-drawn[1], drawn[1]-drawn[0]); apart < idsCounted && !(spillway.IsClusterProducerID(drawn[0]) && spillway.IsClusterProducerID(drawn[1])) {
		return fmt.Errorf("site %s hands out producer ids %d and %d, where Kafka counts up from 0 and stays below 2^48: %w; two producers with one id would lose records that were acknowledged, so this cluster cannot be a site",
			m.site, drawn[0], drawn[1], ErrProducerIDs)
	}
	m.ids.apart = true
	return nil
}
