package kafka

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"spillway/tests/cluster/cache"
)

// clock is what one broker takes for the time of day: that of the machine and a difference
// that changes while the broker runs. What it measures durations with goes on as ever.
type clock struct{ file string }

//go:embed SystemTime.java
var systemTime string

// newClock gives a broker that is run by java the class that tells it the time.
func newClock(version, dir string, java Java) (*clock, Java, error) {
	digest := sha256.Sum256([]byte(systemTime))
	classes, err := cache.Entry("clock-"+version+"-"+hex.EncodeToString(digest[:4]), func(classes string) error {
		file := filepath.Join(classes, "SystemTime.java")
		if err := os.WriteFile(file, []byte(systemTime), 0o644); err != nil {
			return err
		}
		return Run("javac", "-d", classes, "-cp", strings.Join(java.Classpath, ":"), file)
	})
	if err != nil {
		return nil, java, fmt.Errorf("a clock for brokers of %s: %w", version, err)
	}
	c := &clock{filepath.Join(dir, "clock")}
	java.Classpath = append([]string{classes}, java.Classpath...)
	java.Options = append(append([]string{}, java.Options...), "-Dspillway.clock="+c.file)
	return c, java, c.set(0)
}

// set is atomic: the broker reads the file all the time.
func (c *clock) set(ahead time.Duration) error {
	text := fmt.Sprintf("%d\n", int64(ahead/time.Second))
	if err := os.WriteFile(c.file+".new", []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(c.file+".new", c.file)
}
