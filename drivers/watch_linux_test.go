package drivers

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// heldLocks returns the POSIX locks that this process has on a database and
// its sidecars, sorted: "app.db READ 1073741826 1073742335". It asks each
// descriptor for those that were taken through it, see proc(5): the list in
// /proc/locks changes under its reader, and then has some twice or not at
// all.
func heldLocks(t *testing.T, path string) []string {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("locks cannot be seen: %v", err)
	}
	var locks []string
	for _, suffix := range sidecars {
		file, err := os.Stat(path + suffix)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			fi, err := os.Stat("/proc/self/fd/" + fd.Name())
			if err != nil || !os.SameFile(fi, file) {
				continue // it may have been closed meanwhile
			}
			info, err := os.ReadFile("/proc/self/fdinfo/" + fd.Name())
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(info)) {
				// lock:	1: POSIX  ADVISORY  READ 1234 08:01:1573 128 128
				fields := strings.Fields(line)
				if len(fields) == 9 && fields[0] == "lock:" && fields[2] == "POSIX" {
					locks = append(locks, strings.Join([]string{filepath.Base(path + suffix), fields[4], fields[7], fields[8]}, " "))
				}
			}
		}
	}
	slices.Sort(locks)
	return locks
}

// A watch sees whoever opens or closes a database or its sidecars, in
// whatever process. See inotify(7).
type watch struct {
	t     *testing.T
	fd    int
	names map[int32]string // by watch descriptor
}

// newWatch watches the files that there are.
func newWatch(t *testing.T, path string) *watch {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	w := &watch{t, fd, make(map[int32]string)}
	for _, suffix := range sidecars {
		wd, err := unix.InotifyAddWatch(fd, path+suffix, unix.IN_OPEN|unix.IN_CLOSE)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		w.names[int32(wd)] = filepath.Base(path + suffix)
	}
	return w
}

// seen returns what happened since it was called last.
func (w *watch) seen() []string {
	w.t.Helper()
	var events []string
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(w.fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.EAGAIN) {
			return events
		}
		if err != nil {
			w.t.Fatal(err)
		}
		for at := 0; at < n; {
			wd := int32(binary.NativeEndian.Uint32(buf[at:]))
			mask := binary.NativeEndian.Uint32(buf[at+4:])
			what := "closed"
			if mask&unix.IN_OPEN != 0 {
				what = "opened"
			}
			events = append(events, w.names[wd]+" "+what)
			at += unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[at+12:]))
		}
	}
}
