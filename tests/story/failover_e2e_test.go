//go:build e2e

package story

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"spillway"
	"spillway/federation/failover"
	"spillway/mirror"
	"spillway/tests/orders/check"
	"spillway/tests/orders/history"
	"spillway/tests/world"
)

// A site is killed while at least 500 of its acknowledged records are nowhere
// else. The others serve by themselves; what is missing lies within what was
// announced, is listed exactly once the site is back, and nothing else is wrong.
func TestASiteIsKilledWithRecordsThatNobodyElseHas(t *testing.T) {
	w := world.Start(t, world.Options{Automatic: true, ReservedBlock: 2000})
	r := begin(t, w, 1000, false)
	r.kill("east", 600)
	served := r.servedAgain(60 * time.Second)
	t.Logf("acknowledgements went on %s after the kill", served.Round(time.Millisecond))
	time.Sleep(5 * time.Second) // the length of the run on the other site: nothing is waited for
	share := r.share()
	expect := check.Expect{Home: "east", Behind: []string{"west", "north"}, Losses: announced(share), Hidden: map[string][]check.Range{}}

	w.RestartSite("east")
	var unreplicated []mirror.UnreplicatedRange
	w.Eventually(90*time.Second, "the lost site has come back and says what nobody else has", func() error {
		unreplicated = nil
		out, err := w.Run(t.Context(), "west", "unreplicated", "list", world.Group, "--site", "east", "-o", "json")
		if err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(out), &unreplicated); err != nil {
			return err
		}
		if len(unreplicated) == 0 {
			return errors.New("nothing is listed yet")
		}
		return nil
	})
	listed := int64(0)
	for _, u := range unreplicated {
		listed += int64(u.LocalTo - u.LocalFrom)
		expect.Hidden["east"] = append(expect.Hidden["east"], check.Range{Topic: u.Topic, Partition: u.Partition, From: int64(u.LocalFrom), To: int64(u.LocalTo)})
	}
	r.switchover(string(share.Active), "east")
	report := r.finish(expect)
	t.Logf("%d unreplicated records are listed, %d acknowledged ones are missing", listed, report.Figures.LostAnnounced)
	if report.Figures.LostAnnounced < 500 {
		t.Errorf("%d acknowledged records were nowhere else, the story is about 500 and more", report.Figures.LostAnnounced)
	}
	if report.Figures.LostAnnounced > listed {
		t.Errorf("%d records are missing, and only %d are listed", report.Figures.LostAnnounced, listed)
	}
}

// With ack.sites 2 the same loses nothing.
func TestASiteIsKilledAndTwoSitesHadAcknowledged(t *testing.T) {
	w := world.Start(t, world.Options{Automatic: true, AckSites: 2})
	r := begin(t, w, 1000, false)
	r.kill("east", 0)
	served := r.servedAgain(60 * time.Second)
	t.Logf("acknowledgements went on %s after the kill", served.Round(time.Millisecond))
	time.Sleep(5 * time.Second) // the length of the run on the other site: nothing is waited for
	share := r.share()
	w.RestartSite("east")
	report := r.finish(check.Expect{Home: string(share.Active), Behind: []string{"west", "north", "east"}, Losses: announced(share)})
	if report.Figures.LostAnnounced > 0 {
		t.Errorf("%d acknowledged records are missing", report.Figures.LostAnnounced)
	}
}

// kill ends a site under load. ahead: so many records are acknowledged first
// while the mirrors at the other sites stand still.
func (r *run) kill(site string, ahead int64) {
	r.t.Helper()
	others := func(act func(string) error) {
		for _, s := range r.w.Sites {
			if s != site {
				if err := act(s); err != nil {
					r.t.Fatal(err)
				}
			}
		}
	}
	r.w.Eventually(30*time.Second, "all sites follow", func() error { return r.w.Healthy(r.t.Context()) })
	if ahead > 0 {
		others(func(s string) error { return r.w.Spillway(s).Pause() })
		from := r.load.Progress().Acked
		r.w.Eventually(20*time.Second, "enough records are acknowledged while mirrors stand still", func() error {
			if now := r.load.Progress().Acked; now < from+ahead {
				return fmt.Errorf("%d records", now-from)
			}
			return nil
		})
	}
	r.load.Mark(history.Event{Name: history.Kill, Note: site})
	r.load.Mark(history.Event{Name: history.MoveStart, Move: history.Failover, From: site})
	r.w.KillSite(site)
	others(func(s string) error { return r.w.Spillway(s).Resume() })
}

// servedAgain waits until acknowledgements go on, and says how long that took.
func (r *run) servedAgain(patience time.Duration) time.Duration {
	r.t.Helper()
	begun, before := time.Now(), r.load.Progress().Acked
	r.w.Eventually(patience, "acknowledgements go on elsewhere", func() error {
		if r.load.Progress().Acked < before+200 {
			return errors.New("none yet")
		}
		return nil
	})
	took := time.Since(begun)
	r.load.Mark(history.Event{Name: history.MoveEnd, Move: history.Failover, To: string(r.share().Active)})
	return took
}

func (r *run) share() failover.Share {
	r.t.Helper()
	var s failover.Share
	r.w.Eventually(30*time.Second, "the share can be read", func() error { return r.w.Share(r.t.Context(), "west", &s) })
	return s
}

// announced are the ranges that lossy terms burnt.
func announced(s failover.Share) []check.Range {
	var ranges []check.Range
	for _, term := range s.Terms {
		if !term.Lossy {
			continue
		}
		term.Start.All(func(tp spillway.TopicPartition, start spillway.Offset) {
			if verified := term.Verified.Get(tp); verified >= 0 && verified < start {
				ranges = append(ranges, check.Range{Topic: tp.Topic, Partition: tp.Partition, From: int64(verified), To: int64(start)})
			}
		})
	}
	return ranges
}
