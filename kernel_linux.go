package backup

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// kernelVersion is the version of the running kernel, or zeros: see uname(2).
var kernelVersion = sync.OnceValues(func() (major, minor int) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return 0, 0
	}
	if n, _ := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); n != 2 {
		return 0, 0
	}
	return major, minor
})

// isKernel reports whether the running kernel is of that version, or later.
func isKernel(major, minor int) bool {
	is, with := kernelVersion()
	return is > major || is == major && with >= minor
}
