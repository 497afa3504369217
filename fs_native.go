package backup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/afero"
)

// rootFs is an [os.Root] as an afero.Fs: names are relative to the root, and
// none leads out of it. Errors name the whole path.
type rootFs struct {
	root *os.Root
	base string // where the root is
}

var (
	_ afero.Fs        = rootFs{}
	_ afero.Symlinker = rootFs{}
)

func (r rootFs) Name() string { return "rootFs" }

func (r rootFs) Create(name string) (afero.File, error) {
	return r.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
}

func (r rootFs) Open(name string) (afero.File, error) {
	return r.OpenFile(name, os.O_RDONLY, 0)
}

// OpenFile never waits for the other end of a pipe, nor for who holds a lease.
// (And package os makes no attempt to have a regular file not block, which it
// takes back when that is of no use.) What is only read keeps its time of access,
// if it is ours: to set that on all files of a tree would be to write all of
// their inodes.
func (r rootFs) OpenFile(name string, flag int, perm fs.FileMode) (afero.File, error) {
	flag |= oNonblock
	quiet := flag
	if flag&(os.O_WRONLY|os.O_RDWR) == 0 {
		quiet |= oNoatime
	}
	f, err := r.root.OpenFile(name, quiet, perm)
	if quiet != flag && errors.Is(err, fs.ErrPermission) { // it belongs to another: see open(2)
		f, err = r.root.OpenFile(name, flag, perm)
	}
	if err != nil {
		return nil, r.full(err) // and not a nil *os.File in an afero.File
	}
	return f, nil
}

func (r rootFs) Stat(name string) (fs.FileInfo, error) {
	fi, err := r.root.Stat(name)
	return fi, r.full(err)
}

func (r rootFs) LstatIfPossible(name string) (fs.FileInfo, bool, error) {
	fi, err := r.root.Lstat(name)
	return fi, true, r.full(err)
}

func (r rootFs) ReadlinkIfPossible(name string) (string, error) {
	target, err := r.root.Readlink(name)
	return target, r.full(err)
}

func (r rootFs) SymlinkIfPossible(target, name string) error {
	return r.full(r.root.Symlink(target, name))
}

func (r rootFs) Mkdir(name string, perm fs.FileMode) error { return r.full(r.root.Mkdir(name, perm)) }
func (r rootFs) MkdirAll(name string, perm fs.FileMode) error {
	return r.full(r.root.MkdirAll(name, perm))
}
func (r rootFs) Remove(name string) error                  { return r.full(r.root.Remove(name)) }
func (r rootFs) RemoveAll(name string) error               { return r.full(r.root.RemoveAll(name)) }
func (r rootFs) Rename(from, to string) error              { return r.full(r.root.Rename(from, to)) }
func (r rootFs) Chmod(name string, mode fs.FileMode) error { return r.full(r.root.Chmod(name, mode)) }
func (r rootFs) Chown(name string, uid, gid int) error     { return r.full(r.root.Chown(name, uid, gid)) }

func (r rootFs) lchown(name string, uid, gid int) error { return r.full(r.root.Lchown(name, uid, gid)) }

func (r rootFs) Chtimes(name string, atime, mtime time.Time) error {
	return r.full(r.root.Chtimes(name, atime, mtime))
}

// full puts the root's path before the one that err names.
func (r rootFs) full(err error) error {
	switch err := err.(type) {
	case *fs.PathError:
		return &fs.PathError{Op: err.Op, Path: filepath.Join(r.base, err.Path), Err: err.Err}
	case *os.LinkError:
		return &os.LinkError{Op: err.Op, Old: err.Old, New: filepath.Join(r.base, err.New), Err: err.Err}
	}
	return err
}
