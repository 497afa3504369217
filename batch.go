package backup

import (
	"sync"

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
// is opened through it from now on, until startSync: if there are to be many
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

// startSync begins to make durable all that was put off, which ends the batch.
// The caller may read what was written in the meantime. It must call wait, which
// returns the error of the sync, before d is closed. A sync that failed is not to
// be repeated and believed.
func (d *dir) startSync() (wait func() error) {
	b := d.batch
	d.dropBatch()
	switch {
	case b == nil:
		return func() error { return nil }
	case !d.native: // which may not be made for two goroutines
		return sync.OnceValue(b)
	}
	done := make(chan error, 1)
	go func() { done <- b() }()
	return sync.OnceValue(func() error { return <-done })
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
