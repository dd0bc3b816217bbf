// Package selection shows some topics of a cluster, under the names that they have
// at another one. A mirror or an audit of what is shown knows nothing of other names:
// it meets them only in requests to brokers.
package selection

import (
	"fmt"
	"regexp"
	"strings"

	"spillway"
)

// Topics says which topics of a source are meant, and how they are called at the
// target. Patterns mean whole names. The zero value means all topics as they are.
type Topics struct {
	Include *regexp.Regexp // nil: all
	Exclude *regexp.Regexp // nil: none
	// Rename holds for the first pattern that a name at the source matches; other
	// names stay.
	Rename []Rename
}

// Rename gives topics another name.
type Rename struct {
	From *regexp.Regexp
	To   string // $1 stands for the first group of From, as in regexp.Expand
}

// ParseRename reads PATTERN=NAME, as in "(.*)=east.$1".
func ParseRename(s string) (Rename, error) {
	from, to, ok := strings.Cut(s, "=")
	if !ok || from == "" || to == "" {
		return Rename{}, fmt.Errorf("rename %q: want PATTERN=NAME, as in '(.*)=east.$1'", s)
	}
	r, err := Pattern(from)
	if err != nil {
		return Rename{}, fmt.Errorf("rename %q: %w", s, err)
	}
	return Rename{From: r, To: to}, nil
}

// Pattern compiles an expression that matches whole names.
func Pattern(pattern string) (*regexp.Regexp, error) { return regexp.Compile("^(?:" + pattern + ")$") }

// Parse makes a selection of the patterns that a user writes; "" excludes nothing.
func Parse(include, exclude string, rename []string) (t Topics, err error) {
	if t.Include, err = Pattern(include); err != nil {
		return t, fmt.Errorf("topics %q: %w", include, err)
	}
	if exclude != "" {
		if t.Exclude, err = Pattern(exclude); err != nil {
			return t, fmt.Errorf("exclude %q: %w", exclude, err)
		}
	}
	for _, s := range rename {
		r, err := ParseRename(s)
		if err != nil {
			return t, err
		}
		t.Rename = append(t.Rename, r)
	}
	return t, nil
}

// NameAt is what a topic of the source is called at the target; "" where it is not
// meant. Topics of Kafka's and Spillway's own never are.
func (t Topics) NameAt(topic string) string {
	if strings.HasPrefix(topic, spillway.InternalTopicPrefix) || strings.HasPrefix(topic, "__") ||
		t.Include != nil && !t.Include.MatchString(topic) || t.Exclude != nil && t.Exclude.MatchString(topic) {
		return ""
	}
	for _, r := range t.Rename {
		if m := r.From.FindStringSubmatchIndex(topic); m != nil {
			return string(r.From.ExpandString(nil, r.To, topic, m))
		}
	}
	return topic
}

// validName is what Kafka takes for the name of a topic (org.apache.kafka.common.internals.Topic).
var validName = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

// names lists the topics that are meant: by their name at the target, that at the
// source. Two topics of one name, and names that Kafka does not take, are errors.
func (t Topics) names(source []string) (map[string]string, error) {
	there := make(map[string]string, len(source))
	for _, name := range source {
		at := t.NameAt(name)
		if at == "" {
			continue
		}
		if !validName.MatchString(at) || at == "." || at == ".." || strings.HasPrefix(at, "__") || strings.HasPrefix(at, spillway.InternalTopicPrefix) {
			return nil, fmt.Errorf("topic %s would be called %q at the target, which is no name for it", name, at)
		}
		if other, ok := there[at]; ok {
			return nil, fmt.Errorf("topics %s and %s would both be called %s at the target", other, name, at)
		}
		there[at] = name
	}
	return there, nil
}
