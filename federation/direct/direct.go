// Package direct tells which clients of a failover group reach the brokers of its active site
// past the gateways, by what these brokers show. It is pure: what they showed is passed in. It
// knows nothing of how a group moves.
//
// A member of a consumer group is one that came by a gateway if brokers show the gateway's
// client id of it, or, where it has an instance id, if a gateway says so. A producer is one of a gateway's clients if its id has their bits
// (spillway.ClientProducerID): nobody else's has. What a broker does not show nobody can list:
// who reads without being a member of a group, and who writes without a producer id where others
// write too; and by which way a transactional producer came, unless its gateway says so.
package direct

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"spillway"
)

// Look is what the active site showed, twice, a moment apart.
type Look struct {
	Site spillway.SiteID
	At   time.Time
	// Members of the consumer groups of the failover group.
	Members []Member
	// Producers are what leaders remember of them, Before what they did a moment before.
	Producers, Before []Producer
	// Grew is by how many offsets logs grew meanwhile; those that did not are left out.
	Grew map[spillway.TopicPartition]int64
	// Plain are partitions to which a gateway has lately sent batches without a producer id.
	Plain map[spillway.TopicPartition]bool
	// Transactions are open ones: transactional ids by producer id.
	Transactions map[int64]string
	// Transactional tells whether a failover group has the transactional id.
	Transactional func(id string) bool
	// ByGateways are the producer ids that the site gave to transactional producers whose
	// gateways say that they came by them, with the newest epoch with which they did. Who comes
	// by the brokers next gets a newer one there.
	ByGateways map[int64]int16
	// Epochs are those of open transactions, by producer id.
	Epochs map[int64]int16
	// StaticByGateways tells of a member with an instance id whether a gateway says that it
	// came by it; nil: none does.
	StaticByGateways func(group, id string) bool
	// Unread are what could not be asked for.
	Unread []Unread
	// History is what earlier looks have seen of producers; nil: there were none.
	History *History
}

// History is since when producers have been as they are, by the clock of the one who looks: the
// time of a record is what its client says.
type History struct{ since map[at]been }

type at struct {
	spillway.TopicPartition
	id int64
}

type been struct {
	Producer
	since, shown time.Time
}

// hiddenMax is for how long a producer is remembered where looks could not see everything.
const hiddenMax = 3 * time.Minute

// note takes in what a look showed. A producer that it did not show is forgotten, and new when
// it is shown again; but for one that a look which did not see everything may have missed.
func (h *History) note(shown []Producer, now time.Time, everything bool) {
	since := make(map[at]been, len(shown))
	for _, p := range shown {
		k := at{p.TopicPartition, p.ID}
		was, known := h.since[k]
		if !known || was.moved(p) {
			was = been{Producer: p, since: now}
		}
		was.shown = now
		since[k] = was
	}
	for k, was := range h.since {
		if _, again := since[k]; !again && !everything && now.Sub(was.shown) < hiddenMax {
			since[k] = was
		}
	}
	h.since = since
}

// moved tells whether a producer did anything since.
func (p Producer) moved(now Producer) bool {
	return p.Epoch != now.Epoch || p.Sequence != now.Sequence || !p.Last.Equal(now.Last) || p.Open != now.Open
}

// byGateway tells whether a member came by a gateway. Brokers keep the client id of the one
// who joined first under an instance id, for all that come after it.
func (l Look) byGateway(m Member) bool {
	if m.Instance != "" {
		return l.StaticByGateways != nil && l.StaticByGateways(m.Group, m.ID)
	}
	return spillway.IsGatewayClientID(m.ClientID)
}

// came tells whether a gateway says that a producer with an epoch came by it.
func (l Look) came(id int64, epoch int16) bool {
	told, known := l.ByGateways[id]
	return known && epoch <= told
}

// markerEpochs is by how much the epoch of a marker may be newer than that with which a producer
// came by a gateway last: its coordinator counts one up where it ends a transaction whose time
// is over, or any one (KIP-890), and one more for the producer that begins anew, of which no
// gateway has said so yet.
const markerEpochs = 2

// marker tells whether what a leader remembers of a producer is a marker that a coordinator
// wrote for one that came by a gateway, and nothing of the producer itself. One that goes past
// the gateways has markers too, and is further with each of its transactions.
func (l Look) marker(p Producer) bool {
	told, known := l.ByGateways[p.ID]
	return known && p.Sequence < 0 && !p.Open && int(p.Epoch) <= int(told)+markerEpochs
}

// Member of a consumer group.
type Member struct {
	Group, ID, Instance, ClientID, Host string
	Partitions                          []spillway.TopicPartition
}

// Producer is what the leader of a partition remembers of one.
type Producer struct {
	spillway.TopicPartition
	ID       int64
	Epoch    int16
	Sequence int32 // of its last record
	Last     time.Time
	Open     bool // it has an open transaction there
}

// Unread is something that the site could not be asked for.
type Unread struct {
	About string `json:"about"`
	Why   string `json:"why"`
}

