package selection

import (
	"regexp"
	"regexp/syntax"

	"spillway/broker"
)

// Prefixes are those of which a pattern matches every name: "orders-.*" means all
// that begin with orders-. It may miss some; nil means nothing.
func Prefixes(pattern *regexp.Regexp) []string {
	if pattern == nil {
		return nil
	}
	r, err := syntax.Parse(pattern.String(), syntax.Perl)
	if err != nil {
		return nil // it was compiled, so this cannot be
	}
	return prefixes(r.Simplify())
}

func prefixes(r *syntax.Regexp) (all []string) {
	switch r.Op {
	case syntax.OpCapture:
		return prefixes(r.Sub[0])
	case syntax.OpAlternate:
		for _, one := range r.Sub {
			all = append(all, prefixes(one)...)
		}
		return all
	case syntax.OpStar:
		if op := r.Sub[0].Op; op == syntax.OpAnyChar || op == syntax.OpAnyCharNotNL {
			return []string{""}
		}
	case syntax.OpConcat:
		literal := ""
		for i, one := range r.Sub {
			switch {
			case one.Op == syntax.OpBeginText && i == 0, one.Op == syntax.OpEndText && i == len(r.Sub)-1:
			case one.Op == syntax.OpLiteral && one.Flags&syntax.FoldCase == 0:
				literal += string(one.Rune)
			default:
				for _, rest := range prefixes(one) {
					all = append(all, literal+rest)
				}
				if i+1 < len(r.Sub) && !(i+2 == len(r.Sub) && r.Sub[i+1].Op == syntax.OpEndText) {
					return nil // something has to follow
				}
				return all
			}
		}
	}
	return nil
}

// Prefixes are those of which every topic is meant, under the name that it has.
func (t Topics) Prefixes() []string {
	switch {
	case t.Exclude != nil || len(t.Rename) > 0:
		return nil
	case t.Include == nil:
		return []string{""}
	}
	return Prefixes(t.Include)
}

// TopicsOf are the topics of a cluster that Of shows; of another one, all.
func TopicsOf(c broker.Cluster) Topics {
	if s, ok := c.(*selected); ok {
		return s.topics
	}
	return Topics{}
}

// Whole is the cluster of which Of shows some topics.
func Whole(c broker.Cluster) broker.Cluster {
	if s, ok := c.(*selected); ok {
		return s.Cluster
	}
	return c
}
