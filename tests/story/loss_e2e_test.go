//go:build e2e

package story

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"spillway"
	"spillway/federation/failover"
	account "spillway/federation/history"
	"spillway/mirror"
	"spillway/tests/clients"
	"spillway/tests/orders/check"
	"spillway/tests/orders/history"
	"spillway/tests/world"
)

// loss is one time that the site which serves is lost.
type loss struct {
	what string
	site string
	act  func()
	// prepare, if there, comes before anything is held back, once all sites follow.
	prepare func()
	bound   time.Duration // within which acknowledgements go on
	// What is held back first: so many records are acknowledged while no mirror
	// copies, or so many are sent and not acknowledged.
	ahead, inFlight int64

	at, opened, back time.Time // lost; another site serves; there again
	pending          int64     // sent and not acknowledged when it was lost, order workload only
	move             account.Record
	told             []*os.File                 // histories, from before the loss on
	listed           []mirror.UnreplicatedRange // at the site, once it was back
}

// lose takes the site away under load and waits until another one serves.
func (r *run) lose(l *loss) {
	r.t.Helper()
	r.eventuallyHealthy()
	r.losses = append(r.losses, l)
	l.told = r.histories()
	before := r.share(r.w.Desk())
	if l.prepare != nil {
		l.prepare()
	}
	if l.ahead+l.inFlight > 0 {
		r.mirrors(l.site, "pause")
	}
	from := r.load.Progress()
	r.w.Eventually(20*time.Second, "enough records are held back", func() error {
		now := r.load.Progress()
		if acked, open := now.Acked-from.Acked, now.Sent-now.Acked-now.Failed; acked < l.ahead || open < l.inFlight {
			return fmt.Errorf("%d acknowledged, %d in flight", acked, open)
		}
		return nil
	})
	r.load.Mark(history.Event{Name: history.Kill, Note: l.site})
	r.load.Mark(history.Event{Name: history.MoveStart, Move: history.Failover, From: l.site})
	p := r.load.Progress()
	l.at, l.pending = time.Now(), p.Sent-p.Acked-p.Failed
	l.act()
	if l.ahead+l.inFlight > 0 {
		r.mirrors(l.site, "resume")
	}
	desk := r.otherThan(l.site)
	r.w.Eventually(60*time.Second, "another site serves", func() error {
		s, err := r.readShare(desk)
		if err != nil {
			return err
		}
		if _, ok := s.Serves(); !ok || s.Active == before.Active {
			return fmt.Errorf("%s in %s: %s", s.Active, s.State, lastReason(s))
		}
		l.opened = passed(s.Passages, failover.Open)
		r.load.Mark(history.Event{Name: history.MoveEnd, Move: history.Failover, From: l.site, To: string(s.Active)})
		return nil
	})
	acked := r.load.Progress().Acked
	r.w.Eventually(l.bound+30*time.Second, "acknowledgements go on elsewhere", func() error {
		if now := r.load.Progress().Acked; now < acked+200 {
			return fmt.Errorf("%d since another site serves", now-acked)
		}
		return nil
	})
	r.w.Eventually(30*time.Second, "the failover is in the history", func() error {
		out, err := r.w.Run(r.t.Context(), desk, "failover-group", "history", world.Group, "-o", "json")
		if err != nil {
			return err
		}
		var moves []account.Record
		if err := json.Unmarshal([]byte(out), &moves); err != nil {
			return err
		}
		for _, m := range moves {
			if m.Epoch > before.Epoch && m.Kind == failover.Failover {
				l.move = m
				return nil
			}
		}
		return fmt.Errorf("%d moves, none of them is it", len(moves))
	})
	r.timeline(l)
}

// histories are the files that all clients write, where they end now.
func (r *run) histories() []*os.File {
	r.t.Helper()
	var files []*os.File
	for _, name := range append([]string{r.told.Name()}, clientFiles(r.other)...) {
		f, err := os.Open(name)
		r.must(err)
		r.t.Cleanup(func() { _ = f.Close() }) // only read
		_, err = f.Seek(0, io.SeekEnd)
		r.must(err)
		files = append(files, f)
	}
	return files
}

func clientFiles(all []*clients.Client) (names []string) {
	for _, c := range all {
		names = append(names, c.HistoryFile())
	}
	return names
}

