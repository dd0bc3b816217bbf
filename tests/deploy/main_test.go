//go:build e2e

package deploy

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
)

// The test binary runs twice: outside it makes what needs the network, inside
// the namespaces it runs the tests.
const insideVariable = "SPILLWAY_DEPLOY_INSIDE"

// What making everything from nothing may take; with a filled cache it is some seconds.
const artifactsPatience = 20 * time.Minute

func TestMain(m *testing.M) {
	if os.Getenv(insideVariable) != "" {
		if err := enterSandbox(); err != nil {
			fmt.Fprintln(os.Stderr, "deploy: inside the sandbox:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	// The sandbox dies with the thread that started it.
	runtime.LockOSThread()
	code, err := outside()
	if err != nil {
		fmt.Fprintln(os.Stderr, "deploy:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func outside() (int, error) {
	if err := checkTools(); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), artifactsPatience)
	defer cancel()
	run, err := newRun()
	if err != nil {
		return 0, err
	}
	defer run.remove()
	started := time.Now()
	made, err := makeArtifacts(ctx, run.dir)
	if err != nil {
		return 0, err
	}
	fmt.Printf("deploy: artifacts after %s\n", time.Since(started).Round(time.Second))
	return run.sandbox(made)
}
