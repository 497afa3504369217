package backup

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/afero"
)

// A dir is an open directory through which the library reaches files, each
// by a slash-separated name below it ("." is the directory itself). It never
// follows a symbolic link in the last element of a name. On the operating
// system's file system it stands on an [os.Root], so that no link in an
// earlier element leads out of it either, also when it is swapped in while
// we work.
type dir struct {
	fs     afero.Fs
	base   string // where it is, on fs or on the operating system
	native bool   // fs is a rootFs: names go to it as they are
	batch  batch  // if not nil, syncs are put off

	mu    sync.Mutex
	self  *os.File // on the directory itself, once handle was called
	users int      // that are still to close it, but for one
}

// fileInfo is what lstat said at one instant. (An [fs.FileInfo] of afero's
// MemMapFs changes as the file does.)
type fileInfo struct {
	name  string // last element
	mode  fs.FileMode
	size  int64
	mtime time.Time
	ctime time.Time // of any change, which nobody can set as they like; zero if not known
	inode uint64    // its number on its file system; 0 if not known
	nativeInfo
}

func newFileInfo(fi fs.FileInfo) fileInfo {
	info := fileInfo{name: fi.Name(), mode: fi.Mode(), size: fi.Size(), mtime: fi.ModTime()}
	if fi.IsDir() {
		info.mode |= fs.ModeDir // MemMapFs forgets it on directories made on the way to a file
		info.size = 0
	}
	info.identify(fi)
	return info
}

// statAny is statFile for any file.
func statAny(f afero.File) (fileInfo, error) {
	fi, err := f.Stat()
	if err != nil {
		return fileInfo{}, err
	}
	return newFileInfo(fi), nil
}

func (fi fileInfo) isDir() bool     { return fi.mode.IsDir() }
func (fi fileInfo) isRegular() bool { return fi.mode&fs.ModeType == 0 }
func (fi fileInfo) isLink() bool    { return fi.mode&fs.ModeSymlink != 0 }

// sameFile reports whether both were taken of one file, as far as the file
// system can tell.
func (fi fileInfo) sameFile(other fileInfo) bool {
	if !fi.isNative || !other.isNative {
		return fi.mode.Type() == other.mode.Type()
	}
	return fi.isIdentical(other)
}

// unchanged reports whether nothing suggests that the file was written to
// between the two. Who writes may set the time of modification back.
func (fi fileInfo) unchanged(other fileInfo) bool {
	return fi.sameFile(other) && fi.size == other.size && fi.mtime.Equal(other.mtime) && fi.ctime.Equal(other.ctime)
}

// isWhatItWas reports whether a file is the one that it was, and has not been
// written to, by its time of modification: where there is no telling two files
// apart, it is not. (A rename changes the time of change.)
func (fi fileInfo) isWhatItWas(was fileInfo) bool {
	return fi.isNative && was.isNative && fi.sameFile(was) && fi.size == was.size && fi.mtime.Equal(was.mtime)
}

// errNotRegular: a name is not, or no longer, a regular file.
var errNotRegular = errors.New("not a regular file")

// nativePath returns where p lies on the operating system's file system, if
// fsys is that file system or a BasePathFs over it.
func nativePath(fsys afero.Fs, p string) (string, bool) {
	switch fsys := fsys.(type) {
	case *afero.OsFs, afero.OsFs:
		return p, true
	case *afero.BasePathFs:
		base, ok := nativeBase(fsys)
		if !ok {
			return "", false
		}
		// Rooting p first keeps ".." inside: RealPath would let "../abc"
		// out of a base "/ab".
		return filepath.Join(base, filepath.Join(string(filepath.Separator), p)), true
	}
	return "", false
}

// nativeBase asks a BasePathFs for its base by opening it: what it wraps is
// not to be had otherwise.
func nativeBase(fsys *afero.BasePathFs) (string, bool) {
	if hides(reflect.ValueOf(fsys)) {
		return "", false
	}
	f, err := fsys.Open(string(filepath.Separator))
	if err != nil {
		return "", false
	}
	defer f.Close() // opened for its name alone
	inner := afero.File(f)
	for {
		switch file := inner.(type) {
		case *afero.BasePathFile:
			inner = file.File
		case *os.File:
			return file.Name(), true
		default:
			return "", false
		}
	}
}

