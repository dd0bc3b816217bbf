package spillway

import (
	"cmp"
	"fmt"
	"strings"
)

// ACL is one entry of a cluster's access control list, in Kafka's words.
type ACL struct {
	Resource   string `json:"resource"` // TOPIC or GROUP
	Pattern    string `json:"pattern"`  // LITERAL or PREFIXED
	Name       string `json:"name"`     // "*" with LITERAL: all
	Principal  string `json:"principal"`
	Host       string `json:"host"`
	Operation  string `json:"operation"`
	Permission string `json:"permission"` // ALLOW or DENY
}

// Words of ACLs.
const (
	ACLTopic    = "TOPIC"
	ACLGroup    = "GROUP"
	ACLLiteral  = "LITERAL"
	ACLPrefixed = "PREFIXED"
	ACLDeny     = "DENY"
)

// String is the entry in a sentence.
func (a ACL) String() string {
	name := a.Name
	if a.Pattern == ACLPrefixed {
		name += "*"
	}
	return fmt.Sprintf("%s %s on %s %s to %s from %s", strings.ToLower(a.Permission), strings.ToLower(a.Operation), strings.ToLower(a.Resource), name, a.Principal, a.Host)
}

// Compare sorts entries.
func (a ACL) Compare(b ACL) int {
	return cmp.Or(strings.Compare(a.Resource, b.Resource), strings.Compare(a.Name, b.Name), strings.Compare(a.Pattern, b.Pattern), strings.Compare(a.Principal, b.Principal),
		strings.Compare(a.Host, b.Host), strings.Compare(a.Operation, b.Operation), strings.Compare(a.Permission, b.Permission))
}