// readAgain waits until every consumer group has read a record since another site
// serves, and those of other languages have committed (kcat does not tell). What the loss lets groups read again is read
// then: after the next planned move nothing excuses it. kafkajs reads on from what it had
// fetched, and joins anew half a minute later.
func (r *run) readAgain(l *loss) {
	r.t.Helper()
	since := map[string]time.Duration{"franz-group-1": 0, "sarama-group-1": 0}
	commits := make(map[string]bool)
	for _, c := range r.other {
		if client := c.Member(); client != "" {
			since[client], commits[client] = 0, tells(client)
		}
	}
	tails := make([]*bufio.Reader, len(l.told))
	parts, read := make([]string, len(l.told)), make(map[string]bool)
	for i, f := range l.told {
		tails[i] = bufio.NewReader(f)
	}
	r.w.Eventually(90*time.Second, "every group reads again", func() error {
		r.must(r.rec.Flush())
		for i, tail := range tails {
			for {
				text, err := tail.ReadString('\n')
				if parts[i] += text; err != nil {
					break // the rest is being written
				}
				var e history.Event
				if strings.Contains(parts[i], "group") && json.Unmarshal([]byte(parts[i]), &e) == nil {
					if at := time.Unix(0, e.Time); at.After(l.opened) && since[e.Client] == 0 {
						read[e.Client] = read[e.Client] || e.Kind == history.Consume
						if read[e.Client] && (e.Kind == history.Commit && e.Error == "" || !commits[e.Client]) {
							since[e.Client] = at.Sub(l.at)
						}
					}
				}
				parts[i] = ""
			}
		}
		for client, took := range since {
			if took == 0 {
				return fmt.Errorf("%s does not", client)
			}
		}
		return nil
	})
	r.runOn(2 * time.Second) // what they read again of their other partitions
	fmt.Printf("measured: %s: the last consumer group went on after %.1f s\n", l.what, slices.Max(slices.Collect(maps.Values(since))).Seconds())
	for client, took := range since {
		if took > l.bound+slack && !strings.HasPrefix(client, "kafkajs") {
			r.t.Errorf("%s: %s read again %s after the loss, the bound is %s", l.what, client, took.Round(time.Millisecond), l.bound)
		}
	}
}

// mirrors pauses or resumes the mirrors of all sites but one, where they run.
func (r *run) mirrors(but, what string) {
	r.t.Helper()
	for _, s := range r.w.Sites {
		switch {
		case s == but:
		case what == "pause":
			r.must(r.w.Mirror(s).Pause())
		default:
			r.must(r.w.Mirror(s).Resume())
		}
	}
}

func (r *run) otherThan(site string) string {
	for _, s := range r.w.Sites {
		if s != site {
			return s
		}
	}
	return ""
}

func (r *run) readShare(desk string) (failover.Share, error) {
	var s failover.Share
	return s, r.w.Share(r.t.Context(), desk, &s)
}

func (r *run) share(desk string) failover.Share {
	r.t.Helper()
	s, err := r.readShare(desk)
	r.must(err)
	return s
}

func lastReason(s failover.Share) string {
	if n := len(s.Passages); n > 0 {
		return s.Passages[n-1].Why
	}
	return "it has not moved"
}

func passed(all []failover.Passage, state failover.State) time.Time {
	for _, p := range all {
		if p.State == state {
			return p.At
		}
	}
	return time.Time{}
}

// timeline tells where the seconds of a failover went.
func (r *run) timeline(l *loss) {
	for _, p := range l.move.Passages {
		r.t.Logf("%8s after the loss: %s: %s", p.At.Sub(l.at).Round(time.Millisecond), p.State, p.Why)
	}
}

// givenUpMax is how often a move home may be given up.
const givenUpMax = 2

// home waits until the lost site has come back and follows, notes what it lists
// as unreplicated, and moves the group home.
func (r *run) home(site string) {
	r.t.Helper()
	l := r.losses[len(r.losses)-1]
	r.readAgain(l)
	if l.back.IsZero() {
		l.back = time.Now()
	}
	r.w.Eventually(90*time.Second, "the lost site has come back and follows", func() error { return r.w.Healthy(r.t.Context()) })
	r.t.Logf("%s follows %s after its return", site, time.Since(l.back).Round(time.Millisecond))
	l.listed = r.unreplicated(site)
	// Two cores run thirty processes, and the site has just come back: where clients
	// would be held for too long the move is given up, and a person asks again.
	for again := 0; ; again++ {
		before := r.share(r.w.Desk())
		err := r.move(string(before.Active), site)
		if err == nil {
			return
		}
		after := r.share(r.w.Desk())
		if again == givenUpMax || after.Epoch == before.Epoch || !after.Current().Continues {
			r.t.Fatal(err)
		}
		r.t.Logf("the move home was given up in epoch %d: %v", after.Epoch, err)
	}
}

