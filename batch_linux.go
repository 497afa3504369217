package backup

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// newBatch uses syncfs(2), where that is known to sync: a file system of FUSE is
// not told of it. What fails to be written is reported to whoever had
// the file system open by then, as d has from now on.
func newBatch(d *dir) (batch, error) {
	if !syncfsReportsErrors() || !d.isOfTheKernel() {
		return nil, nil
	}
	f, err := d.handle()
	if err != nil {
		return nil, err
	}
	return func() error {
		return os.NewSyscallError("syncfs", ignoringEINTR(func() error { return unix.Syncfs(int(f.Fd())) }))
	}, nil
}

func ignoringEINTR(fn func() error) error {
	for {
		if err := fn(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// syncfsReportsErrors reports whether the kernel is 5.8 or later: before,
// syncfs(2) succeeded whatever became of the data.
var syncfsReportsErrors = sync.OnceValue(func() bool {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return false
	}
	var major, minor int
	if n, _ := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); n != 2 {
		return false
	}
	return major > 5 || major == 5 && minor >= 8
})
