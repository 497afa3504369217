//go:build unix

package backup

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// A nativeInfo is what is known of the operating system's files alone: which one it
// is, together with its inode, and whose.
type nativeInfo struct {
	isNative bool   // or all is zero
	dev      uint64 // the file system
	uid, gid uint32
}

// identify adds what a file system knows of a file beyond what it has to. Other
// file systems may know its inode, too, but not that no two files have the same.
func (fi *fileInfo) identify(sys fs.FileInfo) {
	st, ok := sys.Sys().(*syscall.Stat_t)
	if !ok {
		return
	}
	fi.inode, fi.ctime = uint64(st.Ino), changeTime(st)
	if os.SameFile(sys, sys) { // which is so of what package os has said itself
		fi.nativeInfo = nativeInfo{isNative: true, dev: uint64(st.Dev), uid: st.Uid, gid: st.Gid}
	}
}

// isIdentical reports whether both, which are native, are of one file.
func (fi fileInfo) isIdentical(other fileInfo) bool {
	return fi.dev == other.dev && fi.inode == other.inode
}

// device returns what identifies the file system that the file is on, or nil.
func (fi fileInfo) device() any {
	if !fi.isNative {
		return nil
	}
	return fi.dev
}

// fileID identifies a native file or directory for as long as somebody has it open.
func fileID(fi fileInfo, _ string) any { return [2]uint64{fi.dev, fi.inode} }

// sameOwner reports whether both belong to the same user and group, as far as
// can be told.
func (fi fileInfo) sameOwner(other fileInfo) bool {
	return fi.isNative && other.isNative && fi.uid == other.uid && fi.gid == other.gid
}

// chown gives name the owner and group of like, where we may: a restore by
// the superuser must not take its files from the service.
func (d *dir) chown(name string, like fileInfo) error {
	if !d.native || !like.isNative {
		return nil
	}
	err := d.fs.(rootFs).lchown(d.path(name), int(like.uid), int(like.gid))
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}
