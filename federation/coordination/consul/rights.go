package consul

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/hashicorp/consul/api"

	"spillway/federation/coordination"
)

// What a token may do is asked with a transaction in which nothing can come true: it
// compares versions that no key ever has. Consul looks at all rights before that, and
// names each that is missing, so a write is tried and nothing is written.

const (
	// neverVersion is no version of any key.
	neverVersion = math.MaxInt64
	// rulesMax is what one transaction takes.
	rulesMax = 64
)

// Lacking tells which rules a token does not fulfil. An error: Consul cannot say, or
// (ErrDenied) does not know the token at all.
func (s *Store) Lacking(ctx context.Context, token string, rules []coordination.Rule) ([]coordination.Rule, error) {
	var lacking []coordination.Rule
	for part := range slices.Chunk(rules, rulesMax) {
		ctx, cancel := context.WithTimeout(ctx, callMax)
		defer cancel()
		ops := make(api.TxnOps, len(part))
		for i, r := range part {
			k := &api.KVTxnOp{Verb: api.KVCheckIndex, Key: r.Path, Index: neverVersion}
			if r.Prefix {
				k.Key += "?" // some key below it; none is called so
			}
			if r.Write {
				k.Verb = api.KVCAS
			}
			ops[i] = &api.TxnOp{KV: k}
		}
		_, resp, _, err := s.txn.Txn(ops, (&api.QueryOptions{Token: token}).WithContext(ctx))
		if err != nil {
			return nil, unavailable("ask for the rights of the token at", part[0].Path, err)
		}
		for _, e := range resp.Errors {
			if denies(e) && e.OpIndex >= 0 && e.OpIndex < len(part) {
				lacking = append(lacking, part[e.OpIndex])
			}
		}
	}
	return lacking, nil
}

// mayBeEmpty is asked about a listing without entries where there is no token: who is
// nobody is shown what he may read, and not told that there is more. A single key is
// refused in words.
func (s *Store) mayBeEmpty(ctx context.Context, prefix string) error {
	if s.token() != "" {
		return nil // what is left out is told, see list
	}
	if _, _, err := s.kv.Get(prefix, s.consistent(ctx)); err != nil {
		return s.unavailable("list", prefix, err)
	}
	return nil
}

// What Consul's refusals have in them, whatever stands around them: the status is not
// told by every call of its client.
const (
	unknownToken = "ACL not found"
	noRight      = "Permission denied"
)

func denies(e *api.TxnError) bool { return strings.Contains(e.What, noRight) }

// explain says what a person can do about a refusal.
func explain(err error) error {
	what := strings.TrimSpace(err.Error())
	switch {
	case errors.Is(err, coordination.ErrDenied):
		return err
	case strings.Contains(what, unknownToken):
		return fmt.Errorf("%w: Consul does not know the token (%s): it was revoked, or made a moment ago; give another one", coordination.ErrDenied, what)
	case strings.Contains(what, noRight):
		return fmt.Errorf("%w: %s; check the token's policy", coordination.ErrDenied, what)
	}
	return err
}
