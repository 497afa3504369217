package backup

import (
	"github.com/spf13/afero"
)

// Where many files are written, one sync of the whole file system costs less
// than one for each of them. It waits for what others have written, too: so
// few files are still synced one by one.
const batchFiles = 64

// A batch syncs, at its end, the files and directories that are not synced one
// by one until then.
type batch func() error

// beginBatch puts off the syncs of what is created through d, and through what
// is opened through it from now on, until endBatch: if there are to be many
// files, and where the file system has one sync for all.
func (d *dir) beginBatch(files int) error {
	var err error
	switch fsys := d.fs.(type) {
	case rootFs:
		if files >= batchFiles {
			d.batch, err = newBatch(d)
		}
	case interface{ SyncFS() error }:
		d.batch = fsys.SyncFS
	}
	return err
}

// endBatch makes durable all that was put off. It may only be called once: a
// sync that failed is not to be repeated and believed.
func (d *dir) endBatch() error {
	if d.batch == nil {
		return nil
	}
	err := d.batch()
	d.dropBatch()
	return err
}

// dropBatch ends a batch of which nothing will be used.
func (d *dir) dropBatch() { d.batch = nil }

// syncFile makes a new file's bytes durable, unless that is put off.
func (d *dir) syncFile(f afero.File) error {
	if d.batch != nil {
		return nil
	}
	return f.Sync()
}
