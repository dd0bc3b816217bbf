package watch

import (
	"fmt"
	"strconv"
	"strings"
)

// expected is what a panel's query shows before anything goes wrong, at some
// time while things are wrong, and after all is well again. Each is a list
// apart by ";" of conditions "label=value ... op number": before and after,
// there is such a series and all such series satisfy it; during, one did at
// some time. "none": no series. "any": whatever it shows, Prometheus can
// evaluate it; used where the story does not decide it, and the comment says why.
type expected struct{ before, during, after string }

// always is for queries that show the same all the time.
func always(what string) expected { return expected{what, what, what} }

// alarm is for counts of bad things that are 0 in good times.
func alarm() expected { return expected{"=0", ">=1", "=0"} }

// groupPanels are the queries of the page about failover groups, by the
// panel's title and, from its second query on, the query's letter. The group
// goes from east to west.
var groupPanels = map[string]expected{
	"Groups not served":                           alarm(),
	"Groups not safe to fail over":                alarm(),
	"Sites down":                                  alarm(),
	"Processes without the coordinator store":     alarm(),
	"Gaps logged":                                 {"=0", ">=1", ">=1"}, // the page still shows the time of the failover
	"Automatic failover paused":                   {"=0", "=1", "=0"},
	"State":                                       always("state=STABLE =1"), // a move passes its states between two scrapes; Steps of moves counts them
	"Active site":                                 {"site=east =1; site=west =0", "site=west =1", "site=east =0; site=west =1"},
	"Sites":                                       {"site=east =1; site=west =1", "site=east =0; site=west =0", "site=east =1; site=west =1"},
	"Safe to fail over":                           {"=1", "=0", "=1"},
	"What a failover now could lose":              {"<1000", ">1000", "<1000"},
	"What a failover now could lose B":            always("=1e6"),
	"Acknowledgements degraded":                   always("=0"), // two sites with ack.sites 1 have nothing to degrade
	"At the active site alone":                    {"<30", ">30", "<30"},
	"Partitions beyond the limit of lag":          alarm(),
	"Partitions beyond the limit of lag B":        always("=0"), // the group only warns
	"How late producers are answered for a lag":   always("none"),
	"How late producers are answered for a lag B": always("none"),
	"Leases at each site":                         {"=1", "site=east =0", "=1"},
	"Leases at each site B":                       {"=1", "site=east =0", "=1"},
	"Gaps by kind":                                {"none", "site=west kind=foreign-write >0", "none"},
	"Votes for down":                              {"=0", "site=east =1; site=west =1", "=0"},
	"Failover epoch":                              {"=1", ">=2", ">=2"},
	"Failover epoch B":                            {"=1", ">=2", ">=2"},
	"Requests that wait":                          {"=0", ">0", "=0"},
	"How long requests waited":                    {"none", ">0", "none"},
	"How long requests waited B":                  {"none", ">0", "none"},
	"Hold of a move":                              {"none", "kind=failover >0", "kind=failover >0"},
	"Steps of moves":                              {"none", "kind=failover state=OPEN >0", "none"},
	"Steps that failed":                           {"none", "any", "none"}, // whether a step fails while the store is away is chance
	"Steps that failed B":                         {"none", "any", "none"},
	"What clients felt of drills":                 always("none"), // no group exists for drills
	"What clients felt of drills B":               always("none"),
	"Questions to a person":                       always("=0"), // the group does not fail over by itself, so nothing asks
}

