package mirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/mirror/maptopic"
	"spillway/mirror/selection"
	"spillway/mirror/sitelog"
)

// RunConfig is a flow without a control plane: spillway mirror run.
type RunConfig struct {
	From, To broker.Cluster // with different site ids
	Topics   selection.Topics
	Groups   *regexp.Regexp // matches whole names; nil: none
	Start    Start          // of partitions that were never mirrored
	// Delay keeps the target behind by so much: a batch is carried when its youngest
	// record is as old.
	Delay time.Duration
	// Until ends Run when the target has all records up to that time, and none of those
	// behind the first younger one of their partition.
	Until time.Time
	// FollowDeletions has topics deleted at the target, if a run created them there.
	FollowDeletions bool
	// UntilCaughtUp ends Run when the target has what the source had when Run
	// looked, and group offsets are copied.
	UntilCaughtUp bool
	Events        Events
	Mirror        Config // further settings; Local, Sources and Claim are Run's
}

// RunReport is what a Run did.
type RunReport struct {
	Worker     string         `json:"worker"`
	Partitions int            `json:"partitions"` // of this worker, when it ended
	Records    int64          `json:"records"`    // mirrored by this run
	Batches    int64          `json:"batches"`
	Rebuilt    int64          `json:"rebuilt"` // batches that could not be passed through
	LeftOut    int64          `json:"leftOut"` // records that filters left out
	Groups     int64          `json:"groups"`  // carried
	Changes    int64          `json:"changes"` // of metadata
	Gaps       []maptopic.Gap `json:"gaps"`    // all that the target's gap log holds
	// Workers shared the flow when this one ended, with it.
	Workers []WorkerShare `json:"workers"`
	// Circular are the topics that were left out, since their records come from the target.
	Circular []string `json:"circular,omitempty"`
	// MissingUsers have SCRAM credentials only at the source; UsersUnknown says why
	// nobody could look.
	MissingUsers []MissingUser `json:"missingUsers"`
	UsersUnknown string        `json:"usersUnknown,omitempty"`
}

// open makes the mirror of a run, which does nothing yet, and its assignment.
func (c RunConfig) open(ctx context.Context) (*Mirror, Assignment, error) {
	switch {
	case c.From == nil || c.To == nil:
		return nil, Assignment{}, errors.New("mirror run: needs a source and a target")
	case c.From.Site() == c.To.Site():
		return nil, Assignment{}, fmt.Errorf("mirror run: source and target are the same: %s", c.From.Site())
	}
	if err := c.checkTimes(time.Now()); err != nil {
		return nil, Assignment{}, err
	}
	a := Assignment{
		Share: spillway.ShareID{Group: "run-" + string(c.From.Site())}, Topics: []string{"*"}, Epoch: 1, Source: c.From.Site(), Start: c.Start, Delay: c.Delay, FollowDeletions: c.FollowDeletions,
	}
	if c.Groups != nil {
		matches, err := whole(c.Groups)
		if err != nil {
			return nil, a, fmt.Errorf("mirror run: groups: %w", err)
		}
		a.ConsumerGroups, a.MatchGroup, a.GroupPrefixes = []string{"*"}, matches, selection.Prefixes(c.Groups)
	}
	a.TopicPrefixes = c.Topics.Prefixes()
	config := c.Mirror
	config.Worker, config.Local, config.IdentitySources, config.Events = cmp.Or(config.Worker, workerName()), c.To, true, c.Events
	config.Sources = map[spillway.SiteID]broker.Cluster{c.From.Site(): selection.Of(c.From, c.Topics)}
	if config.Rewrite.Provenance {
		md, err := c.From.Metadata(ctx, spillway.MapTopic) // of one topic, as the cluster may have many
		if err != nil {
			return nil, a, fmt.Errorf("mirror run: %w", err)
		}
		if config.Rewrite.Cluster = md.ClusterID; md.ClusterID == "" {
			return nil, a, fmt.Errorf("mirror run: site %s does not tell its cluster id, which the provenance headers would say", c.From.Site())
		}
	}
	m, err := New(ctx, config)
	if err != nil {
		return nil, a, err
	}
	m.crew = newCrew(m, flowOf(c.From.Site()), meaningOf(c.Topics, c.Groups), newMeanings().covers)
	m.config.Claim = m.crew.claim
	return m, a, nil
}

// flowOf is the name of a flow without a control plane, by which its workers know each other.
func flowOf(source spillway.SiteID) string { return "run/" + string(source) }

// stopMax bounds how long a run that is told to end waits for what it has sent.
const stopMax = 20 * time.Second

// outlive is a context that ends some time after another one: what was sent is waited
// for, so that the next worker finds all of it.
func outlive(ctx context.Context, by time.Duration) (context.Context, context.CancelFunc) {
	longer, end := context.WithCancel(context.WithoutCancel(ctx))
	forget := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(by):
			end()
		case <-longer.Done():
		}
	})
	return longer, func() {
		forget()
		end()
	}
}

