package backup

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// findHeldFiles returns the files on which this process has POSIX locks and,
// if a driver that takes them is linked in, the databases that it has open:
// an idle connection has no lock. No file is opened to find out, only those
// of proc(5): closing one would do the harm.
func findHeldFiles() heldFiles {
	held := heldFiles{files: make(map[any]bool)}
	linked := foreignDriverLinked()
	fds, err := os.ReadDir("/proc/self/fd")
	held.noteShortage(err)
	for _, e := range fds {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		posix, ofd, err := locksOf(fd)
		held.noteShortage(err)
		if posix || linked && !ofd && mayBeDatabase(fd, st.Size) {
			held.files[[2]uint64{uint64(st.Dev), st.Ino}] = true
		}
	}
	return held
}

// noteShortage notes why not all files may be known. (Where there is no proc(5),
// nothing can be.)
func (h *heldFiles) noteShortage(err error) {
	if isShortage(err) {
		h.short = err
	}
}

// locksOf reports which kinds of locks were taken through a descriptor:
// those of the process, and those of the descriptor, which are what the
// driver that this library uses takes. (Unlike those of /proc/locks, the
// lines of fdinfo name no device, which overlayfs and btrfs disguise.)
func locksOf(fd int) (posix, ofd bool, err error) {
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	for line := range bytes.Lines(info) {
		if fields := bytes.Fields(line); len(fields) > 2 && string(fields[0]) == "lock:" {
			posix = posix || string(fields[2]) == "POSIX"
			ofd = ofd || string(fields[2]) == "OFDLCK"
		}
	}
	return posix, ofd, err
}

// mayBeDatabase reports whether a connection that can write may be behind a
// descriptor: on a database, or on an empty file that is to be one. A
// connection that only reads has no committed rows to lose.
func mayBeDatabase(fd int, size int64) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_ACCMODE != unix.O_RDWR {
		return false
	}
	header := make([]byte, len(sqliteHeader))
	n, err := unix.Pread(fd, header, 0)
	return err == nil && (size == 0 || bytes.Equal(header[:n], sqliteHeader))
}
