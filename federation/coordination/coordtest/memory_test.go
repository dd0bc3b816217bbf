package coordtest

import (
	"testing"

	"spillway/federation/coordination"
)

func TestMemoryKeepsTheContract(t *testing.T) {
	Contract(t, func(*testing.T) (coordination.Store, string) { return NewMemory(), "t/" })
}
