package maptopic

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"spillway"
	"spillway/mirror/metadata"
	"spillway/mirror/offsetmap"
	"spillway/mirror/rewrite"
	"spillway/mirror/workers"
)

// Entry is one record of the map topic. A nil value is a tombstone.
type Entry struct {
	Key   string
	Value []byte
}

// Kinds of entries, the first part of their keys.
const (
	kindChunk    = "r" // r/<topic>/<partition>/<first local offset>/<session>, numbers in hex: an offsetmap.Chunk
	kindSession  = "s" // s/<topic>/<partition>/<session>/<worker>: an offsetmap.Session
	kindVerified = "v" // v/<topic>/<partition>/<session>: an offsetmap.Verified
	kindStart    = "e" // e/<topic>/<partition>/<epoch>/<session>/<worker>: an offsetmap.EpochStart
	kindEnd      = "c" // c/<topic>/<partition>/<epoch>, with /discarded or /replayed where it was: an offsetmap.EpochEnd
	kindGap      = "g" // g/<id>: a Gap
	kindFloor    = "f" // f/<group>/<index>: the highest epoch that this site saw (C30)
	kindWorker   = "w" // w/<flow>/<worker>: a workers.Record; a tombstone where it has said good-bye
	kindOrigin   = "o" // o/<topic>/<site>: an Origin
	kindRewrite  = "x" // x/<topic>/<hash of the value>: a rewrite.Text
	kindTopic    = "t" // t/<topic>: a Topic
	kindACL      = "a" // a/<the words of an entry>: a metadata.OwnedACL; a tombstone where it is not the mirror's any more
	kindLevel    = "l" // l/<topic>/<partition>: a Level, of compacted topics
	kindQuota    = "q" // q/<entity>: the values that the mirror set, metadata.Owned by key; a tombstone where there is none
)

// Gap is one entry of the gap log (promise F): a range that is not, or not as
// it should be, at the site.
type Gap struct {
	ID        string               `json:"id"`
	Kind      string               `json:"kind"`
	At        time.Time            `json:"at"`
	Site      spillway.SiteID      `json:"site"`
	Topic     string               `json:"topic,omitempty"`
	Partition int32                `json:"partition"`
	Epoch     spillway.Epoch       `json:"epoch,omitempty"`
	From      spillway.Offset      `json:"from"` // virtual, first
	To        spillway.Offset      `json:"to"`   // virtual, after the last
	LocalFrom spillway.LocalOffset `json:"localFrom"`
	LocalTo   spillway.LocalOffset `json:"localTo"`
	Detail    string               `json:"detail,omitempty"`
}

// Kinds of gaps.
const (
	GapForeign      = "foreign-write"    // others wrote [LocalFrom, LocalTo) at a standby; hidden
	GapStaleWorker  = "stale-worker"     // a mirror that had lost its lease wrote it; hidden
	GapRetention    = "retention"        // [From, To) was deleted at the source before it was mirrored
	GapUnreplicated = "unreplicated"     // [LocalFrom, LocalTo) were never mirrored when the epoch was closed; hidden
	GapOverhang     = "overhang"         // a failover that did not hear this site gave [From, To) up; hidden
	GapTruncated    = "target-truncated" // the site lost verified records; they are mirrored again
	GapSource       = "source-truncated" // the source lost records that this site has
	GapRefused      = "refused"          // the target refuses the record at From; the partition waits
	GapCorrupt      = "corrupt"          // the source's batch at From is not what was written into it; the partition waits
	GapDivergence   = "divergence"       // the site held other records than its source in [From, To); hidden
	GapExisting     = "existing-data"    // the topic held records before it was mirrored; hidden
	GapDuplicate    = "duplicate"        // another mirror wrote [LocalFrom, LocalTo) once more before this one came; hidden
	GapAborted      = "aborted-copy"     // it copied what aborted transactions had written to [LocalFrom, LocalTo); hidden
	GapMissing      = "missing"          // it left [From, To) out, and wrote what comes behind
	GapLate         = "late"             // compacted: the site was without the source for so long that deletions between From and To may be gone there
	GapTransaction  = "transaction"      // others had a transaction open in [LocalFrom, LocalTo) at a standby; Detail says what became of it
	GapRecreated    = "re-created"       // the topic was deleted and created anew at the source
	GapStart        = "start"            // the flow was told to begin at To; [From, To) was not asked for
	GapDegrade      = "degrade"          // acknowledgements waited for fewer sites
	GapDiscarded    = "discarded"        // a person gave the unreplicated records of [LocalFrom, LocalTo) up
	GapReplayed     = "replayed"         // they were written again where the share was served, or found there
)

