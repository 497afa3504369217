package aferovfs

import (
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/util/vfsutil"
	"github.com/ncruces/go-sqlite3/vfs"
	"github.com/spf13/afero"
)

// Register serves the files of fsys. Names in URIs are cleaned and else left
// to fsys, which may tell "a" and "/a" apart; symbolic links are not resolved,
// and one in the place of a database or of a sidecar is refused. Journals and
// logs live beside their databases.
//
// Call unregister once every connection is closed; see the package comment.
func Register(fsys afero.Fs) (name string, unregister func() error) {
	v := &fsVFS{fs: fsys}
	v.id = identity(fsys, v)
	return v.reg.register(v)
}

// Open opens the database at path on fsys with the given flags. Closing the
// connection is all that its user has to do, and all that is heard of its
// failures; see the package comment.
func Open(fsys afero.Fs, path string, flags sqlite3.OpenFlag) (*sqlite3.Conn, error) {
	v := &fsVFS{fs: fsys}
	v.id = identity(fsys, v)
	v.reg.once = true // SQLite closes a database after its sidecars, and then needs no VFS
	name, unregister := v.reg.register(v)
	u := url.URL{
		Scheme: "file", OmitHost: true, Path: filepath.ToSlash(path),
		RawQuery: url.Values{"vfs": {name}}.Encode(),
	}
	c, err := sqlite3.OpenFlags(u.String(), flags|sqlite3.OPEN_URI)
	if err != nil {
		return nil, errors.Join(err, unregister())
	}
	return c, nil
}

type fsVFS struct {
	fs  afero.Fs
	id  any // stands for fs in the lock table
	reg registration

	mu       sync.Mutex
	lostDirs map[string]error // directories that failed to sync
}

var _ vfs.VFSFilename = (*fsVFS)(nil)

// anonymous are the flags of files that nobody but their connection sees.
const anonymous = vfs.OPEN_DELETEONCLOSE | vfs.OPEN_TEMP_DB | vfs.OPEN_TRANSIENT_DB |
	vfs.OPEN_TEMP_JOURNAL | vfs.OPEN_SUBJOURNAL

func (v *fsVFS) OpenFilename(name *vfs.Filename, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	if flags&(vfs.OPEN_MAIN_JOURNAL|vfs.OPEN_WAL) == 0 {
		return v.Open(name.String(), flags)
	}
	db := name.DatabaseFile()
	if u, ok := db.(vfs.FileUnwrap); ok {
		db = u.Unwrap() // go-sqlite3 wraps databases to verify checksums
	}
	owner, ok := db.(*file)
	if !ok {
		return v.Open(name.String(), flags)
	}
	return v.openSidecar(name.String(), flags, owner)
}

func (v *fsVFS) Open(name string, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	if name == "" || flags&anonymous != 0 {
		return new(vfsutil.SliceFile), flags, nil
	}
	f := v.newFile(name, flags)
	if flags&vfs.OPEN_MAIN_DB == 0 {
		if err := f.open(); err != nil {
			return nil, flags, err
		}
		return f, flags, nil
	}

	n := acquireNode(v.key(name))
	n.create.Lock()
	defer n.create.Unlock()
	if err := f.open(); err != nil {
		n.release()
		return nil, flags, err
	}
	f.holder = &holder{node: n}
	return f, flags, nil
}

// openSidecar opens the journal or the log of a database.
func (v *fsVFS) openSidecar(name string, flags vfs.OpenFlag, owner *file) (vfs.File, vfs.OpenFlag, error) {
	// SQLite asks to write to the log of a database that it only reads, and
	// would delete the log in the end.
	readLog := flags&vfs.OPEN_WAL != 0 && owner.flags&vfs.OPEN_READONLY != 0
	if readLog {
		flags = flags&^(vfs.OPEN_READWRITE|vfs.OPEN_CREATE) | vfs.OPEN_READONLY
	}
	f := v.newFile(name, flags)
	f.trail = owner.trail
	switch err := f.open(); {
	case err == nil:
		return f, flags, nil
	case readLog && errors.Is(f.cause, fs.ErrNotExist):
		f.cause = nil
		return new(vfsutil.SliceFile), flags, nil
	default:
		return nil, flags, err
	}
}

