package mirror

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"

	"spillway"
	"spillway/mirror/selection"
)

// meaning is what a worker says it is there for: workers may be started with other topics,
// and a partition belongs to one of those that mean it.
type meaning struct {
	Include string      `json:"include,omitempty"`
	Exclude string      `json:"exclude,omitempty"`
	Rename  [][2]string `json:"rename,omitempty"` // pattern and name
	Groups  string      `json:"groups,omitempty"` // "": none
}

func meaningOf(topics selection.Topics, groups *regexp.Regexp) string {
	var m meaning
	for pattern, into := range map[*regexp.Regexp]*string{topics.Include: &m.Include, topics.Exclude: &m.Exclude, groups: &m.Groups} {
		if pattern != nil {
			*into = pattern.String()
		}
	}
	for _, r := range topics.Rename {
		m.Rename = append(m.Rename, [2]string{r.From.String(), r.To})
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("%+v cannot be encoded: %v", m, err)) // plain data, cannot happen
	}
	return string(b)
}

// meaningOfShare is the same of what an assignment names; "", which is everything, where
// that is too much to be understood.
func meaningOfShare(a Assignment) string {
	means := meaningOf(selection.Topics{Include: anyOf(a.Topics)}, anyOf(a.ConsumerGroups))
	if len(means) > meaningBytesMax {
		return ""
	}
	return means
}

// anyOf are patterns that name exactly, or by a prefix before "*", as one; nil of none.
func anyOf(patterns []string) *regexp.Regexp {
	if len(patterns) == 0 {
		return nil
	}
	all := make([]string, len(patterns))
	for i, p := range patterns {
		prefix, open := strings.CutSuffix(p, "*")
		if all[i] = regexp.QuoteMeta(prefix); open {
			all[i] += "(?s:.*)"
		}
	}
	return regexp.MustCompile("^(?:" + strings.Join(all, "|") + ")$")
}

// meaningBytesMax bounds what of a worker is compiled.
const meaningBytesMax = 64 << 10

func parseMeaning(s string) (topics selection.Topics, groups *regexp.Regexp, err error) {
	var m meaning
	if len(s) > meaningBytesMax {
		return topics, nil, fmt.Errorf("patterns of %d bytes", len(s))
	}
	if err := json.Unmarshal([]byte(s), &m); err != nil {
		return topics, nil, err
	}
	compile := func(pattern string) *regexp.Regexp {
		if pattern == "" {
			return nil
		}
		r, fault := regexp.Compile(pattern)
		if fault != nil {
			err = fault
		}
		return r
	}
	topics.Include, topics.Exclude, groups = compile(m.Include), compile(m.Exclude), compile(m.Groups)
	for _, r := range m.Rename {
		topics.Rename = append(topics.Rename, selection.Rename{From: compile(r[0]), To: r[1]})
	}
	return topics, groups, err
}

// Keys of what workers share. No topic's name has these signs.

func partitionKey(atSource string, tp spillway.TopicPartition) string {
	return fmt.Sprintf("p/%s>%s/%d", atSource, tp.Topic, tp.Partition)
}

func groupKey(group string) string { return "g/" + group }

// meanings tells who is there for a key. What was found out is kept.
type meanings struct {
	mu    sync.Mutex
	found map[[2]string]bool // by meaning, and key without its partition
	known map[string]func(kind, name string) bool
}

// meaningsMax bounds what is kept.
const meaningsMax = 100_000

func newMeanings() *meanings {
	m := &meanings{}
	m.forget()
	return m
}

func (m *meanings) forget() {
	m.found, m.known = make(map[[2]string]bool), make(map[string]func(kind, name string) bool)
}

// covers implements workers.Means.
func (m *meanings) covers(means, key string) bool {
	kind, name, _ := strings.Cut(key, "/")
	if kind == "p" {
		name, _, _ = strings.Cut(name, "/")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	id := [2]string{means, kind + name}
	covered, known := m.found[id]
	if !known {
		if len(m.found) >= meaningsMax {
			m.forget()
		}
		if m.known[means] == nil {
			m.known[means] = reads(means)
		}
		covered = m.known[means](kind, name)
		m.found[id] = covered
	}
	return covered
}

// ofShare implements workers.Means for what flows in for a share: topics keep their names,
// whoever brought them here before, and a worker that says nothing is there for all.
func (m *meanings) ofShare(means, key string) bool {
	if _, here, ok := strings.Cut(key, ">"); ok && strings.HasPrefix(key, "p/") {
		topic, _, _ := strings.Cut(here, "/")
		key = "p/" + topic + ">" + here
	}
	return means == "" || m.covers(means, key)
}

// reads makes a match of what a worker said. Who cannot be understood is there for
// nothing.
func reads(means string) func(kind, name string) bool {
	topics, groups, err := parseMeaning(means)
	return func(kind, name string) bool {
		switch {
		case err != nil:
			return false
		case kind == "g":
			return groups != nil && groups.MatchString(name)
		}
		atSource, here, _ := strings.Cut(name, ">")
		return topics.NameAt(atSource) == here
	}
}
