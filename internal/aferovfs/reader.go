package aferovfs

import (
	"context"
	"io"
	"os"
	"sync"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/util/vfsutil"
	"github.com/ncruces/go-sqlite3/vfs"
)

// DB is the name of the one database that [RegisterReader] and
// [RegisterWriter] serve, as in "file:db?vfs=" + name.
const DB = "db"

// RegisterReader serves one immutable database, the first size bytes of r,
// under the name [DB]. SQLite finds no sidecars and makes none, whatever
// journal mode the database says it is in; to write is [sqlite3.READONLY].
//
// Open it to write all the same: SQLite does not read the CHECK constraints
// of a schema that it cannot write to, and its integrity_check then passes
// what breaks them. (See sqlite3AddCheckConstraint in its build.c.)
//
// Every read fails with the error of ctx once that is done. A query that
// needs no reads is not stopped by it, so set it on the connection as well;
// see [sqlite3.Conn.SetInterrupt].
//
// The name may be opened many times. Reads of an [os.File] go on side by side;
// all others take turns, since the files of a MemMapFs cannot read twice at a
// time.
//
// Close every connection, then call unregister; see the package comment.
func RegisterReader(ctx context.Context, r io.ReaderAt, size int64) (name string, unregister func() error) {
	v := &readerVFS{ctx: ctx, r: r, end: size}
	if _, ok := r.(*os.File); !ok {
		v.turn = new(sync.Mutex)
	}
	return v.reg.register(v)
}

type readerVFS struct {
	single
	ctx context.Context
	end int64 // bytes
	reg registration

	turn *sync.Mutex // held during reads; nil: they need not take turns
	r    io.ReaderAt
}

func (v *readerVFS) Open(name string, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	if name == "" || flags&anonymous != 0 {
		return new(vfsutil.SliceFile), flags, nil
	}
	if name != DB || flags&vfs.OPEN_MAIN_DB == 0 {
		return nil, flags, sqlite3.CANTOPEN
	}
	if err := v.ctx.Err(); err != nil {
		return nil, flags, vfs.SystemError(err, sqlite3.CANTOPEN)
	}
	v.reg.opened()
	return &readerFile{trail: trail{reg: &v.reg}, vfs: v}, flags, nil
}

func (v *readerVFS) size() (int64, error) { return v.end, nil }

// read reads as much of p as there is.
func (v *readerVFS) read(p []byte, off int64) (int, error) {
	if v.turn != nil {
		v.turn.Lock()
		defer v.turn.Unlock()
	}
	return readFull(v.r, p[:min(int64(len(p)), v.end-off)], off, v.size)
}

// A readerFile is the database as one connection sees it.
type readerFile struct {
	unlocked
	trail
	vfs    *readerVFS
	closed bool
}

func (f *readerFile) Close() error {
	if !f.closed {
		f.closed = true
		f.reg.closed()
	}
	return f.ok()
}

func (f *readerFile) ReadAt(p []byte, off int64) (int, error) {
	v := f.vfs
	if err := v.ctx.Err(); err != nil {
		return 0, f.fail(err, sqlite3.IOERR_READ)
	}
	if off >= v.end {
		return 0, io.EOF
	}
	n, err := v.read(p, off)
	if err != nil {
		return n, f.fail(err, sqlite3.IOERR_READ)
	}
	hideWAL(p[:n], off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// hideWAL has a database in WAL mode look like one that needs no log and no
// index to be read. See
// https://sqlite.org/fileformat.html#file_format_version_numbers. If the first
// page has a checksum, it has one of what it looks like.
func hideWAL(p []byte, off int64) {
	const readVersion, rollback, wal = 19, 1, 2
	i := readVersion - off
	if i < 0 || i >= int64(len(p)) || p[i] != wal {
		return
	}
	isSummed := off == 0 && len(p) >= leastPage && reservesChecksums(p) && hasChecksum(p)
	p[i] = rollback
	if isSummed {
		setChecksum(p)
	}
}

// Lock lets everybody read and nobody write.
func (f *readerFile) Lock(level vfs.LockLevel) error {
	if level > vfs.LOCK_SHARED {
		return sqlite3.READONLY
	}
	return f.ok()
}

func (f *readerFile) Unlock(vfs.LockLevel) error { return f.ok() }

func (f *readerFile) Size() (int64, error) { return f.vfs.end, f.ok() }

func (*readerFile) WriteAt([]byte, int64) (int, error) { return 0, sqlite3.IOERR_WRITE }
func (*readerFile) Truncate(int64) error               { return sqlite3.IOERR_TRUNCATE }
func (*readerFile) Sync(vfs.SyncFlag) error            { return sqlite3.IOERR_FSYNC }

func (*readerFile) DeviceCharacteristics() vfs.DeviceCharacteristic {
	return vfs.IOCAP_SUBPAGE_READ
}

// single is what the file systems of a single database have in common:
// nothing else exists in them.
type single struct{}

func (single) Delete(string, bool) error                   { return sqlite3.IOERR_DELETE_NOENT }
func (single) Access(string, vfs.AccessFlag) (bool, error) { return false, nil }
func (single) FullPathname(name string) (string, error)    { return name, nil }

// unlocked is what the files of a single connection have in common.
type unlocked struct{}

func (unlocked) Lock(vfs.LockLevel) error         { return nil }
func (unlocked) Unlock(vfs.LockLevel) error       { return nil }
func (unlocked) CheckReservedLock() (bool, error) { return false, nil }
func (unlocked) SectorSize() int                  { return sectorSize }
