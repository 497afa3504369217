package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"

	"github.com/spf13/afero"
)

// errMountPoint: what is to be removed holds files of somebody else.
var errMountPoint = errors.New("something is mounted here: unmount it first")

// removeAll removes name and all that is below it; nothing there is fine.
// Links are removed, never followed, and mount points neither emptied nor
// touched.
func (d *dir) removeAll(name string) error {
	if err := d.checkNoMounts(name); err != nil {
		return err
	}
	var device any
	var found []string
	err := d.walk(context.Background(), name, func(at place, name string, fi fileInfo) error {
		if len(found) == 0 {
			device = fi.device()
		}
		if fi.isDir() && fi.device() != device { // files of an overlay have others
			return &fs.PathError{Op: "remove", Path: at.full(), Err: errMountPoint}
		}
		found = append(found, name)
		if fi.isDir() && fi.mode.Perm()&0o700 != 0o700 {
			return at.dir.fs.Chmod(at.dir.path(at.name), 0o700) // or it could not be emptied
		}
		return nil
	}, exceptGone)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	t := trail{root: d}
	defer t.close()
	for _, name := range slices.Backward(found) {
		at, err := t.at(name)
		if err == nil {
			err = at.remove()
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// checkNoMounts refuses a name that something is mounted on, or below, as far
// as can be told.
func (d *dir) checkNoMounts(name string) error {
	mounts, _ := d.mountsBelow() // where that cannot be told, devices are compared
	for _, m := range mounts {
		if within(m, name) {
			return &fs.PathError{Op: "remove", Path: d.full(m), Err: errMountPoint}
		}
	}
	return nil
}

// createFile makes the file name with what fill writes, and its bytes
// durable, at once or at the end of a batch. Its name is durable once the
// directory is synced. On failure nothing is left.
func (d *dir) createFile(name string, fill func(f afero.File) error) error {
	return d.createCopy(name, nil, 0, func(dst newFile) error { return fill(dst.File) })
}

// createCopy is createFile for the first size bytes of src. Where the file
// system can, the new file shares the blocks of src.
func (d *dir) createCopy(name string, src io.ReaderAt, size int64, fill func(dst newFile) error) (err error) {
	f, err := d.createClone(name, src, size)
	if err != nil {
		return err
	}
	filled := false
	defer func() {
		if !filled { // but panicked: the file stays, as after a crash
			f.Close()
		}
		if err != nil {
			err = errors.Join(err, ignoreNotExist(d.remove(name)))
		}
	}()
	err = fill(f)
	filled = true
	// A failed sync is final: a second one may succeed without the data
	// having reached the disk.
	return errors.Join(err, d.syncFile(f), f.Close())
}

// replaceFile gives the file name new content, durably: after a crash it has
// the old content or the new. [ErrDurabilityUnknown] says that it has the
// new, but may lose it again.
func (d *dir) replaceFile(name string, data []byte) error {
	temp := name + ".tmp"
	if err := d.removeAll(temp); err != nil { // left by a crash
		return err
	}
	err := d.createFile(temp, func(f afero.File) error { return writeFull(f, data) })
	if err != nil {
		return err
	}
	if err := d.fs.Rename(d.path(temp), d.path(name)); err != nil {
		return errors.Join(err, d.remove(temp))
	}
	if err := d.syncDir(path.Dir(name)); err != nil {
		return fmt.Errorf("%w: %w", ErrDurabilityUnknown, err)
	}
	return nil
}

var errTooLarge = errors.New("larger than any that this library writes")

// readFile returns the content of the regular file name, unless it has more
// than limit bytes.
func (d *dir) readFile(ctx context.Context, name string, limit int64) ([]byte, error) {
	f, info, err := d.open(ctx, name)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	buf.Grow(int(max(0, min(info.size, limit))) + bytes.MinRead) // for all of it, and to find its end
	_, err = buf.ReadFrom(io.LimitReader(f, limit+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if int64(buf.Len()) > limit {
		return nil, &fs.PathError{Op: "read", Path: d.full(name), Err: errTooLarge}
	}
	return buf.Bytes(), nil
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// writeFull writes all of data, and takes a short write for the failure that
// it is, also when the writer does not.
func writeFull(w io.Writer, data []byte) error {
	n, err := w.Write(data)
	if err == nil && n != len(data) {
		err = io.ErrShortWrite
	}
	return err
}