// StartID is the id of the gap of a partition that says where its flow began: there
// is one at most.
func StartID(tp spillway.TopicPartition) string { return tp.String() + "-" + GapStart }

// Floor is the highest epoch of a share that the site saw.
type Floor struct {
	Epoch spillway.Epoch `json:"epoch"`
}

// Level says until when a site had all of a partition that its source had, or served it
// itself: what the source's cleaner did before that, it cannot have missed (C15).
type Level struct {
	At time.Time `json:"at"`
	// Virtual is the verified end then; −1 where the site served.
	Virtual spillway.Offset `json:"virtual"`
}

// Origin says which flow feeds a topic, where there is no control plane.
type Origin struct {
	Site  spillway.SiteID `json:"site"`  // that the records come from
	Topic string          `json:"topic"` // its name there
	// Before are the sites through which they came there, the nearest first.
	Before []spillway.SiteID `json:"before,omitempty"`
}

// From tells whether the records have been at a site before.
func (o Origin) From(site spillway.SiteID) bool {
	return o.Site == site || slices.Contains(o.Before, site)
}

// Topic is what the site's mirror did to a topic beside its records: what it may
// change again and take back.
type Topic struct {
	Created  *metadata.Created         `json:"created,omitempty"` // nil: it was there
	Settings map[string]metadata.Owned `json:"settings,omitempty"`
	// Borrowed are settings that are the mirror's while it writes, with what the
	// source has in their place; null: nothing.
	Borrowed map[string]*string `json:"borrowed,omitempty"`
}

// Equal compares what both say.
func (t Topic) Equal(o Topic) bool { return bytes.Equal(encode(t), encode(o)) }

func partitionKey(kind string, tp spillway.TopicPartition, rest string) string {
	return kind + "/" + tp.Topic + "/" + strconv.Itoa(int(tp.Partition)) + "/" + rest
}

// ChunkEntry saves ranges.
func ChunkEntry(tp spillway.TopicPartition, c *offsetmap.Chunk) Entry {
	return Entry{partitionKey(kindChunk, tp, fmt.Sprintf("%016x/%x", uint64(c.First), c.Session)), c.Encode()}
}

// SessionEntry claims or opens an append session.
func SessionEntry(tp spillway.TopicPartition, s offsetmap.Session) Entry {
	return Entry{partitionKey(kindSession, tp, fmt.Sprintf("%016x/%s", s.Session, s.Worker)), encode(s)}
}

// VerifiedEntry moves the verified end.
func VerifiedEntry(tp spillway.TopicPartition, v offsetmap.Verified) Entry {
	return Entry{partitionKey(kindVerified, tp, strconv.FormatInt(v.Session, 16)), v.Encode()}
}

// StartEntry opens an epoch at this site. Of several workers that write it for the same
// epoch the first one counts, and each has a key of its own: compaction would leave the
// last one.
func StartEntry(tp spillway.TopicPartition, e offsetmap.EpochStart) Entry {
	return Entry{partitionKey(kindStart, tp, fmt.Sprintf("%d/%016x/%s", e.Epoch, e.Session, e.Worker)), encode(e)}
}

// EndEntry closes an epoch at this site. That it was discarded or replayed is an
// entry beside it: compaction must leave the end where it stands among the other entries.
func EndEntry(tp spillway.TopicPartition, e offsetmap.EpochEnd) Entry {
	rest := strconv.Itoa(int(e.Epoch))
	switch {
	case e.Discarded:
		rest += "/discarded"
	case e.Replayed:
		rest += "/replayed"
	}
	return Entry{partitionKey(kindEnd, tp, rest), encode(e)}
}

