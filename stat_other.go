//go:build !linux

package backup

import "github.com/spf13/afero"

// lstatIn is lstat for what is called base in the directory name, which the caller
// has opened.
func (d *dir) lstatIn(_ afero.File, name, base string) (fileInfo, error) {
	return d.lstat(below(name, base))
}

// statFile returns what f.Stat says.
func statFile(f afero.File) (fileInfo, error) { return statAny(f) }
