package backup

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// newBatch uses syncfs(2), where that is known to sync. A write that fails
// is reported to every descriptor that was open by then; d's is, from now on.
func newBatch(d *dir) (batch, error) {
	if !isKernel(5, 8) || !d.syncsAsOne() { // before, syncfs(2) succeeded whatever became of the data
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
