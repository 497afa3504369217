//go:build unix

package backup

import (
	"errors"
	"io/fs"
	"syscall"
)

const (
	oNonblock        = syscall.O_NONBLOCK
	oNofollow        = syscall.O_NOFOLLOW
	syncsDirectories = true
	locksForbid      = false // what has locked a part of a file keeps nobody from reading it
)

// isLeased reports whether an error of open(2) says that, with O_NONBLOCK, the
// file would have been opened later.
func isLeased(err error) bool { return errors.Is(err, syscall.EAGAIN) }

// device returns what identifies the file system that the file is on, or nil.
func (fi fileInfo) device() any {
	if fi.sys == nil {
		return nil
	}
	if st, ok := fi.sys.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Dev)
	}
	return nil
}

// sameOwner reports whether both belong to the same user and group, as far as
// can be told.
func (fi fileInfo) sameOwner(other fileInfo) bool {
	if fi.sys == nil || other.sys == nil {
		return false
	}
	a, ok := fi.sys.Sys().(*syscall.Stat_t)
	b, known := other.sys.Sys().(*syscall.Stat_t)
	return ok && known && a.Uid == b.Uid && a.Gid == b.Gid
}

// chown gives name the owner and group of like, where we may: a restore by
// the superuser must not take its files from the service.
func (d *dir) chown(name string, like fileInfo) error {
	if !d.native || like.sys == nil {
		return nil
	}
	st, ok := like.sys.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	err := d.fs.(rootFs).lchown(d.path(name), int(st.Uid), int(st.Gid))
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}
