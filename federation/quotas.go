package federation

import (
	"spillway/federation/authentication"
	"spillway/federation/quota"
)

// EveryPrincipal is the principal of the quota of those that have none of their own.
const EveryPrincipal authentication.Principal = "*"

// Quota is what a principal may use of this gateway in a second. 0: as EveryPrincipal's says,
// or without limit.
type Quota struct {
	Principal     authentication.Principal
	ProducerBytes int64 // of requests
	ConsumerBytes int64 // of answers
	Requests      int64
}

// newQuotas is nil if nothing is limited.
func newQuotas(c Config) *quota.Ledger[authentication.Principal] {
	if len(c.Quotas) == 0 && c.ConnectionsPerPrincipalMax <= 0 {
		return nil
	}
	terms := make(map[authentication.Principal]quota.Terms)
	for _, q := range c.Quotas {
		t := quota.Terms{OpenMax: c.ConnectionsPerPrincipalMax}
		t.Rates[quota.Produce], t.Rates[quota.Fetch], t.Rates[quota.Request] = q.ProducerBytes, q.ConsumerBytes, q.Requests
		terms[q.Principal] = t
	}
	every, ok := terms[EveryPrincipal]
	if !ok {
		every = quota.Terms{OpenMax: c.ConnectionsPerPrincipalMax}
	}
	for who, t := range terms {
		for k, rate := range t.Rates {
			if rate <= 0 {
				t.Rates[k] = every.Rates[k]
			}
		}
		terms[who] = t
	}
	return quota.NewLedger(func(who authentication.Principal) quota.Terms {
		if t, own := terms[who]; own {
			return t
		}
		return every
	}, c.QuotaBurst)
}
