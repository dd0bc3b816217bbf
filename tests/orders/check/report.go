package check

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// FindingsMax bounds how many findings of one kind a report spells out. The
// counts are always whole.
const FindingsMax = 50

// Figures are the numbers of a run.
type Figures struct {
	Sent   int64 `json:"sent"`   // records handed to a producer
	Acked  int64 `json:"acked"`  // acknowledged
	Failed int64 `json:"failed"` // reported as failed, for certain or not
	Open   int64 `json:"open"`   // neither, when the history ended
	Read   int64 `json:"read"`   // records that readers got, all readers together

	LostAnnounced int64 `json:"lostAnnounced"` // acknowledged, missing, within an announced range
	AnnouncedSize int64 `json:"announcedSize"` // offsets in announced ranges
	Resent        int64 `json:"resent"`        // records that a plain producer's retry put in the log twice
	OutOfTurn     int64 `json:"outOfTurn"`     // records of plain producers behind a later one
	GroupRepeats  int64 `json:"groupRepeats"`  // read again by groups where that is allowed
	TornOrders    int64 `json:"tornOrders"`    // steps whose cause fell into an announced loss

	Records map[string]int64 `json:"records"` // visible records by site
	// AckGapMax is, by producer, the longest time between two of its
	// acknowledgements while it had something outstanding, in nanoseconds.
	AckGapMax map[string]time.Duration `json:"ackGapMaxNanos"`
	// MoveGaps is, per move, the longest such gap of any producer that
	// overlaps the move.
	MoveGaps []MoveGap `json:"moveGaps,omitempty"`
}

// MoveGap is how long acknowledgements stopped at a move.
type MoveGap struct {
	Kind string        `json:"kind"`
	From string        `json:"from"`
	To   string        `json:"to"`
	Gap  time.Duration `json:"gapNanos"`
	// Producers is the same for each producer.
	Producers map[string]time.Duration `json:"producersNanos,omitempty"`
}

// Report is what the checker found.
type Report struct {
	OK bool `json:"ok"`
	// Counts holds the number of records per anomaly, all kinds, also zeros.
	Counts   map[Kind]int64 `json:"counts"`
	Findings []Finding      `json:"findings,omitempty"`
	// Promises tells "held", "broken", or "not tested: why", by letter, of
	// those promises that a workload can test.
	Promises map[string]string `json:"promises"`
	Figures  Figures           `json:"figures"`
}

// JSON writes the report for programs.
func (r *Report) JSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// findingsShown keeps the text at one page.
const findingsShown = 3

// Numbers says what a promise was tested on and what was found, for people.
func (r *Report) Numbers(letter string) string {
	var found []string
	for _, k := range Kinds {
		if k.Promise() == letter {
			found = append(found, fmt.Sprintf("%d %s", r.Counts[k], k))
		}
	}
	f, moves := r.Figures, "moves"
	if len(f.MoveGaps) == 1 {
		moves = "move"
	}
	kept := int64(0)
	for _, n := range f.Records {
		kept += n
	}
	over := map[string]string{
		"A": fmt.Sprintf("of %d acknowledged, over %d %s", f.Acked, len(f.MoveGaps), moves),
		"B": fmt.Sprintf("of %d acknowledged; %d missing as announced", f.Acked, f.LostAnnounced),
		"C": fmt.Sprintf("of %d read", f.Read),
		"D": fmt.Sprintf("of %d read, over %d %s", f.Read, len(f.MoveGaps), moves),
		"E": fmt.Sprintf("of %d in the logs of %d sites", kept, len(f.Records)),
	}[letter]
	return strings.Join(found, ", ") + " " + over
}

// Text is the report for people, one page.
func (r *Report) Text() string {
	var b strings.Builder
	b.WriteString(r.Summary())
	for _, letter := range slices.Sorted(maps.Keys(r.Promises)) {
		fmt.Fprintf(&b, "promise %s %s\n", letter, r.Promises[letter])
	}
	return b.String()
}

// Summary is Text without the promises.
func (r *Report) Summary() string {
	var b strings.Builder
	f := r.Figures
	fmt.Fprintf(&b, "records   %d sent, %d acknowledged, %d failed, %d open; %d read\n", f.Sent, f.Acked, f.Failed, f.Open, f.Read)
	for _, site := range slices.Sorted(maps.Keys(f.Records)) {
		fmt.Fprintf(&b, "site      %-12s %d records\n", site, f.Records[site])
	}
	if f.AnnouncedSize > 0 {
		fmt.Fprintf(&b, "announced %d offsets; %d acknowledged records are missing within, %d steps stand without their cause\n", f.AnnouncedSize, f.LostAnnounced, f.TornOrders)
	}
	if f.Resent+f.OutOfTurn > 0 {
		fmt.Fprintf(&b, "plain     %d records twice, %d out of turn, by retries of producers without idempotence\n", f.Resent, f.OutOfTurn)
	}
	if f.GroupRepeats > 0 {
		fmt.Fprintf(&b, "groups    %d records read again, as consumer groups may\n", f.GroupRepeats)
	}
	for _, m := range f.MoveGaps {
		fmt.Fprintf(&b, "%-9s %s to %s: some producer waited %s for an acknowledgement\n", m.Kind, m.From, m.To, m.Gap.Round(time.Millisecond))
	}
	b.WriteString("anomalies")
	for i, k := range Kinds {
		fmt.Fprintf(&b, "%s%d %s", []string{" ", ", "}[min(i, 1)], r.Counts[k], k)
	}
	b.WriteString("\n")
	shown := map[Kind]int{}
	for _, f := range r.Findings {
		if shown[f.Kind]++; shown[f.Kind] <= findingsShown {
			fmt.Fprintf(&b, "  %s\n", f)
		}
	}
	return b.String()
}
