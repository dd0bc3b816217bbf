package authentication

import (
	"net"
	"net/netip"
)

// hostBits is how much of an IPv6 address tells one host from another: it chooses the
// rest itself.
const hostBits = 64

// HostOf is what an address is counted by; not valid if there is nothing to count by.
func HostOf(remote net.Addr) netip.Prefix {
	tcp, ok := remote.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap()
	of, err := ip.WithZone("").Prefix(min(ip.BitLen(), hostBits))
	if err != nil {
		return netip.Prefix{}
	}
	return of
}
