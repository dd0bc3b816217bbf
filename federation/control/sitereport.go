package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
)

type siteReport struct {
	failover.SiteReport
	version uint64
}

// report rewrites this site's report about an epoch. What was done in one term of
// the writer lease is reported in the same one: by the next, another process may
// have made a flow run that was reported as stopped.
func (s *followed) report(ctx context.Context, epoch spillway.Epoch, change func(*failover.SiteReport)) error {
	if !s.f.cfg.Writer.holds(s.term.Load()) {
		return errNotLeading
	}
	r := s.reports[epoch]
	if r == nil {
		r = &siteReport{}
		s.reports[epoch] = r
	}
	key := s.f.keys.SiteReport(s.id, epoch, s.f.site)
	for range 3 {
		next := r.SiteReport
		next.Site = s.f.site
		change(&next)
		value, err := json.Marshal(next)
		if err != nil {
			return fmt.Errorf("report of %s: %w", s.f.site, err)
		}
		version, err := s.f.cfg.Store.Put(ctx, key, value, r.version)
		if err == nil {
			r.SiteReport, r.version = next, version
			return nil
		}
		// Written by this site before a restart, or by a write that was not answered.
		e, err := s.f.cfg.Store.Get(ctx, key)
		if err != nil && !errors.Is(err, coordination.ErrNotFound) {
			return fmt.Errorf("report of %s: %w", s.f.site, err)
		}
		r.version = e.Version
		if e.Version > 0 {
			if err := json.Unmarshal(e.Value, &r.SiteReport); err != nil {
				r.SiteReport = failover.SiteReport{}
			}
		}
	}
	return fmt.Errorf("report of %s about epoch %d: %w", s.f.site, epoch, coordination.ErrConflict)
}
