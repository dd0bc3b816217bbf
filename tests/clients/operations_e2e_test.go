//go:build e2e

package clients_test

import (
	"fmt"
	"testing"
	"time"

	"spillway/federation/gatewaytest"
	"spillway/tests/clients"
)

// Every client does everything through a gateway over real Kafka, once at a site
// of one release and, after a switchover, at one of another. What it is told is
// what a reader of the brokers' logs computes, and no number that it sees is the
// broker's.
func TestEveryClientDoesEverything(t *testing.T) {
	for _, c := range []struct {
		name     string
		versions []string
		next     map[string]bool // clients that also use KIP-848
	}{
		{"4.3.1 and 4.4.0", []string{"4.3.1", "4.4.0"}, clients.NextGroups},
		{"4.4.0 and 3.9.2", []string{"4.4.0", "3.9.2"}, nil}, // 3.9 does not offer KIP-848, so nobody is offered it
	} {
		t.Run(c.name, func(t *testing.T) {
			begun := time.Now()
			s := newStage(t, gatewaytest.RealSites(t, topicsOf(clients.Kinds), c.versions...))
			s.play(clients.Kinds, c.next)
			fmt.Printf("measured: %d clients, Kafka %s: %s\n", len(clients.Kinds), c.name, time.Since(begun).Round(time.Second))
		})
	}
}