// GapEntry adds to the gap log. The id makes it unique; the same gap written
// again keeps one entry.
func GapEntry(g Gap) Entry { return Entry{kindGap + "/" + g.ID, encode(g)} }

// LevelEntry says that a site was level with its source, or served.
func LevelEntry(tp spillway.TopicPartition, l Level) Entry {
	return Entry{kindLevel + "/" + tp.Topic + "/" + strconv.Itoa(int(tp.Partition)), encode(l)}
}

// FloorEntry raises the epoch floor of a share.
func FloorEntry(id spillway.ShareID, e spillway.Epoch) Entry {
	return Entry{kindFloor + "/" + id.String(), encode(Floor{e})}
}

// WorkerEntry is what a worker of a flow says of itself, or another one of it.
func WorkerEntry(flow string, r workers.Record) Entry {
	return Entry{kindWorker + "/" + flow + "/" + r.Worker, encode(r)}
}

// NoWorkerEntry is the good-bye of a worker.
func NoWorkerEntry(flow, worker string) Entry {
	return Entry{kindWorker + "/" + flow + "/" + worker, nil}
}

// OriginEntry claims a topic for a source. Of several claims the first one counts, until
// it is taken back.
func OriginEntry(topic string, o Origin) Entry {
	return Entry{originKey(topic, o.Site), encode(o)}
}

// NoOriginEntry takes a claim back.
func NoOriginEntry(topic string, site spillway.SiteID) Entry {
	return Entry{originKey(topic, site), nil}
}

func originKey(topic string, site spillway.SiteID) string {
	return kindOrigin + "/" + topic + "/" + string(site)
}

// RewriteEntry claims that the records of a topic are rewritten so, or not at all. Of
// several claims the first one counts, for good: what is there was made by it.
func RewriteEntry(topic string, t rewrite.Text) Entry {
	value := encode(t)
	sum := sha256.Sum256(value)
	return Entry{kindRewrite + "/" + topic + "/" + hex.EncodeToString(sum[:8]), value}
}

// originOf is the topic and the site of a claim's key.
func originOf(key string) (topic string, site spillway.SiteID, ok bool) {
	kind, rest, _ := strings.Cut(key, "/")
	topic, name, ok := strings.Cut(rest, "/")
	return topic, spillway.SiteID(name), ok && kind == kindOrigin && topic != ""
}

// TopicEntry says what the mirror did to a topic. It is written by who has the
// lease of the topic's first partition, and whole: the last word counts.
func TopicEntry(name string, t Topic) Entry { return Entry{kindTopic + "/" + name, encode(t)} }

// ACLEntry says that the mirror made an entry of the access control list.
func ACLEntry(e spillway.ACL, o metadata.OwnedACL) Entry { return Entry{aclKey(e), encode(o)} }

// NoACLEntry says that it does not count as the mirror's any more.
func NoACLEntry(e spillway.ACL) Entry { return Entry{Key: aclKey(e)} }

// aclKey has every word escaped, so that none holds the slash between them.
func aclKey(e spillway.ACL) string {
	words := []string{kindACL}
	for _, w := range aclWords(&e) {
		words = append(words, url.QueryEscape(*w))
	}
	return strings.Join(words, "/")
}

func aclWords(e *spillway.ACL) []*string {
	return []*string{&e.Resource, &e.Pattern, &e.Name, &e.Principal, &e.Host, &e.Operation, &e.Permission}
}

func aclOf(rest string) (e spillway.ACL, err error) {
	words := strings.Split(rest, "/")
	into := aclWords(&e)
	if len(words) != len(into) {
		return e, errKey
	}
	for i, w := range words {
		if *into[i], err = url.QueryUnescape(w); err != nil {
			return e, err
		}
	}
	return e, nil
}

