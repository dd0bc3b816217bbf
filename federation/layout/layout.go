// Package layout says which virtual nodes clients see, which gateway stands
// behind each, and which node leads a partition or coordinates a group. All
// gateways compute the same answer from the same record (C21). Pure: no clock,
// no network, no store. It knows nothing of brokers and moves.
//
// Invariants, cited by letter in tests:
//
//	L1  a node id belongs to one gateway and slot for ever; it is never given to another
//	L2  the version rises with every change, and only with a change
//	L3  a gateway that stays keeps its nodes; the partitions that it leads move
//	    only when a gateway of their home site comes or goes, or the home moves
//	L4  a home moves only when no gateway is left there, and before the share opens
//	    at its next site: an opening changes no leader and no coordinator
package layout

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"

	"spillway"
)

const firstNodeID int32 = 1000

// pastMax bounds how many nodes of gone gateways are remembered.
const pastMax = 256

// Node is one virtual broker that Metadata lists.
type Node struct {
	ID      int32              `json:"id"`
	Gateway spillway.GatewayID `json:"gateway"`
	Site    spillway.SiteID    `json:"site"` // where the gateway runs; shown as rack
	Slot    int32              `json:"slot"` // 0-based number of the node at its gateway
	Host    string             `json:"host"` // advertised to clients
	Port    int32              `json:"port"`
}

// Layout is the record stored under spillway/<vc>/layout.
type Layout struct {
	Version int64  `json:"version"` // 0: nothing laid out yet
	Nodes   []Node `json:"nodes"`   // of gateways that live, by id
	// Homes names the site whose gateways lead a share ("group/index"): the first
	// active site, as long as a gateway lives there (Home). A group that leaves the
	// configuration keeps its entry: its record stays, since epochs only rise, and
	// processes take a new configuration up one after the other.
	Homes map[string]spillway.SiteID `json:"homes,omitempty"`
	// Sites says where each share is served next, by the newest share records that
	// the reader of the layout has seen. It belongs to the reader and is not stored:
	// layout and records come in any order, and the home is the same in both (L4).
	Sites map[string]spillway.SiteID `json:"-"`
	// Past are nodes of gateways that are gone, newest first, so that a
	// gateway that comes back gets its ids back.
	Past   []Node `json:"past,omitempty"`
	NextID int32  `json:"nextId"`
}

// GatewayLease is what a gateway writes about once a second under
// spillway/<vc>/gateways/<id>. While it is rewritten the gateway may serve.
type GatewayLease struct {
	ID   spillway.GatewayID `json:"id"`
	Boot string             `json:"boot"` // random per process start
	Site spillway.SiteID    `json:"site"`
	Host string             `json:"host"` // advertised to clients
	Port int32              `json:"port"`
	// Slots is how many virtual nodes the gateway wants: at least the number of
	// brokers of its site divided by the gateways there. 0 counts as 1.
	Slots int32 `json:"slots,omitempty"`
	// Layout is the newest version that this gateway obeys: it has no produce
	// in flight for partitions that it does not lead in that version. A gateway
	// that became leader of a partition starts to serve it when every other
	// live gateway says Layout ≥ that version (C23).
	Layout int64 `json:"layout"`
	// Leaving: the gateway serves nothing any more; nobody needs to wait for it.
	Leaving bool   `json:"leaving,omitempty"`
	Release string `json:"release,omitempty"` // of the binary
	Beat    uint64 `json:"beat"`              // rises with every renewal
	// Lagging tells, by share ("group/index"), where the other sites lack more than
	// allowed, or producers are slowed down for it; nothing where not. For people.
	Lagging map[string]Lagging `json:"lagging,omitempty"`
	// Transactional are, by share, the producer ids that the site gave to transactional
	// producers which came by this gateway lately, as far as the share is adopting: brokers
	// do not tell by which way they came.
	Transactional map[string][]Through `json:"transactional,omitempty"`
	// Static are, as MemberKey, the members of consumer groups with an instance id that came by
	// this gateway lately, of shares that are adopting. Brokers show of such a one what it was
	// when somebody joined under the instance id first.
	Static []uint64 `json:"static,omitempty"`
	// Plain are the partitions of such shares, by topic, to which batches without a producer id
	// went by this gateway lately.
	Plain map[string][]int32 `json:"plain,omitempty"`
	// RightsUnread are the sites whose access control lists this gateway has never read: of
	// what is served there it tells clients to come again. For people.
	RightsUnread []spillway.SiteID `json:"rightsUnread,omitempty"`
}

