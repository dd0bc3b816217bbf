package offsetmap

import (
	"strconv"
	"strings"

	"spillway"
)

// A group's committed offset is stored at a site in the site's own numbers, so
// that it can be at most the site's log end. The exact virtual offset and the
// failover epoch in which it was committed stand in front of the client's
// metadata (C16): "~s1/<offset>/<epoch>/<metadata>", numbers in base 36.
const commitMark = "~s1/"

// CommitPrefixMax is the length of the longest prefix in bytes. A broker
// refuses metadata above offset.metadata.max.bytes (4096), so clients get that
// much less.
const CommitPrefixMax = len(commitMark) + 13 + 1 + 6 + 1

// EncodeCommit puts the virtual offset and its epoch in front of a client's
// commit metadata.
func EncodeCommit(v spillway.Offset, epoch spillway.Epoch, metadata string) string {
	b := make([]byte, 0, CommitPrefixMax+len(metadata))
	b = append(b, commitMark...)
	b = strconv.AppendInt(b, int64(v), 36)
	b = append(b, '/')
	b = strconv.AppendInt(b, int64(epoch), 36)
	b = append(b, '/')
	return string(append(b, metadata...))
}

// DecodeCommit undoes EncodeCommit. For metadata without a valid prefix ok is
// false and metadata is s itself.
func DecodeCommit(s string) (v spillway.Offset, epoch spillway.Epoch, metadata string, ok bool) {
	rest, found := strings.CutPrefix(s, commitMark)
	if !found {
		return 0, 0, s, false
	}
	offset, rest, found1 := strings.Cut(rest, "/")
	term, metadata, found2 := strings.Cut(rest, "/")
	if !found1 || !found2 {
		return 0, 0, s, false
	}
	o, err1 := strconv.ParseInt(offset, 36, 64)
	e, err2 := strconv.ParseInt(term, 36, 32)
	if err1 != nil || err2 != nil || o < 0 || e < 0 {
		return 0, 0, s, false
	}
	return spillway.Offset(o), spillway.Epoch(e), metadata, true
}
