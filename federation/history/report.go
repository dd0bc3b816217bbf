package history

import (
	"fmt"
	"strings"
	"time"

	"spillway"
	"spillway/federation/failover"
)

// rowsMax is how many partitions a report lists of each kind; the record has them all.
const rowsMax = 20

// Report tells of one move on a page, in Markdown, for people who were not there. All
// times are UTC. It says what the record says and nothing else.
func (r Record) Report() string {
	b := &page{}
	b.line("# %s of %s from %s to %s, epoch %d", title(r.Kind), r.Group, r.From, r.To, r.Epoch)
	b.line("")
	if r.Unread != "" {
		b.line("The account of this move cannot be read: %s. Restore that key from a backup of the coordinator store.", r.Unread)
		return b.text.String()
	}
	b.line("%s", r.outcome())
	b.line("")
	b.line("| | |")
	b.line("| --- | --- |")
	b.row("Asked for by", r.Who)
	b.row("Reason", or(r.Why, "none was given"))
	b.row("Began", stamp(r.Started))
	b.row("Ended", stamp(r.Ended))
	b.row("Writes at the old site", r.fence())
	r.compare(b)
	r.evidence(b)
	r.timeline(b)
	r.loss(b)
	r.offsets(b)
	return b.text.String()
}

// page collects the lines.
type page struct{ text strings.Builder }

// line writes one line. What is filled in stays within it.
func (p *page) line(format string, args ...any) {
	p.text.WriteString(inline(fmt.Sprintf(format, args...)) + "\n")
}

// inline makes one line of a text that others wrote, so that no part of it begins a heading
// or a list.
func inline(text string) string { return strings.Join(strings.Fields(text), " ") }

// row is a row of a table. A cell holds one line, and bars in it would end it.
func (p *page) row(cells ...any) {
	for i, c := range cells {
		cells[i] = strings.ReplaceAll(inline(fmt.Sprint(c)), "|", `\|`)
	}
	p.line("|"+strings.Repeat(" %s |", len(cells)), cells...)
}

// section begins a table under a heading.
func (p *page) section(heading string, columns ...any) {
	p.line("")
	p.line("## %s", heading)
	p.line("")
	p.row(columns...)
	p.line("|%s", strings.Repeat(" --- |", len(columns)))
}

func (p *page) more(n int, what string) {
	if n > 0 {
		p.line("")
		p.line("And %d %s more.", n, what)
	}
}

func title(k failover.Kind) string { return strings.ToUpper(string(k[:1])) + string(k[1:]) }

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "not yet"
	}
	return t.UTC().Format("2006-01-02 15:04:05.000")
}

// outcome is the first sentence: what became of it, in one look.
func (r Record) outcome() string {
	switch {
	case r.Aborted != "" && r.Kind == failover.Failover:
		return fmt.Sprintf("**Given up** (%s). The failover group stays at %s.", r.Aborted, r.From)
	case r.Aborted != "":
		return fmt.Sprintf("**Given up** (%s). %s went on serving; nothing was lost.", r.Aborted, r.From)
	case r.Kind == failover.Switchover:
		return fmt.Sprintf("%s serves since epoch %d. **Nothing was lost**; clients were held for %s.", r.To, r.Epoch, millis(r.HeldMillis))
	}
	n, known := r.found()
	lost := fmt.Sprintf("**at most %s may be lost**", records(r.LostMost))
	switch {
	case r.LostMost == 0:
		if lost = "**nothing that was acknowledged was lost**"; known && n > 0 {
			lost += fmt.Sprintf(", %s without an acknowledgement at %s only", records(n), r.From)
		}
	case known:
		lost = fmt.Sprintf("**%s were only at %s**, of at most %d that were announced", records(n), r.From, r.LostMost)
	}
	return fmt.Sprintf("%s serves since epoch %d: %s; clients were held for %s.", r.To, r.Epoch, lost, millis(r.HeldMillis))
}

// found is the exact loss: what the site that was given up alone had.
func (r Record) found() (records int64, known bool) {
	for _, f := range r.Found {
		if f.Site == r.From && f.Records >= 0 {
			return f.Records, true
		}
	}
	return 0, false
}

func (r Record) fence() string {
	switch r.Fence {
	case "acl":
		return "were denied to the gateways by ACL, and every leader refused them"
	case "lease-only":
		return "were ended by the gateways themselves and their leases (lease-only)"
	}
	if _, fencing := r.held(); fencing {
		return "not recorded, since the move was given up"
	}
	return "were not fenced"
}

func records(n int64) string {
	switch {
	case n < 0:
		return "an unknown number of records"
	case n == 1:
		return "1 record"
	}
	return fmt.Sprintf("%d records", n)
}

func millis(n int64) string {
	if n < 0 {
		return "an unknown time"
	}
	return fmt.Sprintf("%d ms", n)
}

