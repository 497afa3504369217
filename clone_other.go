//go:build !linux && !darwin

package backup

import "io"

// cloning reports that files cannot be clones.
func (d *dir) cloning() cloning { return clonesNever }

// createClone makes the file name, which must not exist, and clones nothing.
func (d *dir) createClone(name string, _ io.ReaderAt, _ int64) (newFile, error) {
	return d.create(name)
}
