package rewrite

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"spillway/broker/batch"
)

// Filter is a condition that records have to meet.
type Filter struct {
	// Topics are those that are meant, by their names at the source: exact names, or a
	// prefix followed by "*"; none: all.
	Topics  []string
	Header  string // whose value is looked at; "": the key
	Negated bool
	Pattern *regexp.Regexp // for the whole key or value

	condition string // as it was written, without the topics
}

// topicList is what may stand before the slash: names of topics, and patterns.
var topicList = regexp.MustCompile(`^[a-zA-Z0-9._*-]+(,[a-zA-Z0-9._*-]+)*$`)

const headerPrefix = "header:"

// ParseFilter reads [TOPICS/]key=REGEX or [TOPICS/]header:NAME=REGEX, where != in the
// place of = turns it round. The expression means the whole key or value.
func ParseFilter(s string) (Filter, error) {
	left, pattern, found := strings.Cut(s, "=")
	var f Filter
	if topics, rest, ok := strings.Cut(left, "/"); ok && topicList.MatchString(topics) {
		f.Topics, left = strings.Split(topics, ","), rest
	}
	f.condition = left + "=" + pattern
	left, f.Negated = strings.CutSuffix(left, "!")
	name, isHeader := strings.CutPrefix(left, headerPrefix)
	if !found || left != "key" && (!isHeader || name == "") {
		return f, fmt.Errorf("filter %q: want [TOPICS/]key=REGEX or [TOPICS/]header:NAME=REGEX, with != for records that do not match", s)
	}
	if isHeader {
		f.Header = name
	}
	var err error
	if _, err = regexp.Compile(pattern); err == nil {
		// Keys are bytes, so the dot means a line's end too.
		f.Pattern, err = regexp.Compile(`\A(?s:` + pattern + `)\z`)
	}
	if err != nil {
		return f, fmt.Errorf("filter %q: %w", s, err)
	}
	return f, nil
}

// ParseFilters reads several of them.
func ParseFilters(all []string) ([]Filter, error) {
	var filters []Filter
	for _, s := range all {
		f, err := ParseFilter(s)
		if err != nil {
			return nil, err
		}
		filters = append(filters, f)
	}
	return filters, nil
}

// Condition is the filter as it was written, without its topics.
func (f Filter) Condition() string { return f.condition }

// Means tells whether the filter is about a topic of the source.
func (f Filter) Means(topic string) bool {
	return len(f.Topics) == 0 || slices.ContainsFunc(f.Topics, func(p string) bool {
		prefix, ok := strings.CutSuffix(p, "*")
		return p == topic || ok && strings.HasPrefix(topic, prefix)
	})
}

// passes tells whether a record meets the condition. What is null matches no
// expression; of several headers of one name one that matches is enough.
func (f Filter) passes(r *batch.Record) bool {
	if f.Header == "" {
		return (r.Key != nil && f.Pattern.Match(r.Key)) != f.Negated
	}
	if r.Key != nil && r.Value == nil {
		return true // C
	}
	matches := slices.ContainsFunc(r.Headers, func(h batch.RecordHeader) bool {
		return h.Key == f.Header && h.Value != nil && f.Pattern.Match(h.Value)
	})
	return matches != f.Negated
}