// Through is a transactional producer that came by a gateway.
type Through struct {
	Producer int64 `json:"p"`
	Epoch    int16 `json:"e"` // newest with which it did
}

// Lagging is what a gateway says of a share whose other sites are behind.
type Lagging struct {
	Partitions int     `json:"partitions"` // that are concerned, of those that the gateway leads
	Worst      string  `json:"worst"`      // of them
	Records    int64   `json:"records"`    // of it that no other site has
	Seconds    float64 `json:"seconds"`    // since the oldest of them was appended
}

// MemberKey names a member of a consumer group in a few bytes.
func MemberKey(group, id string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(group)) // never fails, as the others
	h.Write([]byte{0})
	h.Write([]byte(id))
	return h.Sum64()
}

// Decode reads a layout record.
func Decode(value []byte) (Layout, error) {
	var l Layout
	if err := json.Unmarshal(value, &l); err != nil {
		return Layout{}, fmt.Errorf("layout record: %w", err)
	}
	return l, nil
}

// Encode writes a layout record.
func (l Layout) Encode() []byte {
	b, err := json.Marshal(l)
	if err != nil {
		panic(fmt.Sprintf("layout cannot be encoded: %v", err)) // plain data, cannot happen
	}
	return b
}

// Node finds a node by its id.
func (l Layout) Node(id int32) (Node, bool) {
	i := slices.IndexFunc(l.Nodes, func(n Node) bool { return n.ID == id })
	if i < 0 {
		return Node{}, false
	}
	return l.Nodes[i], true
}

