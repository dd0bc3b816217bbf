//go:build !linux

package mirror

import "time"

// bootTime is 0: there is no CLOCK_BOOTTIME.
func bootTime() time.Duration { return 0 }
