//go:build !unix

package backup

import (
	"io/fs"
	"time"
)

const (
	oNonblock        = 0
	oNofollow        = 0
	syncsDirectories = false // a directory handle cannot be flushed
	locksForbid      = true  // to read what another has locked
)

// isLeased returns false: there is nothing of the kind.
func isLeased(error) bool { return false }

// device returns nil: there is no telling.
func (fi fileInfo) device() any { return nil }

// identity returns zeros: neither is to be had.
func identity(fs.FileInfo) (inode uint64, changed time.Time) { return 0, time.Time{} }

// sameOwner returns true: who creates a file owns it.
func (fi fileInfo) sameOwner(fileInfo) bool { return true }

// chown does nothing: who creates a file owns it.
func (d *dir) chown(string, fileInfo) error { return nil }
