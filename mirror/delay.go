package mirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	"spillway"
)

// A delayed flow is a safety net: what somebody deletes or corrupts at the source comes
// to the target only after the delay, and until then the target can be brought to any
// moment before.

// delayPauseMax is how long a delayed partition rests at most. What it fetches behind
// the last batch that is old enough is fetched again, so it does not look for each
// batch as it comes of age.
const delayPauseMax = 30 * time.Second

// untilDue is how long a partition rests whose next batch is too young.
func (f *flow) untilDue(timestamp int64, now time.Time) time.Duration {
	due := time.UnixMilli(timestamp).Add(f.share.Delay).Sub(now)
	return min(max(due, f.share.Delay/20), delayPauseMax)
}

// boundsAt are the virtual offsets of a source behind all that is older than a time:
// in each partition, that of the first record that is younger.
func (m *Mirror) boundsAt(ctx context.Context, s *source, tps []spillway.TopicPartition, until time.Time) (map[spillway.TopicPartition]spillway.Offset, error) {
	ends, err := firstFrom(ctx, s.cluster, tps, until.UnixMilli()+1)
	if err != nil {
		return nil, err
	}
	bounds := make(map[spillway.TopicPartition]spillway.Offset, len(tps))
	for _, tp := range tps {
		bounds[tp], _ = s.view(tp).ToVirtual(ends[tp])
	}
	return bounds, nil
}

// until sets where the flow of a run ends, before it begins: behind the last records up
// to a time.
func (m *Mirror) until(ctx context.Context, a Assignment, until time.Time) (Assignment, error) {
	if err := m.readMap(ctx); err != nil {
		return a, err
	}
	src, tps, err := m.sourcePartitions(ctx, a)
	if err != nil {
		return a, err
	}
	if a.Until, err = m.boundsAt(ctx, src, tps, until); err != nil {
		return a, err
	}
	for _, tp := range tps {
		if end, _ := m.reader.View(tp).End(); end > a.Until[tp] {
			return a, fmt.Errorf("site %s has records of %s up to virtual offset %d already, those up to %s end at %d", m.site, tp, end, until.Format(time.RFC3339), a.Until[tp])
		}
	}
	return a, nil
}

// waitUntil waits until the flow has come to its end.
func (m *Mirror) waitUntil(ctx context.Context, a Assignment) error {
	s, err := m.share(a.Share)
	if err != nil {
		return err
	}
	f := s.running()
	select {
	case <-f.ending.reached:
		return nil
	case <-f.done:
		return errors.New("the flow was stopped")
	case <-ctx.Done():
		return fmt.Errorf("mirror from site %s: %w; %s", a.Source, ctx.Err(), f.missing())
	}
}

// checkTimes says which settings of a run contradict each other.
func (c RunConfig) checkTimes(now time.Time) error {
	switch {
	case c.Delay < 0:
		return fmt.Errorf("mirror run: a delay of %s", c.Delay)
	case c.Delay > 0 && (c.UntilCaughtUp || !c.Until.IsZero()):
		return errors.New("mirror run: a delayed flow has never caught up; to bring its target to a moment, run without a delay until then")
	case c.Until.After(now):
		return fmt.Errorf("mirror run: %s is not over yet: records of before may still come", c.Until.Format(time.RFC3339))
	}
	return nil
}
