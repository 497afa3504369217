package aferovfs

import (
	"context"
	"io"
	"io/fs"
	"sync/atomic"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/util/vfsutil"
	"github.com/ncruces/go-sqlite3/vfs"
)

// A File is what [RegisterWriter] writes to. *os.File and afero.File are
// Files.
type File interface {
	io.ReaderAt
	io.WriterAt
	Truncate(size int64) error
	Sync() error
	Stat() (fs.FileInfo, error)
}

// RegisterWriter serves one fresh file under the name [DB], as the destination
// of an online backup. There is no journal, so nothing can be rolled back, and
// SQLite must be told:
//
//	"file:db?vfs=" + name + "&_pragma=journal_mode(off)&_pragma=synchronous(off)"
//
// There are no locks either; a second connection cannot open the file while
// one has it. A database in WAL mode that is written this way stays marked so.
//
// The file remains the caller's to sync and to close. A sync that SQLite asks
// for, as it does without synchronous(off), is passed on, and fails for ever
// once it has failed.
//
// Every access fails with the error of ctx once that is done. What has been
// written by then is not a database.
//
// Close every connection, then call unregister; see the package comment.
func RegisterWriter(ctx context.Context, f File) (name string, unregister func() error) {
	v := &writerVFS{ctx: ctx, f: f}
	return v.reg.register(v)
}

type writerVFS struct {
	single
	ctx   context.Context
	f     File
	reg   registration
	inUse atomic.Bool

	syncErr error // of the one file in use, and of those after it
}

func (v *writerVFS) Open(name string, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	if name == "" || flags&anonymous != 0 {
		return new(vfsutil.SliceFile), flags, nil
	}
	if name != DB || flags&vfs.OPEN_MAIN_DB == 0 {
		return nil, flags, sqlite3.CANTOPEN
	}
	if err := v.ctx.Err(); err != nil {
		return nil, flags, vfs.SystemError(err, sqlite3.CANTOPEN)
	}
	if !v.inUse.CompareAndSwap(false, true) {
		return nil, flags, sqlite3.CANTOPEN
	}
	v.reg.opened()
	return &writerFile{trail: trail{reg: &v.reg}, vfs: v}, flags, nil
}

// A writerFile is the file while a connection has it open.
type writerFile struct {
	unlocked
	trail
	vfs    *writerVFS
	closed bool
}

func (f *writerFile) Close() error {
	if !f.closed {
		f.closed = true
		f.vfs.inUse.Store(false)
		f.reg.closed()
	}
	return f.ok()
}

func (f *writerFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.vfs.ctx.Err(); err != nil {
		return 0, f.fail(err, sqlite3.IOERR_READ)
	}
	n, err := readFull(f.vfs.f, p, off, f.vfs.size)
	if err != nil && err != io.EOF {
		return n, f.fail(err, sqlite3.IOERR_READ)
	}
	return n, err
}

func (f *writerFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.vfs.ctx.Err(); err != nil {
		return 0, f.fail(err, sqlite3.IOERR_WRITE)
	}
	n, err := writeFull(f.vfs.f, p, off)
	if err != nil {
		return n, f.fail(err, sqlite3.IOERR_WRITE)
	}
	return n, f.ok()
}

func (f *writerFile) Truncate(size int64) error {
	if err := f.vfs.ctx.Err(); err != nil {
		return f.fail(err, sqlite3.IOERR_TRUNCATE)
	}
	if err := f.vfs.f.Truncate(size); err != nil {
		return f.fail(err, sqlite3.IOERR_TRUNCATE)
	}
	return f.ok()
}

func (f *writerFile) Sync(vfs.SyncFlag) error {
	v := f.vfs
	if v.syncErr == nil {
		v.syncErr = v.ctx.Err()
	}
	if v.syncErr == nil {
		v.syncErr = v.f.Sync()
	}
	if v.syncErr != nil {
		return f.fail(v.syncErr, sqlite3.IOERR_FSYNC)
	}
	return f.ok()
}

func (f *writerFile) Size() (int64, error) {
	size, err := f.vfs.size()
	if err != nil {
		return 0, f.fail(err, sqlite3.IOERR_FSTAT)
	}
	return size, f.ok()
}

func (v *writerVFS) size() (int64, error) {
	fi, err := v.f.Stat()
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

// Unlock comes last when SQLite has failed.
func (f *writerFile) Unlock(vfs.LockLevel) error { return f.ok() }

func (*writerFile) DeviceCharacteristics() vfs.DeviceCharacteristic {
	return vfs.IOCAP_POWERSAFE_OVERWRITE | vfs.IOCAP_SUBPAGE_READ
}
