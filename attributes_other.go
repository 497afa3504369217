//go:build !linux

package backup

import (
	"io/fs"
	"time"
)

// trySetAttributes does nothing.
func (d *dir) trySetAttributes(string, fs.FileMode, time.Time) bool { return false }