// hides reports whether a *BasePathFs is known to be over something that is not
// the operating system's file system, such as an afero.ReadOnlyFs, whose files
// may look as if it were.
func hides(base reflect.Value) bool {
	source := base.Elem().FieldByName("source")
	if !source.IsValid() || source.Kind() != reflect.Interface {
		return false
	}
	switch inner := source.Elem(); inner.Type() {
	case reflect.TypeFor[*afero.OsFs](), reflect.TypeFor[afero.OsFs]():
		return false
	case reflect.TypeFor[*afero.BasePathFs]():
		return hides(inner)
	}
	return true
}

// openDir opens the directory p of fsys. The caller closes it.
func openDir(fsys afero.Fs, p string) (*dir, error) {
	if native, ok := nativePath(fsys, p); ok {
		if err := mustBeDir(native)(os.Stat(native)); err != nil {
			return nil, err // OpenRoot would wait for the other end of a pipe
		}
		root, err := os.OpenRoot(native + string(filepath.Separator)) // it may be a pipe by now
		if err != nil {
			return nil, err
		}
		return &dir{fs: rootFs{root, native}, base: native, native: true}, nil
	}
	if err := mustBeDir(p)(fsys.Stat(p)); err != nil {
		return nil, err
	}
	return &dir{fs: fsys, base: p}, nil
}

// mustBeDir returns a function that refuses what stat has found at p, unless it
// is a directory.
func mustBeDir(p string) func(fs.FileInfo, error) error {
	return func(fi fs.FileInfo, err error) error {
		if err == nil && !fi.IsDir() {
			err = &fs.PathError{Op: "open", Path: p, Err: syscall.ENOTDIR}
		}
		return err
	}
}

// An openFunc opens a directory.
type openFunc func(fsys afero.Fs, p string) (*dir, error)

// openDirOrNone is openDir, but for a directory that is missing, which is
// nil and no error.
func openDirOrNone(fsys afero.Fs, p string) (*dir, error) {
	d, err := openDir(fsys, p)
	return d, ignoreNotExist(err)
}

// makeDir opens the directory p of fsys, and makes it, durably, with the
// parents that are missing.
func makeDir(fsys afero.Fs, p string) (*dir, error) {
	d, err := openDir(fsys, p)
	if !errors.Is(err, fs.ErrNotExist) {
		return d, err
	}
	if p == filepath.Dir(p) { // the base of a BasePathFs
		if err := fsys.MkdirAll(p, 0o700); err != nil {
			return nil, err
		}
		return openDir(fsys, p)
	}
	parent, err := makeDir(fsys, filepath.Dir(p))
	if err != nil {
		return nil, err
	}
	defer parent.close()
	if err := parent.mkdir(filepath.Base(p)); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if err := parent.syncDir("."); err != nil {
		return nil, err
	}
	return openDir(fsys, p)
}

// locate opens the directory that holds the file p, which need not exist,
// and returns its name there. Links are followed: they are the host's own
// word.
func locate(fsys afero.Fs, p string) (*dir, string, error) {
	p, err := followLinks(fsys, p)
	if err != nil {
		return nil, "", err
	}
	d, err := openDir(fsys, filepath.Dir(p))
	return d, filepath.Base(p), err
}

// lstatPath looks at what has a path, be it a link or not.
func lstatPath(fsys afero.Fs, p string) (fileInfo, error) {
	d, err := openDir(fsys, filepath.Dir(p))
	if err != nil {
		return fileInfo{}, err
	}
	defer d.close()
	return d.lstat(filepath.Base(p))
}

// readlinkIfLink returns the target of a symbolic link, and "" for anything
// else.
func (d *dir) readlinkIfLink(name string) (string, error) {
	fi, err := d.lstat(name)
	if err != nil || !fi.isLink() {
		return "", ignoreNotExist(err)
	}
	return d.readlink(name)
}

func (d *dir) path(name string) string {
	if d.native {
		return filepath.FromSlash(name)
	}
	return d.full(name)
}

// full returns where name is, on fs or on the operating system.
func (d *dir) full(name string) string { return filepath.Join(d.base, filepath.FromSlash(name)) }

// retain returns d for another user, who closes it too: it is open until all
// have done so.
func (d *dir) retain() *dir {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.users++
	return d
}

func (d *dir) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.users > 0 {
		d.users--
		return
	}
	if d.self != nil {
		d.self.Close() // nothing was written through it
	}
	if root, ok := d.fs.(rootFs); ok {
		root.root.Close() // nothing was written through it
	}
}

// handle returns a file of the operating system on the directory itself, which
// is open for as long as d is.
func (d *dir) handle() (*os.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.self != nil {
		return d.self, nil
	}
	root, ok := d.fs.(rootFs)
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: d.base, Err: errors.ErrUnsupported}
	}
	var err error
	d.self, err = root.root.Open(".")
	return d.self, root.full(err)
}

