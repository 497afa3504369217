package aferovfs

import (
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"runtime"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"
	"github.com/spf13/afero"
)

// sectorSize is the unit that a power cut may tear.
const sectorSize = 4096 // bytes

// A file is an open database, journal or log of an [afero.Fs]. It belongs to
// one connection. Its handle is never shared: reading from a file of a
// MemMapFs at an offset moves the position that other reads start from.
type file struct {
	*trail
	*holder // of a database only
	f       afero.File
	vfs     *fsVFS
	path    string
	flags   vfs.OpenFlag

	newEntry bool // the directory is to be synced
	syncErr  error
	syncCode sqlite3.ExtendedErrorCode
}

var _ vfs.FileLockState = (*file)(nil)

func (v *fsVFS) newFile(path string, flags vfs.OpenFlag) *file {
	return &file{
		trail:    &trail{reg: &v.reg},
		vfs:      v,
		path:     path,
		flags:    flags,
		newEntry: flags&vfs.OPEN_CREATE != 0,
	}
}

// open opens the file. Its failure is no more than a cause: SQLite always
// reports it, but for the journal that went away between a look at the
// directory and the open.
func (f *file) open() error {
	code, err := f.vfs.checkPlain(f.path)
	if err == nil {
		code = sqlite3.ExtendedErrorCode(sqlite3.CANTOPEN)
		f.f, err = f.vfs.fs.OpenFile(f.path, osFlags(f.flags), 0o600)
	}
	if err != nil {
		f.cause = err
		return vfs.SystemError(err, code)
	}
	f.reg.opened()
	return nil
}

// fault is fail for an error that may not say what it is about.
func (f *file) fault(op string, err error, code sqlite3.ExtendedErrorCode) error {
	if _, ok := errors.AsType[*fs.PathError](err); !ok {
		err = &fs.PathError{Op: op, Path: f.path, Err: err}
	}
	return f.fail(err, code)
}

func (f *file) Close() error {
	if f.f == nil {
		return nil
	}
	err := f.f.Close()
	f.f = nil
	if f.holder != nil {
		f.holder.lower(vfs.LOCK_NONE)
		f.holder.node.release()
	}
	f.reg.closed()
	if err != nil {
		return f.fault("close", err, sqlite3.IOERR_CLOSE)
	}
	return f.ok()
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	n, err := readFull(f.f, p, off, f.size)
	if err != nil && err != io.EOF {
		return n, f.fault("read", err, sqlite3.IOERR_READ)
	}
	return n, err
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	n, err := writeFull(f.f, p, off)
	if err != nil {
		return n, f.fault("write", err, sqlite3.IOERR_WRITE)
	}
	return n, f.ok()
}

func (f *file) Truncate(size int64) error {
	if err := f.f.Truncate(size); err != nil {
		return f.fault("truncate", err, sqlite3.IOERR_TRUNCATE)
	}
	return f.ok()
}

func (f *file) Size() (int64, error) {
	size, err := f.size()
	if err != nil {
		return 0, f.fault("stat", err, sqlite3.IOERR_FSTAT)
	}
	return size, f.ok()
}

// size does not seek: in a MemMapFs that is a data race.
func (f *file) size() (int64, error) {
	fi, err := f.f.Stat()
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

// Sync makes the file durable, and with it, once, the entry in its directory.
// Once it has failed it always fails: the kernel reports the loss of a write
// a single time, and counts the page as clean from then on.
func (f *file) Sync(vfs.SyncFlag) error {
	if f.syncErr == nil {
		f.syncCode, f.syncErr = f.sync()
	}
	if f.syncErr != nil {
		return f.fault("sync", f.syncErr, f.syncCode)
	}
	return f.ok()
}

func (f *file) sync() (sqlite3.ExtendedErrorCode, error) {
	if err := f.f.Sync(); err != nil {
		return sqlite3.IOERR_FSYNC, err
	}
	if f.newEntry {
		if err := f.vfs.syncDir(filepath.Dir(f.path)); err != nil {
			return sqlite3.IOERR_DIR_FSYNC, err
		}
		f.newEntry = false
	}
	return 0, nil
}

func (f *file) Lock(level vfs.LockLevel) error {
	if f.holder == nil {
		return sqlite3.IOERR_LOCK // SQLite locks databases only
	}
	if f.holder.level >= level {
		return f.ok()
	}
	if f.holder.level == vfs.LOCK_NONE {
		f.cause = nil // a transaction begins
	}
	if err := f.holder.raise(level); err != nil {
		return err
	}
	return f.ok()
}

func (f *file) Unlock(level vfs.LockLevel) error {
	if f.holder == nil || level > vfs.LOCK_SHARED {
		return sqlite3.IOERR_UNLOCK
	}
	if cause := f.holder.lower(level); f.cause == nil {
		f.cause = cause
	}
	return f.ok()
}

func (f *file) CheckReservedLock() (bool, error) {
	if f.holder == nil {
		return false, sqlite3.IOERR_CHECKRESERVEDLOCK
	}
	return f.holder.reserved(), f.ok()
}

func (f *file) LockState() vfs.LockLevel {
	if f.holder == nil {
		return vfs.LOCK_NONE
	}
	return f.holder.level
}

func (*file) SectorSize() int { return sectorSize }

// DeviceCharacteristics claims what any file system gives. POWERSAFE_OVERWRITE
// is that a write interrupted by a power cut leaves bytes outside of its own
// range alone, which SQLite assumes of every native file too.
func (*file) DeviceCharacteristics() vfs.DeviceCharacteristic {
	c := vfs.IOCAP_POWERSAFE_OVERWRITE | vfs.IOCAP_SUBPAGE_READ
	if runtime.GOOS == "windows" {
		c |= vfs.IOCAP_UNDELETABLE_WHEN_OPEN
	}
	return c
}
