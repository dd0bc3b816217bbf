package configs

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// checker walks the YAML file beside the structs. Viper forgets where a key
// stood and takes what it does not know in silence, so strictness is here.
type checker struct {
	file   string
	lines  map[string]int // key → line
	faults Faults
}

func (c *checker) fault(line int, key, format string, args ...any) {
	c.faults = append(c.faults, Fault{File: c.file, Line: line, Key: key, Text: fmt.Sprintf(format, args...)})
}

// section checks a mapping against a struct and returns it as the plain values
// that viper merges, list elements completed with their defaults.
func (c *checker) section(n *yaml.Node, t reflect.Type, path string, defaults bool) map[string]any {
	n = follow(n)
	out := map[string]any{}
	if n.Kind != yaml.MappingNode {
		c.fault(n.Line, path, "must be a section with keys, not %s", shown(n))
		return out
	}
	known := fieldsOf(t)
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		key := join(path, k.Value)
		at := slices.IndexFunc(known, func(f field) bool { return f.Key == k.Value })
		if at < 0 {
			c.fault(k.Line, key, "unknown key%s", suggestion(k.Value, path, known))
			continue
		}
		if first, twice := seen[k.Value]; twice {
			c.fault(k.Line, key, "given twice, first in line %d", first)
			continue
		}
		seen[k.Value] = k.Line
		c.lines[key] = k.Line
		if value, ok := c.value(follow(v), known[at], key); ok {
			out[k.Value] = value
		}
	}
	for _, f := range known {
		_, given := seen[f.Key]
		switch {
		case given:
		case f.section() && !f.optional() && defaults:
			out[f.Key] = c.section(&yaml.Node{Kind: yaml.MappingNode, Line: n.Line}, f.elem(), join(path, f.Key), true)
		case f.Required && defaults:
			c.fault(n.Line, join(path, f.Key), "is missing: %s", f.Doc)
		case f.Default != "" && defaults:
			out[f.Key] = f.Default
		}
	}
	return out
}

func (c *checker) value(n *yaml.Node, f field, key string) (any, bool) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		c.fault(n.Line, key, "has no value; leave the key out or give it a %s", kindOf(f.elem()))
		return nil, false
	}
	switch {
	case f.sectionList():
		return c.sectionList(n, f, key)
	case f.section():
		// Inside a list there is no viper default for what is left out.
		return c.section(n, f.elem(), key, strings.Contains(key, "[")), true
	case f.Type.Kind() == reflect.Slice:
		return c.words(n, f, key)
	}
	if n.Kind != yaml.ScalarNode {
		c.fault(n.Line, key, "must be a %s, not %s", kindOf(f.Type), shown(n))
		return nil, false
	}
	if problem := scalarProblem(n.Value, f); problem != "" {
		c.fault(n.Line, key, "%s", problem)
		return nil, false
	}
	return n.Value, true
}

func (c *checker) sectionList(n *yaml.Node, f field, key string) (any, bool) {
	if n.Kind != yaml.SequenceNode {
		c.fault(n.Line, key, "must be a list: each entry begins with \"- \", and names go into the key name")
		return nil, false
	}
	list := make([]any, 0, len(n.Content))
	for i, e := range n.Content {
		at := fmt.Sprintf("%s[%d]", key, i)
		c.lines[at] = e.Line
		list = append(list, c.section(e, f.Type.Elem(), at, true))
	}
	return list, true
}

func (c *checker) words(n *yaml.Node, f field, key string) (any, bool) {
	if n.Kind != yaml.SequenceNode {
		c.fault(n.Line, key, "must be a list, for example [%s]", strings.TrimSpace(n.Value))
		return nil, false
	}
	list := make([]any, 0, len(n.Content))
	for i, e := range n.Content {
		at := fmt.Sprintf("%s[%d]", key, i)
		c.lines[at] = e.Line
		if e = follow(e); e.Kind != yaml.ScalarNode || e.Tag == "!!null" || e.Value == "" {
			c.fault(e.Line, at, "must be a word, not %s", shown(e))
			continue
		}
		list = append(list, e.Value)
	}
	return list, true
}

// scalarProblem says what is wrong with a value, also with one that came from
// the environment; "" if nothing is.
func scalarProblem(value string, f field) string {
	switch t := f.Type; {
	case t == durationType:
		if d, err := time.ParseDuration(value); err != nil {
			return fmt.Sprintf("%q is not a duration; try %q", value, durationMeant(value))
		} else if d < 0 {
			return fmt.Sprintf("%q is negative", value)
		}
	case t.Kind() == reflect.Int, t.Kind() == reflect.Int64:
		if n, err := strconv.ParseInt(value, 10, 64); err != nil {
			return fmt.Sprintf("%q is not a whole number", value)
		} else if n < 0 {
			return fmt.Sprintf("%d is negative", n)
		}
	case t.Kind() == reflect.Float64:
		if _, err := strconv.ParseFloat(value, 64); err != nil {
			return fmt.Sprintf("%q is not a number", value)
		}
	case t.Kind() == reflect.Bool:
		if value != "true" && value != "false" {
			return fmt.Sprintf("%q is neither true nor false", value)
		}
	case len(f.Enum) > 0 && !slices.Contains(f.Enum, value):
		text := fmt.Sprintf("%q is none of %s", value, strings.Join(f.Enum, ", "))
		if near := nearest(value, f.Enum); near != "" {
			text += fmt.Sprintf("; did you mean %s?", near)
		}
		return text
	}
	return ""
}

var spelledDuration = regexp.MustCompile(`^\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*$`)

// durationMeant turns what people write into what Go reads.
func durationMeant(value string) string {
	m := spelledDuration.FindStringSubmatch(value)
	if m == nil {
		return "5s"
	}
	units := []struct{ start, unit string }{{"ms", "ms"}, {"milli", "ms"}, {"mi", "m"}, {"m", "m"}, {"h", "h"}, {"s", "s"}, {"", "s"}}
	for _, u := range units {
		if strings.HasPrefix(strings.ToLower(m[2]), u.start) && (u.start != "" || m[2] == "") {
			return m[1] + u.unit
		}
	}
	return "5s"
}

// suggestion names the nearest known key: beside the unknown one, or elsewhere.
func suggestion(key, path string, known []field) string {
	if strings.EqualFold(key, "password") || strings.EqualFold(key, "token") {
		return fmt.Sprintf("; secrets stay out of the file: use %sFile or %sEnv", strings.ToLower(key), strings.ToLower(key))
	}
	names := make([]string, len(known))
	for i, f := range known {
		names[i] = f.Key
	}
	if near := nearest(key, names); near != "" {
		return fmt.Sprintf("; did you mean %s?", join(path, near))
	}
	return fmt.Sprintf("; known here: %s", strings.Join(names, ", "))
}

func follow(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

func shown(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a section"
	case yaml.SequenceNode:
		return "a list"
	default:
		return fmt.Sprintf("%q", n.Value)
	}
}
