package backup

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// cloning goes by the file system: every APFS can clone, see clonefile(2).
func (d *dir) cloning() cloning {
	here, err := d.handle()
	if err != nil {
		return clonesUnknown
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(here.Fd()), &st); err != nil {
		return clonesUnknown
	}
	if unix.ByteSliceToString(st.Fstypename[:]) == "apfs" {
		return clonesAlways
	}
	return clonesNever
}

// createClone makes the file name, which must not exist, and has it share the
// blocks of src, up to size, if the file system can do that: see clonefile(2).
// It takes no time, whatever the size, and no space until one of them is
// written to.
func (d *dir) createClone(name string, src io.ReaderAt, size int64) (newFile, error) {
	if from, ok := src.(interface{ Fd() uintptr }); ok && size > 0 && d.cloneFile(name, int(from.Fd())) == nil {
		f, err := d.openClone(name, size)
		if err != nil {
			return f, errors.Join(err, d.remove(name))
		}
		return f, nil
	}
	return d.create(name)
}

// cloneFile makes name a clone of an open file, and nothing if it returns an
// error.
func (d *dir) cloneFile(name string, from int) error {
	// A clone has the flags of what it is a clone of, such as that it must
	// neither be changed nor removed: see chflags(2).
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil || st.Flags != 0 {
		return errors.Join(err, errors.ErrUnsupported)
	}
	to, err := d.handle()
	if err != nil {
		return err
	}
	return unix.Fclonefileat(from, int(to.Fd()), name, unix.CLONE_NOOWNERCOPY)
}

// openClone makes a clone what a new file is: its owner's alone, whatever mode
// the file has that it is a clone of, and open for writing.
func (d *dir) openClone(name string, size int64) (newFile, error) {
	seen, err := d.lstat(name) // its time of modification is that of the source
	if err != nil {
		return newFile{}, err
	}
	if err := d.fs.Chmod(d.path(name), 0o600); err != nil {
		return newFile{}, err
	}
	f, info, err := d.openRegular(context.Background(), name, os.O_RDWR)
	if err != nil {
		return newFile{}, err
	}
	if info.size > size {
		if err := f.Truncate(size); err != nil {
			return newFile{}, errors.Join(err, f.Close())
		}
	}
	return newFile{File: f, made: seen.ctime, cloned: true}, nil
}
