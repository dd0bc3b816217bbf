package control

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"spillway/federation/coordination"
	"spillway/federation/failover"
)

// The source of all shares goes away, and each says so at length, with each broker that
// was tried: the store takes the lease, and every share still has its problem.
func TestALeaseOfManySharesWithProblems(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("site east at 10.0.0.1:9092: connect to 10.0.0.1:9092: dial tcp: ünreachable; ", 20)
	names := strings.Split(strings.Repeat("a.rather.long.name.of.a.topic,", 200), ",")
	for _, shares := range []int{1, 600, 1200} {
		said := map[string]failover.Following{}
		for i := range shares {
			said[fmt.Sprintf("failover-group-%04d/0", i)] = failover.Following{Epoch: 17, Source: "east", EndSum: 9_000_000_000, Partitions: 100, LagSeconds: 0.123, CatchingUp: true,
				Problem: long, SourceProblem: long, HeldBackBy: long, OnlyHere: names, Compacted: names}
		}
		for what, lease := range map[string]failover.MirrorLease{"leads": {Site: "west", Following: said}, "waits": {Site: "west", Waits: true, Carries: said}} {
			value := encodeLease(lease)
			if err := coordination.CheckOps([]coordination.Op{{Key: "mirrors/west/1", Value: value}}); err != nil {
				t.Errorf("%d shares: %v", shares, err)
			}
			var back failover.MirrorLease
			if err := json.Unmarshal(value, &back); err != nil {
				t.Fatal(err)
			}
			told := back.Following
			if what == "waits" {
				told = back.Carries
			}
			if len(told) != shares {
				t.Errorf("%d of %d shares", len(told), shares)
			}
			for share, f := range told {
				if f.Problem == "" || f.SourceProblem == "" || f.HeldBackBy == "" || len(f.Compacted) == 0 || len(f.OnlyHere) == 0 || f.EndSum != 9_000_000_000 || f.Epoch != 17 {
					t.Fatalf("%s: %+v", share, f)
				}
				if shares == 1 && (len(f.SourceProblem) < 200 || len(f.Compacted) != namesTold) {
					t.Errorf("%d bytes of a problem, %d topics are left", len(f.SourceProblem), len(f.Compacted))
				}
			}
			t.Logf("%d shares that a process has which %s: %d bytes", shares, what, len(value))
		}
	}
	if whole := said(long); len(whole.SourceProblem) != len(long) {
		t.Error("what the process knows was shortened")
	}
}

// said encodes a lease and gives back what it was made of.
func said(problem string) failover.Following {
	following := map[string]failover.Following{"orders/0": {SourceProblem: problem}}
	encodeLease(failover.MirrorLease{Following: following})
	return following["orders/0"]
}