// sub opens the directory name, which must not be a symbolic link.
func (d *dir) sub(name string) (*dir, error) {
	fi, err := d.lstat(name)
	if err != nil {
		return nil, err
	}
	return d.subAt(name, fi)
}

// subAt is sub for who has looked at name already, and seen fi.
func (d *dir) subAt(name string, fi fileInfo) (*dir, error) {
	notDir := &fs.PathError{Op: "open", Path: d.full(name), Err: syscall.ENOTDIR}
	if !fi.isDir() {
		return nil, notDir
	}
	parent, ok := d.fs.(rootFs)
	if !ok {
		return &dir{fs: d.fs, base: d.full(name), batch: d.batch}, nil
	}
	root, err := parent.root.OpenRoot(d.path(name) + string(filepath.Separator)) // or a pipe would be waited for
	if err != nil {
		if now, lstatErr := d.lstat(name); lstatErr == nil && !now.isDir() {
			return nil, notDir
		}
		return nil, parent.full(err)
	}
	sub := &dir{fs: rootFs{root, d.full(name)}, base: d.full(name), native: true, batch: d.batch}
	now, err := sub.lstat(".")
	if err == nil && !now.sameFile(fi) {
		err = notDir
	}
	if err != nil {
		sub.close()
		return nil, err
	}
	return sub, nil
}

func (d *dir) lstat(name string) (fileInfo, error) {
	var fi fs.FileInfo
	var err error
	if l, ok := d.fs.(afero.Lstater); ok {
		fi, _, err = l.LstatIfPossible(d.path(name))
	} else {
		fi, err = d.fs.Stat(d.path(name))
	}
	if err != nil {
		return fileInfo{}, err
	}
	return newFileInfo(fi), nil
}