func (v *fsVFS) Delete(name string, syncDir bool) error {
	err := v.fs.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return vfs.SystemError(err, sqlite3.IOERR_DELETE_NOENT)
	}
	if err != nil {
		return v.fail(name, err, sqlite3.IOERR_DELETE)
	}
	if syncDir {
		if err := v.syncDir(filepath.Dir(name)); err != nil {
			return v.fail(name, err, sqlite3.IOERR_DIR_FSYNC)
		}
	}
	return nil
}

// Access reports whether a file exists, whichever kind of access is meant:
// SQLite asks for nothing else but in a deprecated pragma.
func (v *fsVFS) Access(name string, _ vfs.AccessFlag) (bool, error) {
	_, err := v.fs.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, v.fail(name, err, sqlite3.IOERR_ACCESS)
	}
	return true, nil
}

func (*fsVFS) FullPathname(name string) (string, error) {
	// The path of a URI starts with a slash even if a volume follows.
	if rest := strings.TrimLeft(name, `/\`); filepath.VolumeName(rest) != "" {
		name = rest
	}
	return filepath.Clean(name), nil
}

// fail returns err for SQLite and leaves it as a cause to the connections of
// the database that name is a sidecar of: "a.db-journal", "a.db-wal", or
// "a.db-mj" and a number.
func (v *fsVFS) fail(name string, err error, code sqlite3.ExtendedErrorCode) error {
	v.reg.note(err)
	if i := strings.LastIndexByte(name, '-'); i >= 0 {
		setCause(v.key(name[:i]), err)
	}
	return vfs.SystemError(err, code)
}

// checkPlain refuses what is there and is no plain file. Opening it might
// follow a symbolic link, or wait for the other end of a pipe.
func (v *fsVFS) checkPlain(name string) (sqlite3.ExtendedErrorCode, error) {
	stat := v.fs.Stat
	if l, ok := v.fs.(afero.Lstater); ok {
		stat = func(name string) (fs.FileInfo, error) {
			fi, _, err := l.LstatIfPossible(name)
			return fi, err
		}
	}
	fi, err := stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return sqlite3.ExtendedErrorCode(sqlite3.CANTOPEN), err
	}
	switch mode := fi.Mode(); {
	case fi.IsDir():
		return sqlite3.CANTOPEN_ISDIR, &fs.PathError{Op: "open", Path: name, Err: syscall.EISDIR}
	case mode&fs.ModeSymlink != 0:
		return sqlite3.CANTOPEN_SYMLINK, &fs.PathError{Op: "open", Path: name, Err: syscall.ELOOP}
	case !mode.IsRegular():
		return sqlite3.ExtendedErrorCode(sqlite3.CANTOPEN), &fs.PathError{Op: "open", Path: name, Err: errNotRegular}
	}
	return 0, nil
}

var errNotRegular = errors.New("not a regular file")

// syncDir makes the entries of a directory durable. Once that has failed, it
// always fails.
func (v *fsVFS) syncDir(dir string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.lostDirs[dir]; err != nil {
		return err
	}
	err := syncDir(v.fs, dir)
	if err != nil {
		if v.lostDirs == nil {
			v.lostDirs = map[string]error{}
		}
		v.lostDirs[dir] = err
	}
	return err
}

func syncDir(fsys afero.Fs, dir string) error {
	d, err := fsys.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EINVAL) ||
		runtime.GOOS == "windows" && errors.Is(err, fs.ErrPermission) {
		// The file system has no such thing: fsync(2) gives EINVAL for
		// it, FlushFileBuffers refuses the handle of a directory.
		err = nil
	}
	return errors.Join(err, d.Close())
}

// osFlags translates flags for [afero.Fs.OpenFile].
func osFlags(flags vfs.OpenFlag) int {
	flag := os.O_RDONLY // nothing else may be set, or MemMapFs lets us write
	if flags&vfs.OPEN_READWRITE != 0 {
		flag = os.O_RDWR
	}
	if flags&vfs.OPEN_CREATE != 0 {
		flag |= os.O_CREATE
	}
	if flags&vfs.OPEN_EXCLUSIVE != 0 {
		flag |= os.O_EXCL
	}
	return flag
}
