package authorization

import (
	"net"
	"strconv"
	"strings"

	"spillway"
)

// Verdict is what becomes of a request.
type Verdict int

// Verdicts.
const (
	Denied  Verdict = iota
	Unknown         // as Denied, but it may be another one in a moment
	Allowed
)

// Decision is a verdict with its reason, which is made into words only where they are read.
type Decision struct {
	Verdict Verdict
	Entry   *spillway.ACL // that decided; nil: none did
	why     string
}

const (
	whySuperUser     = "a super user"
	whyUnread        = "the access control list was never read"
	whyNothingAllows = "no entry allows it"
	whyUnlisted      = "no entry is about it, and everybody is let in then"
)

// String is the reason.
func (d Decision) String() string {
	word := map[Verdict]string{Denied: "denied", Unknown: "not known yet", Allowed: "allowed"}[d.Verdict]
	if d.Entry != nil {
		return word + " by the entry " + d.Entry.String()
	}
	return word + ": " + d.why
}

// HostOf is the address of a client as entries name it: as Java writes it, so those of IPv6
// have all their groups.
func HostOf(remote net.Addr) string {
	tcp, ok := remote.(*net.TCPAddr)
	if !ok {
		return ""
	}
	ip := tcp.AddrPort().Addr().Unmap()
	if !ip.Is6() {
		return ip.String()
	}
	var b strings.Builder
	for i, of := 0, ip.As16(); i < len(of); i += 2 {
		if i > 0 {
			b.WriteByte(':')
		}
		b.WriteString(strconv.FormatUint(uint64(of[i])<<8|uint64(of[i+1]), 16))
	}
	if zone := ip.Zone(); zone != "" {
		b.WriteString("%" + zone)
	}
	return b.String()
}
