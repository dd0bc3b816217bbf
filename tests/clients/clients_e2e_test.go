//go:build e2e

package clients_test

import (
	"os"
	"slices"
	"testing"
	"time"

	"spillway/tests/clients"
	"spillway/tests/cluster/kafka"
	"spillway/tests/orders"
	"spillway/tests/orders/check"
	"spillway/tests/orders/sitelog"
)

// All clients on plain Kafka come out clean: what they find fault with later
// is not of their own making.
func TestPlainKafkaComesOutClean(t *testing.T) {
	c := kafka.ForTest(t, kafka.Config{Name: "plain"})[0]
	if err := orders.CreateTopics(t.Context(), c.Bootstrap(), 2, 1); err != nil {
		t.Fatal(err)
	}
	all := clients.ForTest(t, clients.Load{Clients: slices.Concat(clients.Usual, clients.Others), Bootstrap: c.Bootstrap(), Topics: orders.Topics, Partitions: 2, Rate: 100})
	time.Sleep(8 * time.Second) // the length of the run: nothing is waited for
	if err := clients.Stop(all, time.Minute); err != nil {
		t.Error(err)
	}
	site, err := sitelog.Read(t.Context(), sitelog.Site{Name: "plain", Bootstrap: c.Bootstrap(), Options: c.Dial()}, orders.Topics...)
	if err != nil {
		t.Fatal(err)
	}
	events, done, err := clients.Histories(all)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	report, err := check.Run(events, []*check.Site{site}, check.Expect{Home: "plain", GroupsRepeat: true})
	if err != nil {
		t.Fatal(err)
	}
	if !report.OK || report.Figures.Acked == 0 || report.Figures.Read == 0 {
		_ = report.JSON(os.Stdout)
		t.Error("plain Kafka does not come out clean")
	}
	t.Logf("%+v", report.Figures)
}
