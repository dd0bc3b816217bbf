package mirror

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker"
	"spillway/mirror/adopt"
	"spillway/mirror/offsetmap"
	"spillway/mirror/selection"
	"spillway/mirror/sitelog"
)

// A topic that another mirror has filled (MirrorMaker 2) is taken over before the first
// flow: its records are compared with the source's, and the map is told which are which.
// Then a flow goes on at the first record that the target lacks, offsets are translated
// exactly, and nothing is copied again.

// AdoptConfig says what is taken over: spillway mirror adopt.
type AdoptConfig struct {
	From, To broker.Cluster // with different site ids
	Topics   selection.Topics
	// Alias is what MirrorMaker 2 called the source; only that one must not run any
	// more. Empty: none may.
	Alias string
	// AcceptUnknown and AcceptMissing are how many records may be at the target that
	// are not the source's, and how many of the source's may lack at the target in between.
	AcceptUnknown, AcceptMissing int64
	DryRun                       bool // look, and write nothing
	// WhileRunning takes over what is there while MirrorMaker 2 goes on. When it has been
	// stopped, the rest is taken over without.
	WhileRunning bool
	// Compared, if set, hears now and then how far it is.
	Compared func(tp spillway.TopicPartition, records int64)
	Limits   adopt.Limits // the zero value: adopt.DefaultLimits
	// Watch is how long a MirrorMaker 2 may be silent that runs; default 3 s.
	Watch time.Duration
	// pieceOffsets is how many offsets of the target are written into the map at once.
	pieceOffsets spillway.LocalOffset
	Events       Events
	Mirror       Config // further settings, as those of a RunConfig
}

// AdoptReport is what was found, and done.
type AdoptReport struct {
	Partitions []Adopted `json:"partitions"`
	// Absent are topics of the source that the target does not have, by their names there:
	// a flow creates them.
	Absent   []string `json:"absent"`
	Circular []string `json:"circular,omitempty"` // left out, since their records come from the target
	Records  int64    `json:"records"`            // that are mapped
	Unknown  int64    `json:"unknown"`            // at the target, and not the source's
	Missing  int64    `json:"missing"`            // at the source, and not at the target in between
	Written  bool     `json:"written"`
}

// Adopted is what was found in one partition. Offsets of the source are virtual ones,
// which are its own where nothing is mirrored to it.
type Adopted struct {
	spillway.TopicPartition
	Records   int64                `json:"records"` // that are mapped
	Ranges    int                  `json:"ranges"`
	First     spillway.Offset      `json:"first"`     // of the first record that is mapped, at the source; −1: none is
	Next      spillway.Offset      `json:"next"`      // at which a flow goes on
	TargetEnd spillway.LocalOffset `json:"targetEnd"` // up to which the target was looked at
	Left      int64                `json:"left"`      // offsets of the source from Next on
	// Findings are the records that are not mapped, with their kinds.
	Findings []adopt.Finding      `json:"findings"`
	Counts   map[adopt.Kind]int64 `json:"counts"`
	Problem  string               `json:"problem,omitempty"` // why it is not taken over
}

// ErrNotAdopted means that more was found than was accepted.
var ErrNotAdopted = errors.New("nothing was taken over")

// adoption is one take-over.
type adoption struct {
	AdoptConfig
	m     *Mirror
	src   *source
	share Assignment
	seed  maphash.Seed

	ends    map[spillway.TopicPartition]spillway.LocalOffset // of the target, before all
	matched []*matched
}

// matched is a partition with what is to be written about it.
type matched struct {
	Adopted
	from   offsetmap.Session // that opens what is taken over
	ranges *offsetmap.View
	// What the map said before: its newest append session, how far it was verified, and
	// whether a mirror had written there at all.
	session  int64
	verified offsetmap.Verified
	begun    bool
}

// says tells whether the map has to hear anything. Where it does not, a flow goes on, or
// begins, as in any other partition.
func (p *matched) says() bool {
	return p.Records > 0 || len(p.Findings) > 0 || p.begun && p.TargetEnd > p.verified.Local
}