// compare sets what was foretold beside what happened.
func (r Record) compare(b *page) {
	b.section("Foretold and happened", "", "Foretold", "Happened")
	pause, loss, reread := "no forecast was kept", "no forecast was kept", "no forecast was kept"
	if r.Known != nil {
		f := r.Known.Forecast
		pause, reread = "not known", or(f.Reread, "not known")
		if f.PauseMillis >= 0 {
			pause = "about " + millis(f.PauseMillis)
		}
		if f.PauseWhy != "" {
			pause += " (" + f.PauseWhy + ")"
		}
		loss = between(f.LostLeast, f.LostMost)
	}
	held := "not at all"
	if took, ok := r.held(); ok {
		held = millis(took.Milliseconds())
	}
	happened := "nothing"
	switch {
	case r.Aborted != "":
		happened += " by this move"
	case r.Kind == failover.Failover:
		happened += " that was acknowledged"
	}
	if r.LostMost > 0 {
		happened = fmt.Sprintf("at most %s announced", records(r.LostMost))
		if len(r.Found) == 0 {
			happened += fmt.Sprintf("; %s has not been read since", r.From)
		}
	}
	for _, f := range r.Found {
		happened += fmt.Sprintf("; %s found at %s on %s", records(f.Records), f.Site, stamp(f.At))
	}
	b.row("Clients held", pause, held)
	b.row("Lost", loss, happened)
	b.row("Read again", reread, r.Reread())
}

func between(least, most int64) string {
	switch {
	case most == 0:
		return "nothing"
	case most < 0:
		return "not known"
	case least < 0:
		return fmt.Sprintf("at most %s", records(most))
	case least == most:
		return records(most)
	}
	return fmt.Sprintf("between %d and %s", least, records(most))
}

func (r Record) evidence(b *page) {
	if r.Known == nil || len(r.Known.Evidence) == 0 {
		return
	}
	b.section("What was known when it began", "Site", "Verdict", "Evidence")
	for _, e := range r.Known.Evidence {
		verdict := "not down"
		if e.Down {
			verdict = "down"
		}
		b.row(e.Site, verdict, e.Why)
	}
	if silent := r.Known.Forecast.Silent; len(silent) > 0 {
		b.line("")
		b.line("Not heard: %s.", strings.Join(silent, ", "))
	}
}

func (r Record) timeline(b *page) {
	b.section("Steps", "Entered", "State", "Stayed", "Why")
	steps := r.Steps()
	for i, s := range steps {
		stayed := fmt.Sprintf("%d ms", s.Took.Milliseconds())
		if i+1 == len(steps) {
			stayed = "–"
		}
		b.row(s.At.UTC().Format("15:04:05.000"), s.State, stayed, s.Why)
	}
	for _, g := range r.Gateways {
		if g.LeftOut != "" {
			b.line("")
			b.line("Gateway %s did not confirm cleanly: %s.", g.ID, g.LeftOut)
		}
	}
}

// loss lists what may be missing, and what was found.
func (r Record) loss(b *page) {
	if r.LostMost > 0 {
		r.announced(b)
	}
	for _, f := range r.Found {
		b.section(fmt.Sprintf("Found at %s on %s", f.Site, stamp(f.At)), "Partition", "From", "To", "Records")
		for i, g := range f.Ranges {
			if i == rowsMax {
				break
			}
			count := fmt.Sprint(g.Records)
			if g.Records < 0 {
				count = "not counted"
			}
			b.row(spillway.TopicPartition{Topic: g.Topic, Partition: g.Partition}, g.From, g.To, count)
		}
		b.more(len(f.Ranges)-rowsMax+f.More, "ranges")
		if !f.First.IsZero() {
			b.line("")
			b.line("They were written between %s and %s.", stamp(f.First), stamp(f.Last))
		}
	}
	if r.LostMost == 0 && len(r.Found) == 0 {
		return
	}
	b.line("")
	b.line("`spillway unreplicated list %s --site %s` lists the ranges as that site has them now, `export` writes the records out.", r.Group, r.From)
}

// announced lists what lies between what was carried over and the new epoch.
func (r Record) announced(b *page) {
	b.section("Announced loss", "Partition", "From", "At most to", "Offsets", "Kept by")
	n := 0
	r.Start.All(func(tp spillway.TopicPartition, to spillway.Offset) {
		from := r.Verified.Get(tp)
		if from >= to {
			return
		}
		if n++; n > rowsMax {
			return
		}
		start, offsets, site := "the beginning", "–", "nobody"
		if from >= 0 {
			start, offsets = fmt.Sprint(from), fmt.Sprint(to-from)
		}
		if sites := r.PrefixSite[tp.Topic]; int(tp.Partition) < len(sites) && sites[tp.Partition] != "" {
			site = string(sites[tp.Partition])
		}
		b.row(tp, start, to, offsets, site)
	})
	b.more(n-rowsMax, "partitions")
}

// offsets are the positions at which the group went over.
func (r Record) offsets(b *page) {
	if len(r.Verified) == 0 {
		return
	}
	b.section("Cutover offsets", "Partition", "Carried over up to", "New epoch begins at")
	n := 0
	r.Verified.All(func(tp spillway.TopicPartition, o spillway.Offset) {
		if o < 0 {
			return
		}
		if n++; n > rowsMax {
			return
		}
		start := "–"
		if s := r.Start.Get(tp); s >= 0 {
			start = fmt.Sprint(s)
		}
		b.row(tp, o, start)
	})
	b.more(n-rowsMax, "partitions")
}
