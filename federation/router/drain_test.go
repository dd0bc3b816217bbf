package router

import (
	"testing"
	"testing/synctest"
	"time"

	"spillway"
	"spillway/federation/failover"
)

// A produce that lost its connection to the site that was lost does not make the end of the
// log of the next one doubtful: a move home within a minute would be held for it.
func TestUnsureIsOfTheSiteThatIsDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewShare(spillway.ShareID{Group: "shop"}, spillway.FailoverGroup{})
		terms := []failover.Term{{Epoch: 1, Site: "east"}}
		serve := func(epoch spillway.Epoch, site spillway.SiteID) Term {
			if epoch > 1 {
				terms = append(terms, failover.Term{Epoch: epoch, Site: site})
			}
			s.SetRecord(failover.Share{State: failover.Stable, Epoch: epoch, Active: site, Terms: terms})
			term := Term{Epoch: epoch, Base: epoch, Site: site}
			if !s.Open(term) {
				t.Fatalf("the share does not open in epoch %d", epoch)
			}
			return term
		}
		drain := func(next spillway.Epoch, want bool) {
			t.Helper()
			r := s.Record()
			r.State, r.Epoch = failover.Fencing, next
			s.SetRecord(r)
			if unsure, err := s.Drain(t.Context(), time.Second); err != nil || unsure != want {
				t.Errorf("drained for epoch %d: unsure %t, %v; want %t", next, unsure, err, want)
			}
		}
		east := &Lane{Kind: ProduceLane, Site: "east"}
		if !s.enter(serve(1, "east"), east) {
			t.Fatal("a produce does not enter")
		}
		s.leave(east, true, false)
		drain(2, true)

		serve(2, "west")
		time.Sleep(unsureMemory / 4)
		drain(3, false)

		serve(3, "east") // and what is on its way to it may still come
		drain(4, true)

		serve(4, "east")
		time.Sleep(unsureMemory)
		drain(5, false)
	})
}
