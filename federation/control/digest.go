package control

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
)

// digest is what a hub has read, decoded once for each version of a key: every loop of the
// process asks for the same leases and reports, many times a second.
//
// What it hands out is shared by all who ask, with the maps and lists within: nobody may
// change it. Who wants to, copies (MirrorLease.FollowingBeside does).
//
// Owned by the hub, which guards it.
type digest struct {
	keys failover.Keys

	records    map[string]record
	mirrors    map[string]decoded[failover.MirrorLease]
	mirrorKeys []string // sorted: of those that wait, the first one counts
	ballots    map[string]decoded[failover.Ballot]
	drained    map[string]decoded[failover.Drained]
	automation map[string]decoded[failover.Automation]
	moves      map[string]spillway.ShareID // whose report a key is; of all keys that were read
	reports    map[spillway.ShareID]map[string]decoded[report]

	decodes int // values that were decoded so far
}

// decoded is the value of a key. Where it cannot be read, ok is false and the value empty.
type decoded[T any] struct {
	raw     []byte
	version uint64
	value   T
	ok      bool
}

// of tells whether it is what an entry has. A store that was restored may count up to the
// same version again, with something else in it.
func (d decoded[T]) of(e coordination.Entry) bool {
	return d.version == e.Version && bytes.Equal(d.raw, e.Value)
}

// record is that of a share. Who drives it decodes it.
type record struct {
	coordination.Entry
	id spillway.ShareID
}

// report is what a gateway or a site said about one epoch.
type report struct {
	epoch   spillway.Epoch
	gateway *failover.GatewayReport
	site    *failover.SiteReport
}

// concerned is for whom there is something new.
type concerned struct {
	all    bool
	shares []spillway.ShareID
}

func newDigest(keys failover.Keys) digest {
	return digest{keys: keys, records: map[string]record{}, mirrors: map[string]decoded[failover.MirrorLease]{}, ballots: map[string]decoded[failover.Ballot]{},
		drained: map[string]decoded[failover.Drained]{}, automation: map[string]decoded[failover.Automation]{},
		moves: map[string]spillway.ShareID{}, reports: map[spillway.ShareID]map[string]decoded[report]{}}
}

// take notes what there is under a prefix now, and tells whom it concerns.
func (d *digest) take(prefix string, entries []coordination.Entry) concerned {
	switch prefix {
	case d.keys.Shares():
		return concerned{shares: d.takeRecords(entries)}
	case d.keys.Moves():
		return concerned{shares: d.takeReports(entries)}
	case d.keys.Mirrors():
		renew(d, d.mirrors, entries)
		d.mirrorKeys = slices.Sorted(maps.Keys(d.mirrors))
	case d.keys.Ballots():
		before := verdicts(d.ballots)
		renew(d, d.ballots, entries)
		return concerned{all: !reflect.DeepEqual(before, verdicts(d.ballots))}
	case d.keys.DrainedAll():
		renew(d, d.drained, entries)
		return concerned{all: true}
	case d.keys.Automation():
		renew(d, d.automation, entries)
		return concerned{all: true}
	}
	return concerned{} // leases are renewed and say the same
}

// renew decodes what is new of some entries, and forgets what is gone. A store that was
// restored has older versions: any other one is new.
func renew[T any](d *digest, have map[string]decoded[T], entries []coordination.Entry) {
	there := make(map[string]bool, len(entries))
	for _, e := range entries {
		there[e.Key] = true
		if had, ok := have[e.Key]; ok && had.of(e) {
			continue
		}
		have[e.Key] = decodeEntry[T](d, e)
	}
	maps.DeleteFunc(have, func(key string, _ decoded[T]) bool { return !there[key] })
}

func decodeEntry[T any](d *digest, e coordination.Entry) decoded[T] {
	d.decodes++
	v := decoded[T]{raw: e.Value, version: e.Version}
	if v.ok = json.Unmarshal(e.Value, &v.value) == nil; !v.ok {
		var none T
		v.value = none
	}
	return v
}

// verdict is what one observer says of one site, but for how long and with what evidence.
type verdict struct {
	key   string
	about spillway.SiteID
	is    failover.Verdict
}

func verdicts(ballots map[string]decoded[failover.Ballot]) map[verdict]bool {
	all := map[verdict]bool{}
	for key, b := range ballots {
		for _, v := range b.value.Votes {
			all[verdict{key, v.About, v.Verdict}] = true
		}
	}
	return all
}

func (d *digest) takeRecords(entries []coordination.Entry) (changed []spillway.ShareID) {
	there := 0
	for _, e := range entries {
		r, ok := d.records[e.Key]
		if !ok {
			if r.id, ok = shareOf(strings.TrimPrefix(e.Key, d.keys.Shares())); !ok {
				continue
			}
		}
		there++
		if r.Version != e.Version || !bytes.Equal(r.Value, e.Value) {
			changed = append(changed, r.id)
		}
		d.records[e.Key] = record{e, r.id}
	}
	if there < len(d.records) { // some are gone
		now := make(map[string]bool, len(entries))
		for _, e := range entries {
			now[e.Key] = true
		}
		maps.DeleteFunc(d.records, func(key string, r record) bool {
			if !now[key] {
				changed = append(changed, r.id)
			}
			return !now[key]
		})
	}
	return changed
}

func (d *digest) takeReports(entries []coordination.Entry) (changed []spillway.ShareID) {
	there := 0
	note := func(id spillway.ShareID) {
		if len(changed) == 0 || changed[len(changed)-1] != id { // keys come in order: those of a share together
			changed = append(changed, id)
		}
	}
	for _, e := range entries {
		id, seen := d.moves[e.Key]
		if seen && d.reports[id][e.Key].of(e) {
			there++
			continue
		}
		of, epoch, kind, _, ok := d.keys.ParseMove(e.Key)
		if !ok {
			continue
		}
		there++
		if id = of; d.reports[id] == nil {
			d.reports[id] = map[string]decoded[report]{}
		}
		r := decoded[report]{raw: e.Value, version: e.Version, value: report{epoch: epoch}}
		if kind == "gateway" {
			said := decodeEntry[failover.GatewayReport](d, e)
			r.ok, r.value.gateway = said.ok, &said.value
		} else {
			said := decodeEntry[failover.SiteReport](d, e)
			r.ok, r.value.site = said.ok, &said.value
		}
		d.moves[e.Key], d.reports[id][e.Key] = id, r
		note(id)
	}
	if there == len(d.moves) {
		return changed
	}
	now := make(map[string]bool, len(entries))
	for _, e := range entries {
		now[e.Key] = true
	}
	for key, id := range d.moves {
		if now[key] {
			continue
		}
		delete(d.moves, key)
		if delete(d.reports[id], key); len(d.reports[id]) == 0 {
			delete(d.reports, id)
		}
		note(id)
	}
	return changed
}

// shareOf reads a share's id, GROUP/INDEX.
func shareOf(text string) (spillway.ShareID, bool) {
	at := strings.LastIndexByte(text, '/')
	if at < 0 {
		return spillway.ShareID{}, false
	}
	index, err := strconv.Atoi(text[at+1:])
	return spillway.ShareID{Group: text[:at], Index: index}, err == nil
}