// Kinds of clients.
const (
	KindMember        = "member"        // of a consumer group
	KindProducer      = "producer"      // idempotent or transactional
	KindTransactional = "transactional" // has an open transaction
	KindUnknown       = "unknown"       // writes without a producer id, as no gateway does there
)

// Client is one that goes past the gateways.
type Client struct {
	Kind string `json:"kind"`
	// ID is the client id of a member, the producer id of a producer, and the transactional id
	// of one that has an open transaction.
	ID string `json:"id"`
	// Host is where it is; "": brokers do not tell it of producers.
	Host   string `json:"host,omitempty"`
	Group  string `json:"group,omitempty"`
	Member string `json:"member,omitempty"`
	// Instance is the instance id of a static member: ID and Host may be those of the first one
	// that had it.
	Instance string `json:"instance,omitempty"`
	// Partitions that it is assigned, or has written to, partitionsMax at most.
	Partitions []string `json:"partitions"`
	More       int      `json:"morePartitions,omitempty"`
	// LastSeen is when it was there last: for a producer by the time of its last record.
	LastSeen time.Time `json:"lastSeen,omitzero"`
}

// Found is who goes past the gateways.
type Found struct {
	Group   string          `json:"failoverGroup"`
	Site    spillway.SiteID `json:"site"`
	At      time.Time       `json:"at"`
	Clients []Client        `json:"clients"`
	More    int             `json:"moreClients,omitempty"` // beside clientsMax
	// Gone are producers that have written past the gateways, and not for long.
	Gone     []Client `json:"gone"`
	MoreGone int      `json:"moreGone,omitempty"`
	// Unattributed are partitions to which somebody wrote during the look without a producer
	// id, where a gateway did so too: whether others did besides is not known.
	Unattributed []string `json:"unattributed,omitempty"`
	Unread       []Unread `json:"unread,omitempty"`
	// OneLook is why one look is not enough to say that nobody is left; "": it is, or there
	// were more.
	OneLook string `json:"oneLook,omitempty"`
	// Unseen says what brokers cannot show.
	Unseen []string `json:"unseen"`
}

const (
	partitionsMax = 20
	clientsMax    = 1000
	namesMax      = 5
)

// unseen is the same for every look.
var unseen = []string{
	"consumers that are not members of a group (assign(), Flink, sinks that keep positions themselves): a broker tells nobody of them",
	"producers without a producer id (enable.idempotence=false, acks 0 or 1 of older clients): of them only the growth of a log is seen, where no other producer writes to it during the look",
	"clients that are not connected now, as jobs that run at night",
}

// None tells whether everything could be looked at, and nobody goes past the gateways.
func (f Found) None() bool { return len(f.Clients) == 0 && len(f.Unread) == 0 && f.OneLook == "" }

// Count is how many were found.
func (f Found) Count() int { return len(f.Clients) + f.More }

// String says it in a sentence.
func (f Found) String() string {
	var parts []string
	if f.Count() == 0 && len(f.Unread) == 0 {
		parts = append(parts, fmt.Sprintf("no client was found at %s past the gateways", f.Site))
	}
	if f.Count() > 0 {
		var names []string
		for _, c := range f.Clients[:min(len(f.Clients), namesMax)] {
			names = append(names, c.String())
		}
		text := fmt.Sprintf("%s at %s: %s", number(f.Count(), "client"), f.Site, strings.Join(names, ", "))
		if more := f.Count() - len(names); more > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
		parts = append(parts, text)
	}
	for _, u := range f.Unread[:min(len(f.Unread), namesMax)] {
		parts = append(parts, fmt.Sprintf("%s could not be looked at: %s", u.About, u.Why))
	}
	if f.OneLook != "" {
		parts = append(parts, f.OneLook)
	}
	return strings.Join(parts, "; ")
}

// chosenMax bounds what is shown of a name that a client chose, in bytes.
const chosenMax = 100

// Shown is a name that a client chose as people are shown it: not more than some of it, and
// quoted where it could look like something else.
func Shown(name string) string {
	cut := name
	if len(cut) > chosenMax {
		cut = cut[:chosenMax]
	}
	quoted := strconv.QuoteToASCII(cut)
	if len(quoted) == len(name)+2 && !strings.ContainsAny(name, " ,;") {
		return name
	}
	return quoted
}

// String names a client.
func (c Client) String() string {
	switch c.Kind {
	case KindMember:
		if c.Instance != "" {
			return fmt.Sprintf("static member %s of group %s", Shown(c.Instance), Shown(c.Group))
		}
		return fmt.Sprintf("member %s of group %s from %s", Shown(c.ID), Shown(c.Group), Shown(c.Host))
	case KindUnknown:
		return fmt.Sprintf("somebody who writes without a producer id to %s", few(c.Partitions, c.More))
	case KindTransactional:
		return fmt.Sprintf("transactional producer %s", Shown(c.ID))
	}
	return fmt.Sprintf("producer %s of %s", c.ID, few(c.Partitions, c.More))
}

func few(names []string, more int) string {
	n := min(len(names), namesMax)
	if more += len(names) - n; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:n], ", "), more)
	}
	return strings.Join(names, ", ")
}

