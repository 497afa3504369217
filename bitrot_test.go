package backup_test

import (
	"flag"
	"testing"
)

var rotFull = flag.Bool("rot.full", false, "damage every bit and every byte, and not a sample")

// every returns n, or 1 if all cases are to be tried.
func every(n int) int {
	switch {
	case *rotFull:
		return 1
	case testing.Short():
		return 7 * n
	}
	return n
}