func (r *run) unreplicated(site string) []mirror.UnreplicatedRange {
	r.t.Helper()
	out, err := r.w.Run(r.t.Context(), r.w.Desk(), "unreplicated", "list", world.Group, "--site", site, "-o", "json")
	r.must(err)
	var ranges []mirror.UnreplicatedRange
	r.must(json.Unmarshal([]byte(out), &ranges))
	return ranges
}

// expected adds to what the checker is told what the losses announced and what
// the sites list.
func (r *run) expected(expect check.Expect) check.Expect {
	r.t.Helper()
	expect.Hidden = map[string][]check.Range{}
	for _, l := range r.losses {
		announced(l.move, func(tp spillway.TopicPartition, from, to spillway.Offset) {
			expect.Losses = append(expect.Losses, check.Range{Topic: tp.Topic, Partition: tp.Partition, From: int64(from), To: int64(to)})
		})
	}
	for _, site := range r.w.Sites {
		for _, u := range r.unreplicated(site) {
			expect.Hidden[site] = append(expect.Hidden[site], check.Range{Topic: u.Topic, Partition: u.Partition, From: int64(u.LocalFrom), To: int64(u.LocalTo)})
		}
	}
	return expect
}

func (r *run) lostSites() []string {
	sites := map[string]bool{}
	for _, l := range r.losses {
		sites[l.site] = true
	}
	return slices.Sorted(maps.Keys(sites))
}

// announced are the ranges of virtual offsets that a failover burnt.
func announced(m account.Record, tell func(tp spillway.TopicPartition, from, to spillway.Offset)) {
	m.Start.All(func(tp spillway.TopicPartition, start spillway.Offset) {
		if verified := m.Verified.Get(tp); verified >= 0 && verified < start {
			tell(tp, verified, start)
		}
	})
}

// judgeLosses checks what the checker of histories does not: that the lists of
// unreplicated records are exact, that no more was announced than was missing
// and may have been handed out, and that all producers went on.
func (r *run) judgeLosses(report *check.Report) {
	r.t.Helper()
	for _, site := range r.lostSites() {
		r.exact(site)
	}
	for _, l := range r.losses {
		r.bounded(l)
	}
	r.resumed()
	f := report.Figures
	fmt.Printf("measured: %d records sent, %d acknowledged, %d read; %d acknowledged ones are missing within %d announced offsets; %d records of plain producers stand twice by their own retries; groups read %d again after losses\n",
		f.Sent, f.Acked, f.Read, f.LostAnnounced, f.AnnouncedSize, f.Resent, f.GroupRepeats)
}

// exact compares what a site lists with what its log and the others' show: the
// records that clients wrote there and no mirror brought to another site.
func (r *run) exact(site string) {
	r.t.Helper()
	var lost *check.Site
	for _, s := range r.sites {
		if s.Name == site {
			lost = s
		}
	}
	missing := map[history.ID]int{}
	for _, log := range lost.Logs {
		for _, rec := range log.Records {
			if !spillway.IsMirrorProducerID(rec.ProducerID) {
				missing[rec.ID]++
			}
		}
	}
	for id, n := range r.mirroredFrom(site) {
		missing[id] -= n // of a record that was written twice one copy may be elsewhere
	}
	maps.DeleteFunc(missing, func(_ history.ID, n int) bool { return n == 0 })
	listed, offsets := map[history.ID]int{}, int64(0)
	for _, u := range r.unreplicated(site) {
		offsets += int64(u.LocalTo - u.LocalFrom)
		for _, rec := range lost.Logs[check.Partition{Topic: u.Topic, Index: u.Partition}].Records {
			if rec.Offset >= int64(u.LocalFrom) && rec.Offset < int64(u.LocalTo) {
				listed[rec.ID]++
			}
		}
	}
	faults := 0
	for _, ids := range []map[history.ID]int{missing, listed} {
		for id := range ids {
			if missing[id] != listed[id] && faults < 20 {
				faults++
				r.t.Errorf("%s: %s has no copy elsewhere %d times, and is listed %d times", site, id, missing[id], listed[id])
			}
		}
	}
	fmt.Printf("measured: %s lists %d unreplicated offsets with %d records; by the logs %d have no copy elsewhere\n", site, offsets, total(listed), total(missing))
}