// Adopt takes over what another mirror has copied. It may be repeated: what is mapped
// already stays, and what came behind it is taken over. The error is ErrNotAdopted where
// a person has to decide; the report tells what about.
func Adopt(ctx context.Context, c AdoptConfig) (AdoptReport, error) {
	run := RunConfig{From: c.From, To: c.To, Topics: c.Topics, Events: c.Events, Mirror: c.Mirror}
	m, share, err := run.open(ctx)
	if err != nil {
		return AdoptReport{}, err
	}
	defer m.Close()
	if c.Limits.Behind == 0 {
		c.Limits = adopt.DefaultLimits()
	}
	if c.Watch == 0 {
		c.Watch = 3 * time.Second
	}
	if c.pieceOffsets == 0 {
		c.pieceOffsets = adoptOffsets
	}
	a := &adoption{AdoptConfig: c, m: m, share: share, seed: maphash.MakeSeed()}
	report := AdoptReport{Partitions: []Adopted{}, Absent: []string{}}
	if err := a.run(ctx, &report); err != nil {
		return report, fmt.Errorf("adopt: %w", err)
	}
	return report, nil
}

func (a *adoption) run(ctx context.Context, report *AdoptReport) (err error) {
	if a.src, err = a.m.source(a.share.Source); err != nil {
		return err
	}
	running := &mirrorMakerWatch{}
	if !a.WhileRunning {
		if running, err = watchMirrorMaker(ctx, a.To, a.Alias); err != nil {
			return err
		}
	}
	if !a.DryRun {
		if err := a.m.lead(ctx, a.share); err != nil {
			return err
		}
	}
	tps, err := a.partitions(ctx, report)
	if err != nil {
		return err
	}
	if err := a.match(ctx, tps, report); err != nil {
		return err
	}
	if err := running.stopped(ctx, a.Watch); err != nil {
		return err
	}
	if !a.WhileRunning {
		if err := a.atRest(ctx, tps); err != nil {
			return err
		}
	}
	if err := a.verdict(*report); err != nil || a.DryRun {
		return err
	}
	if err := a.write(ctx, tps); err != nil {
		return err
	}
	report.Written = true
	return nil
}

// partitions are those that both sites have and that no other flow feeds.
func (a *adoption) partitions(ctx context.Context, report *AdoptReport) ([]spillway.TopicPartition, error) {
	tps, err := a.share.partitionsAt(ctx, a.src.cluster)
	if err != nil {
		return nil, err
	}
	if err := a.m.reader.CaughtUp(ctx); err != nil && !errors.Is(err, broker.ErrUnknownTopic) {
		return nil, err
	}
	if err := a.src.ready(ctx, true); err != nil {
		return nil, err
	}
	tps, report.Circular, err = a.m.allowed(a.src, tps)
	if err != nil {
		return nil, err
	}
	if len(tps) == 0 {
		return nil, fmt.Errorf("no topic of site %s is meant, or its principal may not see it (Describe)", a.share.Source)
	}
	names := slices.Sorted(maps.Keys(partitionCounts(tps)))
	md, err := a.To.Metadata(ctx, names...)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if !exists(md.Topics[name]) {
			report.Absent = append(report.Absent, name)
		}
	}
	return slices.DeleteFunc(tps, func(tp spillway.TopicPartition) bool {
		t := md.Topics[tp.Topic]
		return !exists(t) || int(tp.Partition) >= len(t.Partitions)
	}), nil
}

