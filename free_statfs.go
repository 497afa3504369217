//go:build linux || darwin || freebsd || dragonfly

package backup

import (
	"math"

	"golang.org/x/sys/unix"
)

// freeBytes returns how much an unprivileged user may still write to the
// file system of the directory, see statfs(2).
func freeBytes(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, err
	}
	if int64(st.Bavail) < 0 {
		return 0, nil // FreeBSD: into the reserve
	}
	blocks, size := uint64(st.Bavail), uint64(st.Bsize)
	if size != 0 && blocks > math.MaxInt64/size {
		return math.MaxInt64, nil
	}
	return int64(blocks * size), nil
}
