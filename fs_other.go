//go:build !unix

package backup

import (
	"io/fs"
	"os"
)

const (
	oNonblock        = 0
	oNofollow        = 0
	syncsDirectories = false // a directory handle cannot be flushed
	locksForbid      = true  // to read what another has locked
)

// isLeased returns false: there is nothing of the kind.
func isLeased(error) bool { return false }

// A nativeInfo is what is known of the operating system's files alone.
type nativeInfo struct {
	isNative bool
	sys      fs.FileInfo // tells it from others
}

// identify adds what a file system knows of a file beyond what it has to.
func (fi *fileInfo) identify(sys fs.FileInfo) {
	if os.SameFile(sys, sys) { // which is so of what package os has said itself
		fi.nativeInfo = nativeInfo{isNative: true, sys: sys}
	}
}

// isIdentical reports whether both, which are native, are of one file.
func (fi fileInfo) isIdentical(other fileInfo) bool { return os.SameFile(fi.sys, other.sys) }

// device returns nil: there is no telling.
func (fi fileInfo) device() any { return nil }

// sameOwner returns true: who creates a file owns it.
func (fi fileInfo) sameOwner(fileInfo) bool { return true }

// chown does nothing: who creates a file owns it.
func (d *dir) chown(string, fileInfo) error { return nil }