// match compares all partitions. One that fails has a problem, and the others are looked
// at all the same.
func (a *adoption) match(ctx context.Context, tps []spillway.TopicPartition, report *AdoptReport) error {
	var err error
	if a.ends, err = a.To.Admin().LogEnds(ctx, tps); err != nil {
		return err
	}
	compacted := make(map[string]bool)
	refused := make(map[string]string)
	for _, tp := range tps {
		if _, known := compacted[tp.Topic]; !known {
			if compacted[tp.Topic], refused[tp.Topic], err = a.look(ctx, tp.Topic); err != nil {
				refused[tp.Topic] = err.Error()
			}
		}
		p := &matched{Adopted: Adopted{TopicPartition: tp, First: -1, Next: -1, Problem: refused[tp.Topic]}}
		if p.Problem == "" {
			if err := a.compareAtRest(ctx, p, compacted[tp.Topic]); err != nil {
				p.Problem = err.Error()
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		a.matched = append(a.matched, p)
		report.Partitions = append(report.Partitions, p.Adopted)
		report.Records += p.Records
		report.Unknown += p.Counts[adopt.Unknown]
		report.Missing += p.Counts[adopt.Missing]
	}
	return nil
}

// comparesMax is how often a partition is compared because the start of a log moves.
const comparesMax = 5

// compareAtRest compares a partition again where retention took away what was to be read:
// by then what it took is known to be deleted.
func (a *adoption) compareAtRest(ctx context.Context, p *matched, compacted bool) error {
	for tries := 1; ; tries++ {
		theirs, ours, err := a.logs(ctx, p.TopicPartition)
		if err != nil {
			return err
		}
		p.TargetEnd = ours.end
		err = a.compare(ctx, p, theirs, ours, compacted)
		switch {
		case !errors.Is(err, kerr.OffsetOutOfRange):
			return err
		case tries == comparesMax:
			return fmt.Errorf("%d times records were deleted before they were read; try again when retention deletes less, or with a longer one: %w", tries, err)
		}
	}
}

// logs are a partition at both sites as they are now. The source is asked after the
// target: it has all of which copies are there.
func (a *adoption) logs(ctx context.Context, tp spillway.TopicPartition) (theirs, ours logPart, err error) {
	ends, err1 := a.To.Admin().HighWatermarks(ctx, []spillway.TopicPartition{tp})
	starts, err2 := a.To.Admin().LogStarts(ctx, []spillway.TopicPartition{tp})
	ours = logPart{start: starts[tp], end: ends[tp]}
	ends, err3 := a.src.cluster.Admin().HighWatermarks(ctx, []spillway.TopicPartition{tp})
	starts, err4 := a.src.cluster.Admin().LogStarts(ctx, []spillway.TopicPartition{tp})
	theirs = logPart{view: a.src.view(tp), start: starts[tp], end: ends[tp]}
	return theirs, ours, errors.Join(err1, err2, err3, err4)
}

// look tells whether a topic is compacted at one of the sites, and why it cannot be
// taken over.
func (a *adoption) look(ctx context.Context, topic string) (compacted bool, problem string, err error) {
	for _, c := range []broker.Cluster{a.src.cluster, a.To} {
		configs, err := c.Admin().TopicConfigs(ctx, topic)
		if err != nil {
			return false, "", err
		}
		compacted = compacted || strings.Contains(configs["cleanup.policy"].Value, "compact")
		if c == a.To && configs["message.timestamp.type"].Value == "LogAppendTime" {
			problem = "the target gave its records other times (message.timestamp.type=LogAppendTime), so they are not the source's; delete the topic there and have it mirrored anew"
		}
	}
	return compacted, problem, nil
}

// compare matches one partition.
func (a *adoption) compare(ctx context.Context, p *matched, theirs, ours logPart, compacted bool) error {
	if om := a.m.reader.Map(p.TopicPartition); om != nil {
		p.session = om.Session().Session
	}
	view := a.m.reader.View(p.TopicPartition)
	if _, open := view.Open(); open {
		p.Problem = "site " + string(a.m.site) + " serves it in a failover group"
		return nil
	}
	virtual, local := view.End()
	p.begun, p.verified = view.Begun(), offsetmap.Verified{Local: local, Virtual: virtual}
	if !p.begun {
		p.verified.Virtual = -1
	}
	limits := a.Limits
	// A session that was opened, and in which nothing was found, says nothing of what the
	// target holds: the one before may have been killed.
	limits.Compacted, limits.Resumes = compacted, !view.Empty()
	from, at := theirs.start, ours.start
	p.from.Local, p.from.Virtual = at, -1
	if limits.Resumes {
		limits.Known = max(0, int64(virtual))
		known, _ := theirs.view.ToLocal(spillway.Offset(max(0, limits.Known-int64(limits.Behind))))
		from, at = max(from, known), max(at, local)
		p.from.Local, p.from.Virtual = local, virtual
	}
	first, _ := theirs.view.ToLocal(spillway.Offset(limits.Known))
	limits.SourceDeleted = theirs.start > first
	source := &adoptLog{log: sitelog.PartitionReader{Cluster: a.src.cluster, Of: p.TopicPartition}, view: theirs.view, aborted: true, next: from, end: theirs.end, patience: a.m.config.TransactionWait}
	target := &adoptLog{log: sitelog.PartitionReader{Cluster: a.To, Of: p.TopicPartition}, next: at, end: ours.end, patience: a.m.config.TransactionWait}
	if compacted {
		source.seed = &a.seed
	}
	source.start(ctx)
	defer source.close()
	target.start(ctx)
	defer target.close()
	m := offsetmap.New()
	records := int64(0)
	p.Ranges = 0
	found, err := adopt.Match(limits, source, target, func(r adopt.Range) {
		m.Apply(&offsetmap.Chunk{Session: 1, First: spillway.LocalOffset(r.Target), Sequence: offsetmap.NoSequence, Verified: true,
			Ranges: []offsetmap.Range{{Epoch: a.share.Epoch, Virtual: spillway.Offset(r.Source), Local: spillway.LocalOffset(r.Target), Length: r.Length}}})
		p.Ranges++
		if records += r.Length; a.Compared != nil {
			a.Compared(p.TopicPartition, records)
		}
	})
	source.close() // what they have found may be looked at now
	target.close()
	if err != nil {
		return err
	}
	p.ranges = m.View()
	p.Records, p.First, p.Next, p.Findings, p.Counts = found.Records, spillway.Offset(found.First), spillway.Offset(found.SourceEnd), found.Rows, found.Counts
	if p.Next < 0 {
		p.Next, _ = theirs.view.ToVirtual(from)
		p.Next = max(p.Next, spillway.Offset(limits.Known))
	}
	end, _ := theirs.view.ToVirtual(theirs.end)
	p.Left = max(0, int64(end-p.Next))
	switch {
	case target.undecided:
		p.Problem = fmt.Sprintf("a transaction is open at the target from offset %d on; it ends when its time is over, or by kafka-transactions.sh abort", target.next)
	case source.undecided && found.Counts[adopt.Unknown] > 0:
		p.Problem = fmt.Sprintf("the target has records of a transaction that is open at the source from offset %d on; try again when it has ended, or end it with kafka-transactions.sh abort", source.next)
	}
	return nil
}

// atRest refuses where records have come to the target meanwhile.
func (a *adoption) atRest(ctx context.Context, tps []spillway.TopicPartition) error {
	now, err := a.To.Admin().LogEnds(ctx, tps)
	if err != nil {
		return err
	}
	for _, tp := range tps {
		if n := now[tp] - a.ends[tp]; n != 0 {
			return fmt.Errorf("%d records came into %s of site %s while it was compared: MirrorMaker 2, or somebody else, still writes there; stop it first", n, tp, a.m.site)
		}
	}
	return nil
}

// verdict refuses what nobody has accepted.
func (a *adoption) verdict(r AdoptReport) error {
	var faults []string
	for _, p := range r.Partitions {
		if p.Problem != "" {
			faults = append(faults, fmt.Sprintf("%s: %s", p.TopicPartition, p.Problem))
		}
	}
	if r.Unknown > a.AcceptUnknown {
		faults = append(faults, fmt.Sprintf("%d records at the target are not the source's, and %d are accepted", r.Unknown, a.AcceptUnknown))
	}
	if r.Missing > a.AcceptMissing {
		faults = append(faults, fmt.Sprintf("%d records of the source are not at the target, though later ones are, and can be put there no more; %d are accepted", r.Missing, a.AcceptMissing))
	}
	if len(faults) > 0 {
		return fmt.Errorf("%w: %s", ErrNotAdopted, strings.Join(faults, "; "))
	}
	return nil
}
