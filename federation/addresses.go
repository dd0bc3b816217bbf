package federation

import (
	"net"
	"net/netip"
	"time"

	"spillway/federation/authentication"
	"spillway/federation/quota"
)

// ofAddress are the reasons for which connections of an address are refused.
var ofAddress = map[quota.Refusal]string{quota.TooMany: "too-many-of-address", quota.TooFast: "too-fast-of-address"}

// addresses counts the connections of each client address, those that are open and those
// that are opened in a time, so that one cannot take all (promise G).
type addresses struct{ ledger *quota.Ledger[netip.Prefix] }

func newAddresses(c Config) addresses {
	terms := quota.Terms{OpenMax: c.ConnectionsPerAddressMax}
	terms.Rates[quota.Connections] = c.ConnectionRatePerAddress
	return addresses{quota.NewLedger(func(netip.Prefix) quota.Terms { return terms }, 0)}
}

// enter counts one in, unless its address has as many as it may.
func (a addresses) enter(remote net.Addr) (leave func(), refused quota.Refusal) {
	of := authentication.HostOf(remote)
	if !of.IsValid() {
		return func() {}, quota.None // no address to count by
	}
	if _, refused = a.ledger.Enter(of, time.Now()); refused != quota.None {
		return nil, refused
	}
	return func() { a.ledger.Leave(of, time.Now()) }, quota.None
}
