//go:build e2e

package mutants

import (
	"context"
	"os"
	"testing"
	"time"
)

// A run of the demo may take two minutes; building comes on top.
const runMax = 4 * time.Minute

// The demo notices each fault: it ends with an error and names the anomaly; or
// the test does that the patch names. One after the other, since each demo is
// many processes.
func TestDemoNoticesEveryMutant(t *testing.T) {
	product := Product{Root: root(t), Package: "./cmd/spillway", Args: []string{"demo", "-o", "json", "--for", "12s"}}
	for _, m := range load(t) {
		t.Run(m.Name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), runMax)
			defer cancel()
			// The demo's sockets lie below: t.TempDir would make their paths too long.
			dir, err := os.MkdirTemp("", "mutant-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := os.RemoveAll(dir); err != nil {
					t.Error(err)
				}
			})
			if m.Test != "" {
				if err := product.Test(ctx, m, dir); err != nil {
					t.Error(err)
				}
				return
			}
			binary, err := product.Build(ctx, m, dir)
			if err != nil {
				t.Fatal(err)
			}
			o, err := product.Run(ctx, binary, dir)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: exit %d\n%s", m.About, o.Exit, o.Report.Text())
			if err := m.Judge(o); err != nil {
				t.Error(err)
			}
		})
	}
}
