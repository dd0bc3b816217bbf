package router

import (
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// treatment says what becomes of a request.
type treatment string

const (
	forwarded    treatment = "forwarded"  // to the site that serves the share; nothing in it to translate
	translated   treatment = "translated" // forwarded, with the site's numbers there and the virtual ones here
	answeredHere treatment = "answered"   // by the gateway itself
	refused      treatment = "refused"
)

// refusals are the APIs that are not served, by the reason for it.
var refusals = []struct {
	why  string
	keys []int16
}{
	{"Between brokers and controllers. Clients do not send it.", []int16{4, 5, 6, 7, 27, 52, 53, 54, 56, 58, 59, 62, 63, 67, 70, 73, 80, 81, 82, 83, 84, 85, 86, 87}},
	{"State of transactions and producers is of one site. Ask the site.", []int16{61, 65, 66}},
	{"Delegation tokens are of one site.", []int16{38, 39, 40, 41}},
	{"Share groups keep their state at one site and cannot move.", []int16{76, 77, 78, 79, 90, 91, 92}},
	{"Streams groups (KIP-1071) keep their state at one site and cannot move. Streams with the classic protocol works where its internal topics exist, or their names match a failover group.", []int16{88, 89, 93}},
	{"A topic has to change at all sites together, which is not served yet. Change it at each site.", []int16{20, 21, 37}},
	{"Settings of groups and client metrics are a site's own. Ask the site.", []int16{74}},
	{"Access rights, quotas and users have to change at all sites together, which is not served yet. Change them at each site.", []int16{29, 30, 31, 48, 49, 50, 51}},
	{"Administration of groups is not served yet. Do it at the site that serves the group.", []int16{42, 47}},
	{"Brokers, disks and replicas are a site's own. Ask the site.", []int16{34, 35, 43, 45, 46, 55, 57, 64, 94}},
	{"Clients' metrics (KIP-714) are not collected. Clients go on without it.", []int16{71, 72}},
	{"Clients ask Metadata where it is missing.", []int16{75}},
}

// Reference is docs/protocol.md: every API of Kafka 4.4 and what becomes of it.
func Reference() []byte {
	why := make(map[int16]string)
	for _, r := range refusals {
		for _, key := range r.keys {
			why[key] = r.why
		}
	}
	var b strings.Builder
	b.WriteString("# Kafka protocol\n\nMade from the lists of package `federation/router`; `go test ./federation/router -update` writes it anew.\n\n")
	b.WriteString("Every API of Kafka 4.4 and what a gateway does with it. `ApiVersions` names what is not refused, as far as every site offers it, so clients leave the rest alone;\n")
	b.WriteString("a request for it all the same closes the connection (`spillway_gateway_connections_closed_total`, reason `unknown-api` or `version`).\n\n")
	fmt.Fprintf(&b, "- **%s**: to the site that serves the failover group. Nothing in it has to be translated: names are the same at all sites, and settings are told as the site has them.\n", forwarded)
	fmt.Fprintf(&b, "- **%s**: forwarded, with the site's offsets and ids there and those of the virtual cluster here.\n", translated)
	fmt.Fprintf(&b, "- **%s**: by the gateway itself.\n- **%s**: not served.\n\n", answeredHere, refused)
	b.WriteString("| key | API | versions | treatment | |\n| --- | --- | --- | --- | --- |\n")
	for key := range int16(kmsg.MaxKey + 1) {
		if kmsg.RequestForKey(key) == nil {
			continue
		}
		versions, what, about := "", refused, why[key]
		if a, ok := apis[key]; ok {
			versions, what, about = fmt.Sprintf("%d–%d", a.min, a.max), a.treatment, a.about
		}
		fmt.Fprintf(&b, "| %d | %s | %s | %s | %s |\n", key, kmsg.NameForKey(key), versions, what, about)
	}
	return []byte(b.String())
}
