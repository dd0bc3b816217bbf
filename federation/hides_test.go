package federation

import (
	"context"
	"strings"
	"testing"
	"time"

	"spillway"
	"spillway/broker/embedded"
	"spillway/mirror/maptopic"
)

// A gateway that has just begun to read the map of a site waits for it before it lets a
// topic become compacted there: until then what is not found may only not have been read. It
// waits for a bounded time, and lets nothing pass then.
func TestAGatewayWaitsForWhatAMapHides(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	site, err := embedded.Start(embedded.Config{Site: "west"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { site.Close() })
	w := maptopic.NewWriter(ctx, site, 1)
	t.Cleanup(w.Close)
	if _, err := w.Save(ctx, maptopic.GapEntry(maptopic.Gap{ID: "g", Kind: maptopic.GapForeign, Topic: "carts", LocalFrom: 5, LocalTo: 6})); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		r := maptopic.Tail(ctx, site, nil)
		m := siteMaps{&Gateway{readers: map[spillway.SiteID]*maptopic.Reader{"west": r}}}
		carts, orders := m.Hides("west", "carts"), m.Hides("west", "orders")
		r.Close()
		if carts != "foreign-write in partition 0" || orders != "" {
			t.Fatalf("carts: %q, orders: %q", carts, orders)
		}
	}
	site.Close()
	r := maptopic.Tail(ctx, site, nil)
	defer r.Close()
	m := siteMaps{&Gateway{readers: map[spillway.SiteID]*maptopic.Reader{"west": r}}}
	began := time.Now()
	if why := m.Hides("west", "orders"); !strings.HasPrefix(why, "nobody knows yet") {
		t.Errorf("where no broker answers: %q", why)
	}
	if took := time.Since(began); took > hidesMax+5*time.Second {
		t.Errorf("it took %s", took)
	}
}