func total(counts map[history.ID]int) (n int) {
	for _, c := range counts {
		n += c
	}
	return n
}

// mirroredFrom counts the copies that mirrors made of a site's own records: the
// most at any other site, without those of what clients wrote at a third one, and
// without those that a site hides, since it was not heard when another one opened.
func (r *run) mirroredFrom(site string) map[history.ID]int {
	written, mirrored := map[string]map[history.ID]int{}, map[string]map[history.ID]int{}
	for _, s := range r.sites {
		written[s.Name], mirrored[s.Name] = map[history.ID]int{}, map[history.ID]int{}
		hidden := r.unreplicated(s.Name)
		for p, log := range s.Logs {
			for _, rec := range log.Records {
				if slices.ContainsFunc(hidden, func(u mirror.UnreplicatedRange) bool {
					return s.Name != site && u.Topic == p.Topic && u.Partition == p.Index && rec.Offset >= int64(u.LocalFrom) && rec.Offset < int64(u.LocalTo)
				}) {
					continue
				}
				if spillway.IsMirrorProducerID(rec.ProducerID) {
					mirrored[s.Name][rec.ID]++
				} else {
					written[s.Name][rec.ID]++
				}
			}
		}
	}
	most := map[history.ID]int{}
	for at, copies := range mirrored {
		if at == site {
			continue
		}
		for id, n := range copies {
			for third, ids := range written {
				if third != site && third != at {
					n -= ids[id]
				}
			}
			most[id] = max(most[id], n)
		}
	}
	return most
}

// bounded checks that a range announced is no larger than what is listed of it
// and one reserved block.
func (r *run) bounded(l *loss) {
	r.t.Helper()
	var offsets, most spillway.Offset
	announced(l.move, func(tp spillway.TopicPartition, from, to spillway.Offset) {
		listed := spillway.Offset(0)
		for _, u := range l.listed {
			if u.Topic == tp.Topic && u.Partition == tp.Partition && u.From >= from && u.To <= to {
				listed += u.To - u.From
			}
		}
		offsets += to - from
		most = max(most, to-from-listed)
		if over := to - from - listed; over > spillway.Offset(r.w.Options.ReservedBlock) {
			r.t.Errorf("%s: of %s %d offsets were announced and %d are listed: %d more, a reserved block is %d", l.what, tp, to-from, listed, over, r.w.Options.ReservedBlock)
		}
	})
	unreplicated := int64(0)
	for _, u := range l.listed {
		if u.Epoch < l.move.Epoch && !r.listedBefore(l, u) {
			unreplicated += int64(u.To - u.From)
		}
	}
	fmt.Printf("measured: %s: %d records in flight, %d unreplicated, %d offsets announced, at most %d of a partition beyond its unreplicated ones (a reserved block is %d)\n",
		l.what, l.pending, unreplicated, offsets, most, r.w.Options.ReservedBlock)
	if unreplicated < l.ahead {
		r.t.Errorf("%s: %d records were nowhere else, the story is about %d and more", l.what, unreplicated, l.ahead)
	}
}

func (r *run) listedBefore(l *loss, u mirror.UnreplicatedRange) bool {
	for _, earlier := range r.losses {
		if earlier == l {
			return false
		}
		if slices.Contains(earlier.listed, u) {
			return true
		}
	}
	return false
}

