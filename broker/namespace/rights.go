package namespace

import (
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// anything is the name of a resource that stands for all of its type (KIP-290).
const anything = "*"

// filters puts rights on everything into rights on the namespace, before names are
// rewritten. A deletion that would reach beyond it is refused.
func (n Namespace) filters(req kmsg.Request) error {
	switch r := req.(type) {
	case *kmsg.CreateACLsRequest:
		for i := range r.Creations {
			c := &r.Creations[i]
			if scoped(int64(c.ResourceType)) && c.ResourceName == anything && c.ResourcePatternType == kmsg.ACLResourcePatternTypeLiteral {
				c.ResourceName, c.ResourcePatternType = "", kmsg.ACLResourcePatternTypePrefixed
			}
		}
	case *kmsg.DeleteACLsRequest:
		for i := range r.Filters {
			f := &r.Filters[i]
			switch {
			case f.ResourceType == kmsg.ACLResourceTypeAny, scoped(int64(f.ResourceType)) && (f.ResourceName == nil || f.ResourcePatternType == kmsg.ACLResourcePatternTypeMatch):
				return fmt.Errorf("%w: rights are deleted by the name and type of what they are on", ErrRefused)
			case scoped(int64(f.ResourceType)) && *f.ResourceName == anything:
				nothing := ""
				f.ResourceName, f.ResourcePatternType = &nothing, kmsg.ACLResourcePatternTypePrefixed
			}
		}
	case *kmsg.DescribeACLsRequest:
		if scoped(int64(r.ResourceType)) && r.ResourceName != nil && *r.ResourceName == anything {
			r.ResourceName, r.ResourcePatternType = nil, kmsg.ACLResourcePatternTypeAny // those on everything are of several forms
		}
	}
	return nil
}

// listed puts rights that reach over the namespace into rights on everything in it,
// before names are rewritten.
func (n Namespace) listed(resp kmsg.Response) {
	reaches := func(kind kmsg.ACLResourceType, name string, pattern kmsg.ACLResourcePatternType) bool {
		return scoped(int64(kind)) && (name == anything && pattern == kmsg.ACLResourcePatternTypeLiteral ||
			pattern == kmsg.ACLResourcePatternTypePrefixed && strings.HasPrefix(string(n), name))
	}
	switch r := resp.(type) {
	case *kmsg.DescribeACLsResponse:
		for i := range r.Resources {
			a := &r.Resources[i]
			if reaches(a.ResourceType, a.ResourceName, a.ResourcePatternType) {
				a.ResourceName, a.ResourcePatternType = n.Name(anything), kmsg.ACLResourcePatternTypeLiteral
			}
		}
	case *kmsg.DeleteACLsResponse:
		for i := range r.Results {
			for j := range r.Results[i].MatchingACLs {
				a := &r.Results[i].MatchingACLs[j]
				if reaches(a.ResourceType, a.ResourceName, a.ResourcePatternType) {
					a.ResourceName, a.ResourcePatternType = n.Name(anything), kmsg.ACLResourcePatternTypeLiteral
				}
			}
		}
	}
}
