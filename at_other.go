//go:build !linux

package backup

import (
	"io/fs"
	"time"

	"github.com/spf13/afero"
)

// tryLstat does nothing.
func (d *dir) tryLstat(string) (fi fileInfo, done bool, err error) { return fi, false, nil }

// tryOpen does nothing.
func (d *dir) tryOpen(string, int, fs.FileMode) (f afero.File, done bool, err error) {
	return nil, false, nil
}

// trySetAttributes does nothing.
func (d *dir) trySetAttributes(string, fs.FileMode, time.Time) bool { return false }

// statFile returns what f.Stat says.
func statFile(f afero.File) (fileInfo, error) { return statAny(f) }