// QuotaEntry says which values of a quota the mirror set.
func QuotaEntry(entity string, values map[string]metadata.Owned) Entry {
	if len(values) == 0 {
		return Entry{Key: kindQuota + "/" + entity}
	}
	return Entry{kindQuota + "/" + entity, encode(values)}
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("%T cannot be encoded: %v", v, err)) // plain data, cannot happen
	}
	return b
}

var errKey = errors.New("no key of a map topic")

func cutLast(s string, sep byte) (before, after string, found bool) {
	i := strings.LastIndexByte(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// decoded is an entry that was understood: one of its fields is set.
type decoded struct {
	tp     spillway.TopicPartition
	record offsetmap.Record
	gap    *Gap
	floor  *Floor
	worker *workers.Record
	origin *Origin
	rules  *rewrite.Text
	topic  *Topic
	level  *Level
	acl    *ownedACL
	quota  *map[string]metadata.Owned
	gone   bool   // a tombstone, of an acl, quota or worker
	name   string // of a gap, floor, flow or topic
}

type ownedACL struct {
	spillway.ACL
	metadata.OwnedACL
}

// decode of a nil value fails but for the kinds whose tombstones mean something.
func decode(key, value []byte) (decoded, error) {
	kind, rest, _ := strings.Cut(string(key), "/")
	d := decoded{name: rest, gone: value == nil}
	switch kind {
	case kindACL:
		e, err := aclOf(rest)
		d.acl = &ownedACL{ACL: e}
		if err != nil || d.gone {
			return d, err
		}
		return d, json.Unmarshal(value, &d.acl.OwnedACL)
	case kindQuota:
		d.quota = new(map[string]metadata.Owned)
		if d.gone {
			return d, nil
		}
		return d, json.Unmarshal(value, d.quota)
	case kindGap:
		d.gap = new(Gap)
		return d, json.Unmarshal(value, d.gap)
	case kindFloor:
		d.floor = new(Floor)
		return d, json.Unmarshal(value, d.floor)
	case kindWorker:
		flow, name, ok := cutLast(rest, '/')
		if !ok || flow == "" || name == "" {
			return d, errKey
		}
		d.name, d.worker = flow, &workers.Record{Worker: name}
		if d.gone {
			return d, nil
		}
		if err := json.Unmarshal(value, d.worker); err != nil || d.worker.Worker == name {
			return d, err
		}
		return d, errKey
	case kindOrigin:
		topic, _, ok := originOf(string(key))
		if !ok {
			return d, errKey
		}
		d.name, d.origin = topic, new(Origin)
		return d, json.Unmarshal(value, d.origin)
	case kindRewrite:
		var ok bool
		if d.name, _, ok = strings.Cut(rest, "/"); !ok || d.name == "" {
			return d, errKey
		}
		d.rules = new(rewrite.Text)
		return d, json.Unmarshal(value, d.rules)
	case kindTopic:
		d.topic = new(Topic)
		return d, json.Unmarshal(value, d.topic)
	}
	topic, rest, ok1 := strings.Cut(rest, "/")
	partition, _, ok2 := strings.Cut(rest, "/")
	if kind == kindLevel {
		ok2, d.level = true, new(Level)
	}
	p, err := strconv.ParseInt(partition, 10, 32)
	if !ok1 || !ok2 || err != nil || p < 0 || topic == "" {
		return d, errKey
	}
	d.tp = spillway.TopicPartition{Topic: topic, Partition: int32(p)}
	switch kind {
	case kindLevel:
		err = json.Unmarshal(value, d.level)
	case kindChunk:
		d.record, err = offsetmap.DecodeChunk(value)
	case kindVerified:
		d.record, err = offsetmap.DecodeVerified(value)
	case kindSession:
		d.record, err = unmarshal[offsetmap.Session](value)
	case kindStart:
		d.record, err = unmarshal[offsetmap.EpochStart](value)
	case kindEnd:
		d.record, err = unmarshal[offsetmap.EpochEnd](value)
	default:
		return d, errKey
	}
	return d, err
}

func unmarshal[R offsetmap.Record](value []byte) (offsetmap.Record, error) {
	var r R
	err := json.Unmarshal(value, &r)
	return r, err
}
