package failover

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"spillway"
)

// Unfit says of a site why keys may be missing where it serves, or be shown that are deleted:
// its log of compacted topics hides records (C11), it was without its source for so long
// that deletions were gone (C15), or it has not said whether that is so. "": it is fit. A topic counts that
// any of the sites compacts: its settings are carried.
//
// What is hidden stays in the log. The cleaner takes it for the newest state of its key and
// removes the record that clients see, now or long ago. So it is no matter of how much is
// hidden, and no later record makes it good; the topic has to begin anew at the site.
func Unfit(site spillway.SiteID, view View, group spillway.FailoverGroup) string {
	topics, more := compacted(view, group)
	if len(topics)+more == 0 {
		return ""
	}
	f := view.Sites[site].Following
	if f == nil || f.Hiding == nil {
		if more > 0 {
			topics = append(topics, fmt.Sprintf("%d more", more))
		}
		return fmt.Sprintf("%s has not said yet whether its logs of the compacted topics hide records: %s", site, some(topics))
	}
	hides := hidden(f.Hiding, f.HidingMore, view, group)
	if hides == "" {
		return ""
	}
	return fmt.Sprintf("%s hides records in its logs of compacted topics, so that a cleaner may have removed the visible ones of their keys, or has missed deletions (late): %s; let these topics begin anew there: docs/operate/compacted.md",
		site, hides)
}

// partial says of a site that it has only a part of what it had: its topics began anew and are
// copied again. "": it has all. What was acknowledged because it was there may be missing now
// (promise B), so no failover goes there that nobody sent, and it does not count as one that has
// all that was acknowledged.
func partial(share Share, site spillway.SiteID, view View) string {
	n := view.Sites[site].owed(share.State)
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%s does not have yet what it had before topics began anew there (partitions: %d)", site, n)
}

// unconfirmed says of a switchover that the old site has not confirmed that its logs end at the
// cutover, where that matters: what lies behind would be hidden there, so that a compacted
// topic could not come back. Other topics can, and do not wait for that site.
func unconfirmed(share Share, view View, group spillway.FailoverGroup) string {
	topics, more := compacted(view, group)
	r := view.Sites[share.Active].Report
	if share.Kind != Switchover || len(topics)+more == 0 || r != nil && r.Armed {
		return ""
	}
	return fmt.Sprintf("%s has not confirmed that its logs end at the cutover, as it has to with compacted topics%s", share.Active, problem(r))
}

// found says which compacted topics a site was found to hide records of once its logs were
// read back, which may be more than it had said when the move began.
func found(site spillway.SiteID, view View, group spillway.FailoverGroup) string {
	r := view.Sites[site].Report
	if r == nil {
		return ""
	}
	return hidden(r.Hiding, r.HidingMore, view, group)
}

// hidden lists the compacted topics that hide records at a site, and what. hiding says that
// of some topics, and more is how many others hide some. Sites name as many topics as there
// is room for, and what they do not name counts as the worse of what it may be.
func hidden(hiding map[string]string, more int, view View, group spillway.FailoverGroup) string {
	topics, unnamed := compacted(view, group)
	if unnamed > 0 { // each that hides some may be compacted
		topics = slices.AppendSeq(topics, maps.Keys(hiding))
		slices.Sort(topics)
		topics = slices.Compact(topics)
	}
	topics = slices.DeleteFunc(topics, func(t string) bool { return hiding[t] == "" && more == 0 })
	for i, t := range topics {
		topics[i] = fmt.Sprintf("%s (%s)", t, cmp.Or(hiding[t], fmt.Sprintf("it may be one of %d more that hide some", more)))
	}
	if more > 0 && unnamed > 0 && len(topics) == 0 {
		return fmt.Sprintf("%d topics hide some, and %d are compacted, which are not named", more, unnamed)
	}
	return some(topics)
}

// compacted lists the topics of the group that any of its sites compacts, and tells how many
// of them a site does not name at most.
func compacted(view View, group spillway.FailoverGroup) (topics []string, unnamed int) {
	for _, s := range group.Sites {
		if f := view.Sites[s].Following; f != nil {
			topics = append(topics, f.Compacted...)
			unnamed = max(unnamed, f.CompactedMore)
		}
	}
	slices.Sort(topics)
	return slices.Compact(topics), unnamed
}

// someMax bounds what a sentence lists.
const someMax = 5

func some(words []string) string {
	if n := len(words) - someMax; n > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(words[:someMax], ", "), n)
	}
	return strings.Join(words, ", ")
}