func number(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// Judge tells who goes past the gateways. A producer has gone when it did nothing for as long as
// quiet says, over all looks, since leaders remember producers for a day. With one look alone
// the time of its last record has to do.
func Judge(group string, l Look, quiet time.Duration) Found {
	f := Found{Group: group, Site: l.Site, At: l.At, Clients: []Client{}, Gone: []Client{}, Unread: l.Unread, Unseen: unseen}
	var clients, gone []Client
	for _, m := range l.Members {
		if l.byGateway(m) {
			continue
		}
		c := Client{Kind: KindMember, ID: m.ClientID, Instance: m.Instance, Host: strings.TrimPrefix(m.Host, "/"), Group: m.Group, Member: m.ID, LastSeen: l.At}
		c.Partitions, c.More = names(m.Partitions)
		clients = append(clients, c)
	}
	if l.History != nil {
		l.History.note(l.Producers, l.At, len(l.Unread) == 0)
	}
	writers, wrote := l.writers()
	for _, id := range slices.Sorted(maps.Keys(writers)) {
		w := writers[id]
		c := Client{Kind: KindProducer, ID: fmt.Sprint(id), LastSeen: w.last}
		c.Partitions, c.More = names(w.partitions)
		if name, open := l.Transactions[id]; open {
			c.Kind, c.ID = KindTransactional, name
			w.active = true
		}
		idle := l.At.Sub(w.last)
		if l.History != nil {
			idle = l.At.Sub(w.since)
		}
		if w.active || idle < quiet {
			clients = append(clients, c)
		} else {
			gone = append(gone, c)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(l.Transactions)) {
		// It has begun, and has written to none of the group yet.
		if name := l.Transactions[id]; writers[id] == nil && !l.came(id, l.Epochs[id]) && l.Transactional != nil && l.Transactional(name) {
			clients = append(clients, Client{Kind: KindTransactional, ID: name, Partitions: []string{}, LastSeen: l.At})
		}
	}
	var plain []spillway.TopicPartition
	for _, tp := range slices.SortedFunc(maps.Keys(l.Grew), spillway.TopicPartition.Compare) {
		switch {
		case wrote[tp]:
		case l.Plain[tp]: // by a gateway, and perhaps past it besides
			f.Unattributed = append(f.Unattributed, tp.String())
		default:
			plain = append(plain, tp)
		}
	}
	if len(plain) > 0 { // nobody can tell how many they are
		c := Client{Kind: KindUnknown, ID: "without a producer id", LastSeen: l.At}
		c.Partitions, c.More = names(plain)
		clients = append(clients, c)
	}
	slices.SortFunc(clients, func(a, b Client) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Group, b.Group), strings.Compare(a.ID, b.ID), strings.Compare(a.Member, b.Member))
	})
	f.Clients, f.More = bounded(clients)
	f.Gone, f.MoreGone = bounded(gone)
	return f
}

func bounded(clients []Client) ([]Client, int) {
	if clients == nil {
		clients = []Client{}
	}
	n := min(len(clients), clientsMax)
	return clients[:n], len(clients) - n
}

func names(tps []spillway.TopicPartition) (named []string, more int) {
	tps = slices.SortedFunc(slices.Values(tps), spillway.TopicPartition.Compare)
	named = []string{}
	for _, tp := range tps[:min(len(tps), partitionsMax)] {
		named = append(named, tp.String())
	}
	return named, len(tps) - len(named)
}

// writer is a producer past the gateways, over all partitions.
type writer struct {
	partitions []spillway.TopicPartition
	last       time.Time // of its records
	since      time.Time // when it was seen to do something
	active     bool      // it wrote during the look, or has an open transaction
}

// writers are the producers whose ids no gateway has given, by id, and the partitions to which
// any producer with an id wrote during the look.
func (l Look) writers() (writers map[int64]*writer, wrote map[spillway.TopicPartition]bool) {
	before := map[at]Producer{}
	for _, p := range l.Before {
		before[at{p.TopicPartition, p.ID}] = p
	}
	writers, wrote = map[int64]*writer{}, map[spillway.TopicPartition]bool{}
	for _, p := range l.Producers {
		was, known := before[at{p.TopicPartition, p.ID}]
		moved := known && was.moved(p) || !known && len(l.Unread) == 0 // else it may have been missed before
		if moved || !known {
			wrote[p.TopicPartition] = true
		}
		if l.marker(p) {
			continue
		}
		if p.ID < 0 || spillway.IsClientProducerID(p.ID) || spillway.IsMirrorProducerID(p.ID) || l.came(p.ID, p.Epoch) {
			continue
		}
		w := writers[p.ID]
		if w == nil {
			w = &writer{}
			writers[p.ID] = w
		}
		w.partitions = append(w.partitions, p.TopicPartition)
		w.active = w.active || moved || p.Open
		if p.Last.After(w.last) {
			w.last = p.Last
		}
		if l.History != nil {
			if since := l.History.since[at{p.TopicPartition, p.ID}].since; since.After(w.since) {
				w.since = since
			}
		}
	}
	return writers, wrote
}
