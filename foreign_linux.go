package backup

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// findHeldFiles returns the files on which this process has POSIX locks and,
// if a driver that takes them is linked in, all that it has open: an idle
// connection has no lock. See proc_locks(5).
func findHeldFiles() heldFiles {
	held := make(heldFiles)
	locks, err := os.Open("/proc/locks")
	if err == nil {
		defer locks.Close()
		for lines := bufio.NewScanner(locks); lines.Scan(); {
			held.addLock(lines.Text())
		}
	}
	if !foreignDriverLinked() {
		return held
	}
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if fi, err := os.Stat(fd); err == nil && fi.Mode().IsRegular() {
			held[fileID(fi, fd)] = true
		}
	}
	return held
}

// addLock adds the file of a line such as
//
//	5: POSIX  ADVISORY  WRITE 1234 08:01:1573 128 128
func (h heldFiles) addLock(line string) {
	fields := strings.Fields(line)
	if len(fields) < 6 || fields[1] != "POSIX" || fields[4] != fmt.Sprint(os.Getpid()) {
		return
	}
	var major, minor uint32
	var inode uint64
	if n, _ := fmt.Sscanf(fields[5], "%x:%x:%d", &major, &minor, &inode); n == 3 {
		h[[2]uint64{unix.Mkdev(major, minor), inode}] = true
	}
}
