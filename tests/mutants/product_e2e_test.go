//go:build e2e

package mutants

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"
)

// A run of the demo may take two minutes; building comes on top.
const runMax = 4 * time.Minute

// The demo notices each fault: it ends with an error and names the anomaly. One
// demo after the other, since each is many processes; while one runs, which is
// waiting most of the time, the next mutant is built.
func TestDemoNoticesEveryMutant(t *testing.T) {
	product := Product{Root: root(t), Package: "./cmd/spillway", Args: []string{"demo", "-o", "json", "--for", "12s"}}
	mutants := load(t)
	built := make(map[string]*builtMutant)
	for _, m := range mutants {
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
		built[m.Name] = &builtMutant{dir: dir, done: make(chan struct{})}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var building sync.WaitGroup
	defer building.Wait()
	defer cancel()
	building.Go(func() {
		for _, m := range mutants {
			b := built[m.Name]
			b.binary, b.err = product.Build(ctx, m, b.dir)
			close(b.done)
		}
	})
	for _, m := range mutants {
		t.Run(m.Name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), runMax)
			defer cancel()
			b := built[m.Name]
			<-b.done
			if b.err != nil {
				t.Fatal(b.err)
			}
			o, err := product.Run(ctx, b.binary, b.dir)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: exit %d\n%s", m.About, o.Exit, o.Report.Text())
			if err := m.Judge(o); err != nil {
				t.Errorf("%v\n%s", err, o.Stderr)
			}
		})
	}
}

// builtMutant is what became of building one.
type builtMutant struct {
	dir    string
	binary string
	err    error
	done   chan struct{} // closed when binary and err are set
}
