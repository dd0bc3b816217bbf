//go:build e2e

package mirror

import (
	"fmt"
	"testing"
)

func TestKilledAtEveryStepOnKafka(t *testing.T) {
	sites, servers := kafkaPair(t)
	t.Setenv(childReal, "1")
	createTopic(t, sites[0], "orders", 2, nil)
	fmt.Println("measured:", killAtEveryStep(t, sites[0], sites[1], servers[0].Bootstrap(), servers[1].Bootstrap(), 10))
}