// flowPanels are those of the page about flows and gateways.
var flowPanels = map[string]expected{
	"Flows that do not run":          alarm(),
	"Largest lag":                    {"<5", ">30", "<5"},
	"Gateways without a lease":       alarm(),
	"Processes that are silent":      alarm(),
	"Processes not ready":            alarm(),
	"Foreign offsets":                {"=0", ">=1", ">=1"},
	"Flows":                          {"source=east target=west =1", "source=west target=east =0", "source=west target=east =1"},
	"Lag in time":                    {"<5", ">30", "<5"},
	"Lag in records":                 {"<1000", ">1000", "<1000"},
	"Lag in records B":               {"<1000", ">1000", "<1000"},
	"Time to replicate":              {"source=east target=west >0", ">0", "source=west target=east >0"},
	"Time to replicate B":            {"source=east target=west >0", ">0", "source=west target=east >0"},
	"Records mirrored":               {"source=east target=west >0", "source=east target=west =0", "source=west target=east >0"},
	"Bytes mirrored":                 {"source=east target=west >0", "source=east target=west =0", "source=west target=east >0"},
	"Mirrors unheard":                {"<4", "source=west target=east >5", "<4"},
	"Partitions":                     {"=12", "any", "=12"}, // a partition that waits for a paused target counts as running
	"Partitions B":                   {"=0", "any", "=0"},
	"Stops, resyncs, sessions":       {"any", "any", "any"}, // a target that is paused may answer in time when it goes on
	"Stops, resyncs, sessions B":     {"=0", "any", "=0"},
	"Stops, resyncs, sessions C":     {"=0", "target=west >0; target=east >0", "=0"},
	"Batches by form":                {"source=east target=west form=passed >0", ">0", "source=west target=east form=passed >0"},
	"Marks and group positions":      {"site=west >0", ">0", "site=east >0"},
	"Marks and group positions B":    {">=0", ">0", ">=0"},
	"Foreign offsets by writer":      {"=0", "target=west topic=orders writer=client >0", "=0"},
	"Records acknowledged":           {">0", "=0", ">0"},
	"Bytes acknowledged":             {">0", "=0", ">0"},
	"Time to acknowledge":            {">0", ">0", ">0"},
	"Time to acknowledge B":          {">0", ">0", ">0"}, // whether more than one in a hundred waited for the failover is chance
	"Time to acknowledge C":          {">0", ">0", ">0"},
	"Leases of gateways":             {"=1", "=0", "=1"},
	"Groups served by gateways":      {"=1", "=0", "=1"},
	"Requests":                       always("api=Produce >0; api=Fetch >0"),
	"Time to answer":                 {"api=Produce >0; api=Fetch >0", "api=Produce >1", "api=Produce >0; api=Fetch >0"},
	"Connections":                    {">=0", ">0", ">=0"},
	"Requests that had to wait":      {"=0", ">0", "=0"},
	"Pauses for quotas":              always("=0"),  // no quota is set
	"Refusals":                       always("any"), // depends on what clients try while their gateway is gone
	"Connections opened and ended":   {">=0", ">0", ">=0"},
	"Connections opened and ended B": {"any", ">0", "any"},
	"Connections opened and ended C": always("none"), // nobody opens thousands of them
	"Producers after a move":         always("any"),  // only producers whose last answer was lost count, and none may be
	"Problems of gateways":           {"=0", ">0", "=0"},
	"Checks of /readyz":              {"=1", "check=coordinator =0", "=1"},
	"Processor time":                 always(">0"),
	"Memory":                         always(">1e6"),
	"Goroutines":                     always(">10"),
}

// holds compares samples with one of the three conditions.
func holds(samples []sample, want string, sometime bool) error {
	if want == "any" {
		return nil
	}
	if want == "none" {
		if len(samples) > 0 {
			return fmt.Errorf("shows %s", samples[0])
		}
		return nil
	}
	for condition := range strings.SplitSeq(want, ";") {
		if err := satisfies(samples, strings.Fields(condition), sometime); err != nil {
			return err
		}
	}
	return nil
}

func satisfies(samples []sample, fields []string, sometime bool) error {
	labels, compare := fields[:len(fields)-1], fields[len(fields)-1]
	number := strings.TrimLeft(compare, "<>=")
	limit, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return fmt.Errorf("condition %q: %w", compare, err)
	}
	op := strings.TrimSuffix(compare, number)
	count := 0
	var other *sample
	for _, s := range samples {
		if !s.has(labels) {
			continue
		}
		good, err := compared(s.value, op, limit)
		if err != nil {
			return err
		}
		if good {
			count++
		} else if other == nil {
			other = &s
		}
	}
	switch {
	case count == 0 && other != nil:
		return fmt.Errorf("never %s, such as %s", strings.Join(fields, " "), other)
	case count == 0:
		return fmt.Errorf("no series with %v", labels)
	case !sometime && other != nil:
		return fmt.Errorf("not %s: %s", strings.Join(fields, " "), other)
	}
	return nil
}

func (s sample) has(labels []string) bool {
	for _, l := range labels {
		name, value, _ := strings.Cut(l, "=")
		if s.labels[name] != value {
			return false
		}
	}
	return true
}

func compared(value float64, op string, limit float64) (bool, error) {
	switch op {
	case "=":
		return value == limit, nil
	case "<":
		return value < limit, nil
	case ">":
		return value > limit, nil
	case ">=":
		return value >= limit, nil
	}
	return false, fmt.Errorf("no such comparison: %q", op)
}