func (d *dir) exists(name string) (bool, error) {
	_, err := d.lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// open opens the regular file name for reading. Anything else is refused
// with errNotRegular, and never waited for, as a pipe would have it. Who holds
// a lease on the file is waited for, but no longer than for ctx.
func (d *dir) open(ctx context.Context, name string) (afero.File, fileInfo, error) {
	return d.openRegular(ctx, name, os.O_RDONLY)
}

// openSeen is open for who has just seen the file: it is not looked at again
// before it is opened, where it can be told afterwards that it is that one.
func (d *dir) openSeen(ctx context.Context, name string, seen fileInfo) (afero.File, fileInfo, error) {
	if d.native && seen.isNative {
		f, info, err := d.openSame(ctx, name, os.O_RDONLY, seen)
		if err == nil || isLeased(err) || ctx.Err() != nil {
			return f, info, err
		}
	}
	return d.open(ctx, name)
}

// openRegular tries anew when another file takes the name meanwhile, as one
// does that is written aside and renamed.
func (d *dir) openRegular(ctx context.Context, name string, flag int) (afero.File, fileInfo, error) {
	const attempts = 100
	for attempt := 1; ; attempt++ {
		f, info, err := d.tryOpenRegular(ctx, name, flag)
		if !errors.Is(err, errReplaced) || attempt == attempts {
			return f, info, err
		}
	}
}

// errReplaced: a name has come to stand for another file.
var errReplaced = errors.New("replaced while it was opened")

func (d *dir) tryOpenRegular(ctx context.Context, name string, flag int) (afero.File, fileInfo, error) {
	seen, err := d.lstat(name)
	if err != nil {
		return nil, fileInfo{}, err
	}
	return d.openSame(ctx, name, flag, seen)
}

// openSame opens the regular file that was seen under a name.
func (d *dir) openSame(ctx context.Context, name string, flag int, seen fileInfo) (afero.File, fileInfo, error) {
	if !seen.isRegular() {
		return nil, fileInfo{}, d.notRegular(name)
	}
	f, err := d.openLeased(ctx, name, flag)
	if err != nil {
		if now, lstatErr := d.lstat(name); lstatErr == nil && !now.isRegular() {
			err = d.notRegular(name)
		}
		return nil, fileInfo{}, err
	}
	info, err := statFile(f)
	if err != nil {
		f.Close()
		return nil, fileInfo{}, err
	}
	info.name = path.Base(name)
	if !info.isRegular() || !info.sameFile(seen) {
		f.Close()
		return nil, fileInfo{}, &fs.PathError{Op: "open", Path: d.full(name), Err: errReplaced}
	}
	return f, info, nil
}

func (d *dir) notRegular(name string) error {
	return &fs.PathError{Op: "open", Path: d.full(name), Err: errNotRegular}
}

// openLeased opens a file. Who holds a lease on it, as Samba may, is waited
// for: the kernel gives them 45 seconds to let go, see F_SETLEASE in fcntl(2).
func (d *dir) openLeased(ctx context.Context, name string, flag int) (afero.File, error) {
	const pause, patience = 10 * time.Millisecond, time.Minute
	for waited := time.Duration(0); ; waited += pause {
		f, err := d.fs.OpenFile(d.path(name), flag, 0)
		if err == nil || !isLeased(err) || waited >= patience {
			return f, err
		}
		if err := sleep(ctx, pause); err != nil {
			return nil, err
		}
	}
}

// sleep returns after a while, or with ctx's error as soon as that is done.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// A newFile is one that is made to be written to.
type newFile struct {
	afero.File
	made   time.Time // by the clock of its file system or by ours, whichever is behind
	cloned bool      // it shares the blocks that another file had then
}

// create makes the file name, which must not exist, for reading and writing.
func (d *dir) create(name string) (newFile, error) {
	f, err := d.fs.OpenFile(d.path(name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return newFile{}, d.named("open", name, err)
	}
	fi, err := statFile(f)
	if err != nil {
		return newFile{}, errors.Join(err, f.Close(), d.remove(name))
	}
	made := time.Now()
	if fi.mtime.Before(made) {
		made = fi.mtime
	}
	return newFile{File: f, made: made}, nil
}

// named gives an error its path, where a file system does not.
func (d *dir) named(op, name string, err error) error {
	if _, ok := errors.AsType[*fs.PathError](err); err == nil || ok {
		return err
	}
	return &fs.PathError{Op: op, Path: d.full(name), Err: err}
}

// mkdir makes the directory name, which must not exist.
func (d *dir) mkdir(name string) error {
	return d.named("mkdir", name, d.fs.Mkdir(d.path(name), 0o700))
}

func (d *dir) remove(name string) error { return d.fs.Remove(d.path(name)) }

// rename moves a file or directory to a name that must be free: some file
// systems would replace, others merge, what has it.
func (d *dir) rename(from, to string) error {
	taken, err := d.exists(to)
	if err != nil {
		return err
	}
	if taken {
		return &os.LinkError{Op: "rename", Old: d.full(from), New: d.full(to), Err: fs.ErrExist}
	}
	err = d.fs.Rename(d.path(from), d.path(to))
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	// A directory that changes its parent is written to, see rename(2): one
	// that its owner may not write to has to be opened up for a moment.
	fi, statErr := d.lstat(from)
	if statErr != nil || !fi.isDir() || fi.mode.Perm()&0o300 == 0o300 {
		return err
	}
	if err := d.fs.Chmod(d.path(from), fi.mode.Perm()|0o700); err != nil {
		return err
	}
	err = d.fs.Rename(d.path(from), d.path(to))
	if err != nil {
		to = from
	}
	return errors.Join(err, d.fs.Chmod(d.path(to), fi.mode.Perm()))
}

func (d *dir) readlink(name string) (string, error) {
	if l, ok := d.fs.(afero.LinkReader); ok {
		return l.ReadlinkIfPossible(d.path(name))
	}
	return "", &fs.PathError{Op: "readlink", Path: d.full(name), Err: afero.ErrNoReadlink}
}

func (d *dir) symlink(target, name string) error {
	if l, ok := d.fs.(afero.Linker); ok {
		return l.SymlinkIfPossible(target, d.path(name))
	}
	return &os.LinkError{Op: "symlink", Old: target, New: d.full(name), Err: afero.ErrNoSymlink}
}

// setAttributes gives a file or directory its permission bits and its time
// of modification.
func (d *dir) setAttributes(name string, perm fs.FileMode, mtime time.Time) error {
	if d.trySetAttributes(name, perm, mtime) {
		return nil
	}
	if err := d.fs.Chmod(d.path(name), perm.Perm()); err != nil {
		return err
	}
	return d.fs.Chtimes(d.path(name), mtime, mtime)
}

// readNames returns the names that the directory name holds, sorted. (Where files
// come and go, readdir(3) may tell one twice, as XFS does.)
func (d *dir) readNames(name string) ([]string, error) {
	f, err := d.fs.Open(d.path(name))
	if err != nil {
		return nil, err
	}
	names, err := namesIn(f)
	return names, errors.Join(err, f.Close())
}

func namesIn(directory afero.File) ([]string, error) {
	names, err := directory.Readdirnames(-1)
	slices.Sort(names)
	return slices.Compact(names), err
}

// readDir returns what the directory name holds, sorted by name. What
// vanishes while it is read is left out.
func (d *dir) readDir(name string) ([]fileInfo, error) {
	return d.readDirBut(name, func(_ string, err error) error { return err })
}

// Who writes a file anew may have removed it first: so often, and after such a
// pause, one is looked for that was there a moment ago.
const (
	reappearAttempts = 3
	reappearPause    = 5 * time.Millisecond
)

// readDirBut is readDir, but for what cannot be looked at: that is told to
// lost and, if it returns nil, left out. So is what is not there any more.
func (d *dir) readDirBut(name string, lost func(base string, err error) error) ([]fileInfo, error) {
	f, err := d.fs.Open(d.path(name))
	if err != nil {
		return nil, err
	}
	infos, err := d.readOpenDir(f, name, lost)
	return infos, errors.Join(err, f.Close())
}

// readOpenDir is readDirBut for a directory that the caller has open.
func (d *dir) readOpenDir(f afero.File, name string, lost func(base string, err error) error) ([]fileInfo, error) {
	names, err := namesIn(f)
	if err != nil {
		return nil, err
	}
	infos := make([]fileInfo, 0, len(names))
	for attempt := 1; len(names) > 0; attempt++ {
		if attempt > 1 {
			time.Sleep(reappearPause)
		}
		var gone []string
		for _, base := range names {
			fi, err := d.lstatIn(f, name, base)
			switch {
			case err == nil:
				fi.name = base
				infos = append(infos, fi)
			case errors.Is(err, fs.ErrNotExist):
				gone = append(gone, base)
			default:
				if err := lost(base, err); err != nil {
					return nil, err
				}
			}
		}
		if names = gone; attempt == reappearAttempts {
			break
		}
	}
	slices.SortFunc(infos, func(a, b fileInfo) int { return cmp.Compare(a.name, b.name) })
	return infos, nil
}

// syncDir makes the entries of the directory name durable: an fsync of a
// file does not reach the name that it has, see fsync(2).
func (d *dir) syncDir(name string) error {
	if d.batch != nil {
		return nil
	}
	return d.syncAfter(name, func() error { return nil })
}

// syncAfter calls change, and makes durable what that does to the file or
// directory name. It is opened before, as change may forbid that.
func (d *dir) syncAfter(name string, change func() error) error {
	if !syncsDirectories { // nor files that are open for reading
		return change()
	}
	f, err := d.fs.Open(d.path(name))
	if err != nil {
		return err
	}
	if err := change(); err != nil {
		return errors.Join(err, f.Close())
	}
	err = f.Sync()
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EINVAL) {
		err = nil // the file system has no such notion, see fsync(2)
	}
	return errors.Join(err, f.Close())
}

// device returns what identifies the file system that the directory is on, as
// far as can be told.
func (d *dir) device() (any, error) {
	fi, err := d.lstat(".")
	if device := fi.device(); device != nil {
		return device, err
	}
	return filepath.VolumeName(d.base), err
}

// bootID names the time since the system that has the directory was started,
// or is "".
func (d *dir) bootID() string {
	if d.native {
		return bootID()
	}
	if f, ok := d.fs.(interface{ BootID() string }); ok {
		return f.BootID()
	}
	return ""
}

// volume names the file system that the directory is on, as long as that stays
// mounted, or is "". (An image that has been made in the same way as another
// may number its files alike, and have set all of their times alike.)
func (d *dir) volume() string {
	if d.native {
		return d.nativeVolume()
	}
	return ""
}

// tellsChanges reports whether a file that was written to can be told by its
// times, while the system runs. A server may have a clock of its own, and some
// file systems let anybody set all times.
func (d *dir) tellsChanges() bool { return !d.native || d.timesTellChanges() }

// free returns how many bytes may still be written, where that can be told.
func (d *dir) free() (int64, bool) {
	if d.native {
		n, err := freeBytes(d.base)
		return n, err == nil
	}
	if f, ok := d.fs.(interface {
		Free(path string) (int64, error)
	}); ok {
		n, err := f.Free(d.base)
		return n, err == nil
	}
	return 0, false
}

// localName reports whether name may be used below a directory: relative,
// clean, slash-separated, without an element that leads out of it.
func localName(name string) bool {
	return name != "." && fs.ValidPath(strings.ToValidUTF8(name, "_")) &&
		!strings.Contains(name, "\x00") && filepath.IsLocal(filepath.FromSlash(name))
}
