package mirror

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"spillway"
)

// What is told to the map, or to another mirror, of how far a flow has come is true only
// while the flow does not run: it is done alone.

// leadMax is how long a take-over waits for a run that was killed to be over.
const leadMax = leaseTTL + leaseMargin + 5*time.Second

// lead joins the workers of the flow, and returns when there are no others. A run that
// begins later takes its share: hold keeps from it what is about to be written.
func (m *Mirror) lead(ctx context.Context, share Assignment) error {
	m.crew.begin()
	return m.alone(ctx, share, leadMax)
}

// alone waits so long for all other workers to be gone.
func (m *Mirror) alone(ctx context.Context, share Assignment, patience time.Duration) error {
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if others, err := m.crew.alone(bounded); err != nil {
		return fmt.Errorf("a mirror run from site %s to site %s works (%s); stop it first: %w", share.Source, m.site, strings.Join(others, ", "), err)
	}
	return nil
}

// held are partitions that no run touches before they are let go.
type held map[spillway.TopicPartition]Lease

// hold takes partitions, if nobody else works, and reads the map up to then. It takes
// them by the keys by which runs share them, so their topics have to be claimed before.
func (m *Mirror) hold(ctx context.Context, share Assignment, tps []spillway.TopicPartition) (held, error) {
	if err := m.alone(ctx, share, leaseRenew); err != nil {
		return nil, err
	}
	bounded, cancel := context.WithTimeout(ctx, leadMax)
	defer cancel()
	h := make(held, len(tps))
	for _, tp := range tps {
		lease, err := m.crew.claim(bounded, tp)
		if err != nil {
			h.letGo()
			return nil, fmt.Errorf("a mirror run from site %s to site %s has begun, and %s is its own; stop it first: %w", share.Source, m.site, tp, err)
		}
		h[tp] = lease
	}
	if err := m.readMap(ctx); err != nil {
		h.letGo()
		return nil, err
	}
	return h, nil
}

// letGo lets runs have the partitions.
func (h held) letGo() {
	for _, lease := range h {
		letGo(lease)
	}
}

var errNotHeld = errors.New("the map topic was not reached for so long that a mirror run may have begun; try again")

// still is nil while a partition is held.
func (h held) still(tp spillway.TopicPartition, now time.Time) error {
	if lease := h[tp]; lease == nil || !lease.Held(now) {
		return errNotHeld
	}
	return nil
}
