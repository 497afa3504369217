//go:build !unix

package backup

import (
	"errors"
	"io/fs"
	"os"
	"time"
)

const (
	oNonblock        = 0
	syncsDirectories = false // a directory handle cannot be flushed
)

// device returns nil: there is no telling.
func (fi fileInfo) device() any { return nil }

// identity returns zeros: neither is to be had.
func identity(fs.FileInfo) (inode uint64, changed time.Time) { return 0, time.Time{} }

// linkNative links nothing: what has no inode is never known to be unchanged.
func linkNative(from, to place) error {
	return &os.LinkError{Op: "link", Old: from.full(), New: to.full(), Err: errors.ErrUnsupported}
}

// sameOwner returns true: who creates a file owns it.
func (fi fileInfo) sameOwner(fileInfo) bool { return true }

// chown does nothing: who creates a file owns it.
func (d *dir) chown(string, fileInfo) error { return nil }