// NodesOf lists the nodes behind which a gateway stands.
func (l Layout) NodesOf(id spillway.GatewayID) []Node {
	var nodes []Node
	for _, n := range l.Nodes {
		if n.Gateway == id {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// Leader picks the node that leads a partition of a share. upstream is the
// index of the partition's leader among the brokers of the home site, sorted by
// id, so that one client connection carries traffic for one upstream broker; −1
// where that is unknown or does not matter. False when there is no node at all.
func (l Layout) Leader(share spillway.ShareID, tp spillway.TopicPartition, upstream int) (Node, bool) {
	nodes := l.home(share)
	if upstream >= 0 {
		if slots := slotCount(nodes); slots > 1 {
			want := int32(upstream) % slots
			if at := slices.DeleteFunc(slices.Clone(nodes), func(n Node) bool { return n.Slot != want }); len(at) > 0 {
				nodes = at
			}
		}
	}
	// The partition number alone decides, not the topic: equal partitions of
	// co-partitioned topics share a node and so a connection.
	var key [128]byte // asked for every batch, so nothing is allocated
	return pick(nodes, strconv.AppendInt(append(append(key[:0], share.String()...), '/'), int64(tp.Partition), 10))
}

// Leads is Leader for many partitions of a share, with upstream −1: what is the same for
// all of them is found once.
func (l Layout) Leads(share spillway.ShareID) func(partition int32) (Node, bool) {
	nodes := l.home(share)
	key := append([]byte(share.String()), '/')
	return func(partition int32) (Node, bool) {
		return pick(nodes, strconv.AppendInt(key, int64(partition), 10))
	}
}

// Nearest picks the node of a site at which consumers that stand there read a partition.
func (l Layout) Nearest(share spillway.ShareID, tp spillway.TopicPartition, site spillway.SiteID) (Node, bool) {
	var key [128]byte // asked for every partition in Metadata: no list of nodes is made
	return pickAt(l.Nodes, site, strconv.AppendInt(append(append(key[:0], share.String()...), '/'), int64(tp.Partition), 10))
}

// Leaders lists the nodes that lead the partitions of a share, each some of them: who
// leads which changes only with it (L3).
func (l Layout) Leaders(share spillway.ShareID) []Node { return l.home(share) }

// Coordinator picks the node that coordinates a consumer group.
func (l Layout) Coordinator(share spillway.ShareID, group string) (Node, bool) {
	return pick(l.home(share), []byte("group "+group))
}

// Home is the site whose gateways lead a share. It does not follow a move: a client
// that is sent to another leader has two paths for a moment, which reorders plain
// producers (C23). Only where no gateway of the home lives, the site that serves the
// share next becomes the home: while the share moves that is the target, so that
// clients find their leaders and coordinators before it opens (L4). Where none lives
// there either, the home stays, and all gateways lead.
func Home(home, next spillway.SiteID, lives func(spillway.SiteID) bool) spillway.SiteID {
	if home == "" || !lives(home) && lives(next) {
		return next
	}
	return home
}

// lives tells whether a gateway of the site is laid out.
func (l Layout) lives(site spillway.SiteID) bool {
	return slices.ContainsFunc(l.Nodes, func(n Node) bool { return n.Site == site })
}

// home lists the nodes at the share's home site, or all nodes where that site
// has no gateway that lives.
func (l Layout) home(share spillway.ShareID) []Node {
	id := share.String()
	site := Home(l.Homes[id], l.Sites[id], l.lives)
	other := func(n Node) bool { return n.Site != site }
	if !slices.ContainsFunc(l.Nodes, other) {
		return l.Nodes
	}
	nodes := slices.DeleteFunc(slices.Clone(l.Nodes), other)
	if len(nodes) == 0 {
		return l.Nodes
	}
	return nodes
}

func slotCount(nodes []Node) int32 {
	most := int32(0)
	for _, n := range nodes {
		most = max(most, n.Slot+1)
	}
	return most
}

// pick is rendezvous hashing: when a node comes or goes, only its own share of
// the keys moves (L3).
func pick(nodes []Node, key []byte) (Node, bool) { return pickAt(nodes, "", key) }

// pickAt is pick among the nodes of a site; of all where it is empty.
func pickAt(nodes []Node, site spillway.SiteID, key []byte) (best Node, found bool) {
	var bestScore uint64
	for _, n := range nodes {
		if site != "" && n.Site != site {
			continue
		}
		var buffer [256]byte
		b := append(append(buffer[:0], key...), '|')
		b = append(append(b, n.Gateway...), '|')
		if s := mix(fnv1a(strconv.AppendInt(b, int64(n.Slot), 10))); s >= bestScore {
			best, bestScore, found = n, s, true
		}
	}
	return best, found
}

// fnv1a is the sum of hash/fnv, which would be an allocation.
func fnv1a(b []byte) uint64 {
	sum := uint64(14695981039346656037)
	for _, c := range b {
		sum = (sum ^ uint64(c)) * 1099511628211
	}
	return sum
}

// mix spreads FNV's weak high bits (finalizer of SplitMix64).
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// Next lays out the nodes of the gateways that live. It returns the layout to
// store and the sentence that says why, or the same version and "" if nothing
// changes (L2).
func Next(current Layout, live []GatewayLease, homes map[string]spillway.SiteID) (Layout, string) {
	next := Layout{Version: current.Version, Homes: homes, NextID: max(current.NextID, firstNodeID)}
	known := slices.Concat(current.Nodes, current.Past)
	live = slices.DeleteFunc(slices.Clone(live), func(g GatewayLease) bool { return g.Leaving })
	slices.SortFunc(live, func(a, b GatewayLease) int { return cmp.Compare(a.ID, b.ID) })
	for _, g := range live {
		for slot := range max(g.Slots, 1) {
			n := Node{Gateway: g.ID, Site: g.Site, Slot: slot, Host: g.Host, Port: g.Port}
			i := slices.IndexFunc(known, func(o Node) bool { return o.Gateway == g.ID && o.Slot == slot })
			if i >= 0 {
				n.ID = known[i].ID
			} else {
				n.ID = next.NextID
				next.NextID++
			}
			next.Nodes = append(next.Nodes, n)
		}
	}
	slices.SortFunc(next.Nodes, func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
	for _, n := range known {
		if _, ok := next.Node(n.ID); !ok && len(next.Past) < pastMax {
			next.Past = append(next.Past, n)
		}
	}
	why := difference(current, next)
	if why == "" {
		return current, ""
	}
	next.Version++
	return next, why
}

func difference(a, b Layout) string {
	for _, n := range b.Nodes {
		switch o, ok := a.Node(n.ID); {
		case !ok:
			return fmt.Sprintf("gateway %s at %s came, node %d", n.Gateway, n.Site, n.ID)
		case o != n:
			return fmt.Sprintf("gateway %s changed: node %d is at %s:%d", n.Gateway, n.ID, n.Host, n.Port)
		}
	}
	for _, n := range a.Nodes {
		if _, ok := b.Node(n.ID); !ok {
			return fmt.Sprintf("gateway %s at %s is gone, node %d", n.Gateway, n.Site, n.ID)
		}
	}
	for share, site := range b.Homes {
		if a.Homes[share] != site {
			return fmt.Sprintf("share %s is led at %s", share, site)
		}
	}
	return ""
}
