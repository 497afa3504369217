package measured

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// usage returns what this process and the ones that it has waited for have
// used. Its own peak is not taken from getrusage(2): a program inherits, over
// execve(2), the peak of the one that forked it. So does a tool, whose peak is
// therefore never seen to be less than ours.
func usage() Report {
	r := Report{OwnKiB: field("/proc/self/status", "VmHWM"), Written: field("/proc/self/io", "write_bytes")}
	var children syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &children); err == nil {
		r.Tools = int64(children.Maxrss)
	}
	return r
}

// field returns the number after a key in a file of proc(5), or -1.
func field(file, key string) int64 {
	data, err := os.ReadFile(file)
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			var n int64
			if _, err := fmt.Sscan(value, &n); err == nil {
				return n
			}
		}
	}
	return -1
}
