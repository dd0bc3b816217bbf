package namespace

import (
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// anything is the name of a resource that stands for all of its type (KIP-290).
const anything = "*"

// filters puts rights on everything into rights on the namespace, before names are
// rewritten. What would reach beyond it is refused.
func (n Namespace) filters(req kmsg.Request) error {
	switch r := req.(type) {
	case *kmsg.CreateACLsRequest:
		for i := range r.Creations {
			c := &r.Creations[i]
			switch {
			case !scoped(int64(c.ResourceType)):
				return fmt.Errorf("%w: rights on %s are not of a namespace", ErrRefused, c.ResourceType)
			case c.ResourceName == anything && c.ResourcePatternType == kmsg.ACLResourcePatternTypeLiteral:
				c.ResourceName, c.ResourcePatternType = "", kmsg.ACLResourcePatternTypePrefixed
			}
		}
	case *kmsg.DeleteACLsRequest:
		for i := range r.Filters {
			f := &r.Filters[i]
			switch {
			case !scoped(int64(f.ResourceType)), f.ResourceName == nil, f.ResourcePatternType == kmsg.ACLResourcePatternTypeMatch:
				return fmt.Errorf("%w: rights are deleted by the name and type of what they are on", ErrRefused)
			case *f.ResourceName == anything:
				nothing := ""
				f.ResourceName, f.ResourcePatternType = &nothing, kmsg.ACLResourcePatternTypePrefixed
			}
		}
	case *kmsg.DescribeACLsRequest:
		if r.ResourceName != nil && (!scoped(int64(r.ResourceType)) || *r.ResourceName == anything) {
			return fmt.Errorf("%w: rights are listed by the name and type of what they are on, or all", ErrRefused) // those on everything have several forms
		}
	}
	return nil
}

// listed puts rights that reach over the namespace into rights on everything in it,
// before names are rewritten.
func (n Namespace) listed(resp kmsg.Response) {
	switch r := resp.(type) {
	case *kmsg.DescribeACLsResponse:
		for i := range r.Resources {
			a := &r.Resources[i]
			n.widen(a.ResourceType, &a.ResourceName, &a.ResourcePatternType)
		}
	case *kmsg.DeleteACLsResponse:
		for i := range r.Results {
			for j := range r.Results[i].MatchingACLs {
				a := &r.Results[i].MatchingACLs[j]
				n.widen(a.ResourceType, &a.ResourceName, &a.ResourcePatternType)
			}
		}
	}
}

// widen also lets go of a right on the one thing whose name within the namespace is *: there it
// would be one on everything.
func (n Namespace) widen(of kmsg.ACLResourceType, name *string, pattern *kmsg.ACLResourcePatternType) {
	switch {
	case !scoped(int64(of)):
	case *pattern == kmsg.ACLResourcePatternTypeLiteral && *name == n.Name(anything):
		*name = elsewhere
	case *pattern == kmsg.ACLResourcePatternTypeLiteral && *name == anything,
		*pattern == kmsg.ACLResourcePatternTypePrefixed && strings.HasPrefix(string(n), *name):
		*name, *pattern = n.Name(anything), kmsg.ACLResourcePatternTypeLiteral
	}
}

// elsewhere begins with no namespace.
const elsewhere = "_"