// Run mirrors until ctx ends, or until the target has caught up. Several runs with the
// same ends share the partitions that they mean; they know each other from the target's
// map topic.
func Run(ctx context.Context, c RunConfig) (RunReport, error) {
	var records, batches, rebuilt, leftOut, changes atomic.Int64
	var groups sync.Map // by name: a group is carried again and again
	told := c.Events
	c.Events.BatchMirrored = func(i BatchInfo) {
		records.Add(int64(i.Records))
		batches.Add(1)
		if i.Rebuilt {
			rebuilt.Add(1)
		}
		told.batchMirrored(i)
	}
	c.Events.RecordsLeftOut = func(i LeftOutInfo) {
		leftOut.Add(i.Records)
		told.recordsLeftOut(i)
	}
	c.Events.GroupCarried = func(i GroupInfo) {
		groups.Store(i.Group, true)
		told.groupCarried(i)
	}
	c.Events.Metadata = func(i MetadataInfo) {
		if i.Problem == "" && !i.Kept {
			changes.Add(1)
		}
		told.metadata(i)
	}
	lasting, end := outlive(ctx, stopMax)
	defer end()
	m, a, err := c.open(lasting)
	if err != nil {
		return RunReport{}, err
	}
	defer m.Close()
	m.crew.begin()
	if !c.Until.IsZero() {
		if a, err = m.until(ctx, a, c.Until); err != nil {
			return RunReport{}, err
		}
	}
	if err := m.Assign(ctx, a); err != nil {
		return RunReport{}, err
	}
	report := func() RunReport {
		r := RunReport{Worker: m.config.Worker, Workers: []WorkerShare{}, Records: records.Load(), Batches: batches.Load(), Rebuilt: rebuilt.Load(), LeftOut: leftOut.Load(), Changes: changes.Load(), Gaps: m.Map().Gaps()}
		for _, f := range m.Flows() { // of one run there is one
			r.Partitions, r.Workers = f.Partitions, f.Workers
		}
		r.Circular = m.circular(a.Share)
		groups.Range(func(any, any) bool { r.Groups++; return true })
		r.MissingUsers, r.UsersUnknown = m.lookForUsers(ctx, a)
		return r
	}
	switch {
	case !c.Until.IsZero():
		err = m.waitUntil(ctx, a)
	case c.UntilCaughtUp:
		err = m.waitCaughtUp(ctx, a)
	default:
		<-ctx.Done()
		return report(), nil
	}
	if err != nil {
		return report(), err
	}
	m.keepMetadata(ctx, a.Share)
	if c.Groups != nil {
		if err := m.CopyGroups(ctx, a.Share, c.From.Site(), nil); err != nil {
			return report(), err
		}
	}
	return report(), nil
}

// usersMax bounds the look for users when a run ends.
const usersMax = 10 * time.Second

// lookForUsers compares the SCRAM users of both clusters, also when the run was
// told to end.
func (m *Mirror) lookForUsers(ctx context.Context, a Assignment) (missing []MissingUser, unknown string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), usersMax)
	defer cancel()
	src, err := m.source(a.Source)
	if err == nil {
		missing, err = m.missingUsers(ctx, src)
	}
	if err != nil {
		return nil, err.Error()
	}
	return missing, ""
}

// whole makes a match of whole names.
func whole(r *regexp.Regexp) (func(string) bool, error) {
	anchored, err := selection.Pattern(r.String())
	if err != nil {
		return nil, err
	}
	return anchored.MatchString, nil
}

// waitCaughtUp waits until this site has what the source has now, and its map
// says so: by the map group offsets are translated, and it follows the marks
// with a delay. Records of open transactions count only when they are decided.
func (m *Mirror) waitCaughtUp(ctx context.Context, a Assignment) error {
	src, tps, err := m.sourcePartitions(ctx, a)
	if err != nil {
		return err
	}
	ends, err := src.cluster.Admin().HighWatermarks(ctx, tps)
	if err != nil {
		return err
	}
	for {
		have, missing := m.Ends(a.Share), 0
		for _, tp := range tps {
			want, _ := src.view(tp).ToVirtual(ends[tp])
			mapped, _ := m.reader.View(tp).End()
			end, ok := have[tp]
			if m.crew.elsewhere(tp) { // then what this worker knew of it is old
				end, ok = mapped, true
			}
			if !ok || min(end, mapped) < want {
				missing++
			}
		}
		if missing == 0 {
			return nil
		}
		if sitelog.Pause(ctx, 50*time.Millisecond) != nil {
			return fmt.Errorf("catch up with site %s: %d of %d partitions are behind: %w", a.Source, missing, len(tps), ctx.Err())
		}
	}
}

// sourcePartitions are what a run carries, as the source has it now.
func (m *Mirror) sourcePartitions(ctx context.Context, a Assignment) (*source, []spillway.TopicPartition, error) {
	src, err := m.source(a.Source)
	if err != nil {
		return nil, nil, err
	}
	tps, err := a.partitionsAt(ctx, src.cluster)
	if err != nil {
		return nil, nil, err
	}
	if err := src.ready(ctx, m.config.IdentitySources); err != nil {
		return nil, nil, err
	}
	tps, circular, err := m.allowed(src, tps)
	switch {
	case err != nil || len(tps) > 0:
	case len(circular) > 0:
		err = fmt.Errorf("all topics of site %s that are meant come from the target: %s", a.Source, strings.Join(circular, ", "))
	default:
		err = fmt.Errorf("no topic of site %s is meant, or its principal may not see it (Describe)", a.Source)
	}
	return src, tps, err
}
