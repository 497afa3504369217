//go:build !unix

package backup

import (
	"io/fs"
	"time"
)

const (
	oNonblock        = 0
	syncsDirectories = false // a directory handle cannot be flushed
)

// device returns nil: there is no telling.
func (fi fileInfo) device() any { return nil }

// changeTime returns zero: there is no such time.
func changeTime(fs.FileInfo) time.Time { return time.Time{} }

// sameOwner returns true: who creates a file owns it.
func (fi fileInfo) sameOwner(fileInfo) bool { return true }

// chown does nothing: who creates a file owns it.
func (d *dir) chown(string, fileInfo) error { return nil }
