package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"spillway/tests/orders/check"
)

// Seconds are written as such.
type Seconds time.Duration

// MarshalJSON writes milliseconds exactly enough.
func (s Seconds) MarshalJSON() ([]byte, error) {
	return json.Marshal(math.Round(time.Duration(s).Seconds()*1000) / 1000)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (s *Seconds) UnmarshalJSON(b []byte) error {
	var n float64
	if err := json.Unmarshal(b, &n); err != nil {
		return err
	}
	*s = Seconds(time.Duration(n * float64(time.Second)))
	return nil
}

// Move is one move that the demo made.
type Move struct {
	Kind  string  `json:"kind"`
	From  string  `json:"from"`
	To    string  `json:"to"`
	Epoch int64   `json:"epoch"`
	Took  Seconds `json:"tookSeconds"` // until the new site served
}

// Promise is what a run showed of one promise.
type Promise struct {
	Letter  string `json:"letter"`
	Text    string `json:"text"`
	Verdict string `json:"verdict"` // held, broken, or not tested: why
	Numbers string `json:"numbers"` // what it was tested on, and what was found
}

// Result is the report of a run.
type Result struct {
	OK       bool          `json:"ok"`
	Took     Seconds       `json:"tookSeconds"`
	Sites    int           `json:"sites"`
	AckSites int           `json:"ackSites"`
	Moves    []Move        `json:"moves"`
	Problems []string      `json:"problems,omitempty"`
	Promises []Promise     `json:"promises"`
	Untested []string      `json:"untestable"` // on embedded sites (C39)
	Report   *check.Report `json:"report,omitempty"`
	Console  string        `json:"console,omitempty"`
	Gateway  string        `json:"gateway,omitempty"`
}

// untestable is what the embedded cluster cannot show, whatever the demo does.
var untestable = []string{
	"producers that brokers forget by the age of their records (aged mode of the mirror)",
	"replicas: high watermarks behind the log end, minimum in-sync replicas, unclean elections",
	"the resource fence: embedded sites have no authorizer, so moves rest on leases",
	"producer sequences that wrap at 2^31, and producers remembered over a broker's crash",
	"loss of power: acknowledged records rest on the operating system's cache",
	"network partitions: a killed process answers with a reset, a cut line does not",
}

var promiseTexts = map[string]string{
	"A": "one site serves",
	"B": "no loss beyond what was announced",
	"C": "one order",
	"D": "offsets go on at the next record",
	"E": "the same bytes at every site",
	"H": "crash anywhere",
}

func (s *story) result(report *check.Report) Result {
	r := Result{
		Sites: s.Sites, AckSites: s.ackSites(), Moves: s.moves, Problems: s.problems, Untested: untestable, Report: report,
		Console: "http://" + s.console(), Gateway: s.gateway(), Promises: []Promise{},
	}
	if report == nil {
		r.Problems = append(r.Problems, "nothing was audited, so no promise was tested")
		return r
	}
	for _, letter := range slices.Sorted(maps.Keys(report.Promises)) {
		r.Promises = append(r.Promises, Promise{Letter: letter, Text: promiseTexts[letter], Verdict: report.Promises[letter], Numbers: report.Numbers(letter)})
	}
	crash := "held"
	if len(s.problems) > 0 {
		crash = "broken"
	} else if len(s.dead) == 0 {
		crash = "not tested: nothing was killed"
	}
	r.Promises = append(r.Promises, Promise{
		Letter: "H", Text: promiseTexts["H"], Verdict: crash, Numbers: fmt.Sprintf("%d sites killed under load, %d moves", len(s.dead), len(s.moves)),
	})
	r.OK = report.OK && len(s.problems) == 0 && len(s.moves) == s.movesWanted()
	return r
}

// console is the address of a status page that lives.
func (s *story) console() string {
	for _, site := range s.world.sites {
		if !s.dead[site.name] {
			return site.board
		}
	}
	return ""
}

func (s *story) gateway() string {
	for _, site := range s.world.sites {
		if !s.dead[site.name] {
			return site.gateway
		}
	}
	return ""
}

// Text writes the result for people.
func (r Result) Text(w io.Writer) {
	fmt.Fprintf(w, "\n%s\n", strings.Repeat("=", 78))
	for _, m := range r.Moves {
		fmt.Fprintf(w, "%-11s %s to %s, epoch %d: served again after %.1f s\n", m.Kind, m.From, m.To, m.Epoch, time.Duration(m.Took).Seconds())
	}
	if r.Report != nil {
		fmt.Fprint(w, r.Report.Summary())
	}
	fmt.Fprintf(w, "\npromises tested (%s)\n", acked(r.AckSites))
	for _, p := range r.Promises {
		fmt.Fprintf(w, "  %s  %-36s %s: %s\n", p.Letter, p.Text, p.Verdict, p.Numbers)
	}
	fmt.Fprintln(w, "not tested, since embedded sites cannot show it; make test does on real Kafka")
	for _, u := range r.Untested {
		fmt.Fprintf(w, "  -  %s\n", u)
	}
	for _, p := range r.Problems {
		fmt.Fprintf(w, "problem: %s\n", p)
	}
	verdict := "every promise that could be tested held"
	if !r.OK {
		verdict = "NOT every promise held"
	}
	fmt.Fprintf(w, "%s; %.0f s\n", verdict, time.Duration(r.Took).Seconds())
}

func acked(sites int) string {
	if sites > 1 {
		return fmt.Sprintf("producers are answered once %d sites hold the record", sites)
	}
	return "producers are answered by one site"
}
