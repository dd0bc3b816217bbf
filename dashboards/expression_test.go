package dashboards

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// selector is one metric in an expression.
type selector struct {
	metric string
	labels []string
	ranged string // the function around a range selector; empty without a range
	offset bool
}

// expression is what the checks need to know of PromQL: who is selected, and
// which labels are named. Prometheus itself judges the grammar, in tests/watch.
type expression struct {
	selectors []selector
	grouping  []string // labels after by, on, ignoring, without and group_left
}

// token of PromQL. Kinds: word, string, number (with duration), or the text of
// the punctuation itself.
type token struct{ kind, text string }

var lexer = regexp.MustCompile(`\s+|#[^\n]*|([a-zA-Z_:][a-zA-Z0-9_:]*)|("(?:[^"\\]|\\.)*")|([0-9.]+(?:ms|[smhdwy])?)|(=~|!~|!=|==|<=|>=|[-+*/%^(){}\[\],=<>@:])`)

func lex(text string) ([]token, error) {
	var tokens []token
	for at := 0; at < len(text); {
		m := lexer.FindStringSubmatchIndex(text[at:])
		if m == nil || m[0] != 0 {
			return nil, fmt.Errorf("at %q: not PromQL", text[at:])
		}
		for group, kind := range []string{"", "word", "string", "number", "mark"} {
			if group > 0 && m[2*group] >= 0 {
				part := text[at+m[2*group] : at+m[2*group+1]]
				if kind == "mark" {
					kind = part
				}
				tokens = append(tokens, token{kind, part})
			}
		}
		at += m[1]
	}
	return tokens, nil
}

var (
	listed   = []string{"by", "without", "on", "ignoring", "group_left", "group_right"}
	keywords = []string{"and", "or", "unless", "bool", "offset"}
)

// parse finds selectors and grouping labels, and that brackets fit.
func parse(text string) (expression, error) {
	tokens, err := lex(text)
	if err != nil {
		return expression{}, err
	}
	var e expression
	var open []string // brackets, each with the function before it
	is := func(i int, kind string) bool { return i < len(tokens) && tokens[i].kind == kind }
	for i := 0; i < len(tokens); i++ {
		t := tokens[i]
		switch {
		case t.kind == "(":
			function := ""
			if i > 0 && tokens[i-1].kind == "word" {
				function = tokens[i-1].text
			}
			open = append(open, function)
		case t.kind == ")":
			if len(open) == 0 {
				return e, fmt.Errorf("%s: one ) too many", text)
			}
			open = open[:len(open)-1]
		case t.kind == "{" || t.kind == "}":
			return e, fmt.Errorf("%s: a selector without a metric's name", text)
		case t.kind != "word" || slices.Contains(keywords, t.text):
		case slices.Contains(listed, t.text):
			if !is(i+1, "(") {
				return e, fmt.Errorf("%s: no list of labels after %s", text, t.text)
			}
			for i += 2; i < len(tokens) && !is(i, ")"); i++ {
				if is(i, "word") {
					e.grouping = append(e.grouping, tokens[i].text)
				}
			}
		case is(i+1, "("): // a function
		case is(i+1, "word") && slices.Contains(listed, tokens[i+1].text): // an aggregation
		default:
			s := selector{metric: t.text}
			if is(i+1, "{") {
				for i += 2; i < len(tokens) && !is(i, "}"); i++ {
					if is(i, "word") {
						s.labels = append(s.labels, tokens[i].text)
					}
				}
			}
			if is(i+1, "[") {
				s.ranged = "?"
				if len(open) > 0 {
					s.ranged = open[len(open)-1]
				}
				for i++; i < len(tokens) && !is(i, "]"); i++ {
				}
			}
			s.offset = is(i+1, "word") && tokens[i+1].text == "offset"
			e.selectors = append(e.selectors, s)
		}
	}
	if len(open) > 0 {
		return e, fmt.Errorf("%s: %d ( are not closed", text, len(open))
	}
	if len(e.selectors) == 0 && !strings.Contains(text, "vector") {
		return e, fmt.Errorf("%s: selects nothing", text)
	}
	return e, nil
}
