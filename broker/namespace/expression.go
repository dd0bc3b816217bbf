package namespace

import (
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
)

// noExpression is one that every broker refuses.
const noExpression = "["

// expression narrows a regular expression, which brokers hold against whole names (RE2,
// KIP-848), to the namespace: what it says of the beginning of a name holds behind that. One
// that says something of it elsewhere than at its own beginning is refused.
func (n Namespace) expression(text string) string {
	if text == "" {
		return "" // subscribes to nothing
	}
	tree, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return noExpression
	}
	unanchor(tree)
	if anchored(tree) {
		return noExpression
	}
	return n.opening() + tree.String() + ")"
}

// unexpression is what expression was given, or means the same.
func (n Namespace) unexpression(text string) string {
	if inner, ok := strings.CutPrefix(text, n.opening()); ok {
		return strings.TrimSuffix(inner, ")")
	}
	return text
}

func (n Namespace) opening() string { return regexp.QuoteMeta(string(n)) + "(?:" }

// unanchor takes the marks of a text's beginning away where they stand there.
func unanchor(tree *syntax.Regexp) {
	switch tree.Op {
	case syntax.OpBeginText, syntax.OpBeginLine:
		tree.Op = syntax.OpEmptyMatch
	case syntax.OpAlternate, syntax.OpCapture:
		for _, s := range tree.Sub {
			unanchor(s)
		}
	case syntax.OpConcat:
		unanchor(tree.Sub[0])
	}
}

// anchored tells whether such a mark is left, which would never match behind a namespace.
func anchored(tree *syntax.Regexp) bool {
	return tree.Op == syntax.OpBeginText || tree.Op == syntax.OpBeginLine || slices.ContainsFunc(tree.Sub, anchored)
}