// resumed measures, for every producer that hears of single records, when it was
// first told of one that the new site has.
func (r *run) resumed() {
	r.t.Helper()
	first := make([]map[string]time.Duration, len(r.losses))
	producers := map[string]bool{}
	r.replay(func(events iter.Seq2[history.Event, error]) {
		for e, err := range events {
			r.must(err)
			if e.Kind != history.Ack || e.Offset == history.NoOffset {
				continue
			}
			producers[e.Client] = true
			for i, l := range r.losses {
				if first[i] == nil {
					first[i] = map[string]time.Duration{}
				}
				if at := time.Unix(0, e.Time); first[i][e.Client] == 0 && at.After(l.opened) {
					first[i][e.Client] = at.Sub(l.at)
				}
			}
		}
	})
	for i, l := range r.losses {
		var told []string
		soonest := time.Duration(0)
		for _, p := range slices.Sorted(maps.Keys(producers)) {
			took := first[i][p]
			if took > 0 && (soonest == 0 || took < soonest) {
				soonest = took
			}
			if !strings.HasPrefix(p, "inside") {
				told = append(told, fmt.Sprintf("%s %.1f s", p, took.Seconds()))
				if took == 0 || took > l.bound+slack {
					r.t.Errorf("%s: %s had its next acknowledgement %s after the loss, the bound is %s", l.what, p, took, l.bound)
				}
			}
		}
		fmt.Printf("measured: %s: another site served after %.1f s, acknowledgements went on after %.1f s (%s)\n", l.what, l.opened.Sub(l.at).Seconds(), soonest.Seconds(), strings.Join(told, ", "))
	}
}

// unanswered checks that a producer that reached only the old site was told
// nothing from the new epoch's opening until the site came back (promise A).
func (r *run) unanswered(producer string, l *loss) {
	r.t.Helper()
	sent, answered, lastAck := 0, 0, time.Time{}
	r.replay(func(events iter.Seq2[history.Event, error]) {
		for e, err := range events {
			r.must(err)
			at := time.Unix(0, e.Time)
			if e.Client != producer || at.After(l.back) {
				continue
			}
			switch {
			case e.Kind == history.Ack && at.After(l.opened):
				answered++
			case e.Kind == history.Ack:
				lastAck = at
			case e.Kind == history.Invoke && at.After(l.opened):
				sent++
			}
		}
	})
	fmt.Printf("measured: %s: the client there had its last acknowledgement %.1f s after the loss, the new epoch opened after %.1f s; of %d records that it sent from then on %d were acknowledged\n",
		l.what, lastAck.Sub(l.at).Seconds(), l.opened.Sub(l.at).Seconds(), sent, answered)
	if answered > 0 {
		r.t.Errorf("%d records were acknowledged by a site that did not serve any more", answered)
	}
	if sent < 100 {
		r.t.Errorf("only %d records were sent there, that proves little", sent)
	}
}

// fromSurvivor checks that the target got records from a survivor that was ahead.
func (r *run) fromSurvivor(l *loss, ahead spillway.SiteID) {
	r.t.Helper()
	partitions := 0
	for _, sites := range l.move.PrefixSite {
		for _, s := range sites {
			if s == ahead {
				partitions++
			}
		}
	}
	fmt.Printf("measured: %s: %s served, and %s was ahead of it in %d partitions\n", l.what, l.move.To, ahead, partitions)
	if l.move.To == ahead || partitions == 0 {
		r.t.Errorf("%s became the target and %s was ahead in %d partitions: the story is about a target that is behind", l.move.To, ahead, partitions)
	}
}

// answersLost counts the records that were sent before the loss and acknowledged
// after it, though a mirror had brought them to a survivor: their answers were
// lost, and a producer that sends them again must not write them twice.
func (r *run) answersLost(l *loss) {
	r.t.Helper()
	open := map[history.ID]bool{}
	again := map[history.ID]bool{}
	r.replay(func(events iter.Seq2[history.Event, error]) {
		for e, err := range events {
			r.must(err)
			at := time.Unix(0, e.Time)
			switch {
			case e.Kind == history.Invoke && at.Before(l.at):
				open[e.Payload] = true
			case e.Kind == history.Ack && at.Before(l.at):
				delete(open, e.Payload)
			case e.Kind == history.Ack && at.After(l.opened) && open[e.Payload] && e.Offset != history.NoOffset:
				again[e.Payload] = true
			}
		}
	})
	mirrored := r.mirroredFrom(l.site)
	known := 0
	for id := range again {
		if mirrored[id] > 0 {
			known++
		}
	}
	fmt.Printf("measured: %s: %d records in flight were acknowledged by the new site, %d of them it had already\n", l.what, len(again), known)
	if l.pending < l.inFlight || known == 0 {
		r.t.Errorf("%d records were in flight, %d of which had been mirrored and were acknowledged later: the story is about lost answers", l.pending, known)
	}
}
