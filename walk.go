package backup

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"syscall"

	"github.com/spf13/afero"
)

// A place is a name in an open directory, be there a file of that name or
// not.
type place struct {
	dir  *dir
	name string
}

// full returns where the place is, on its file system or on the operating
// system.
func (p place) full() string { return p.dir.full(p.name) }

func (p place) lstat() (fileInfo, error)            { return p.dir.lstat(p.name) }
func (p place) open() (afero.File, fileInfo, error) { return p.dir.open(p.name) }
func (p place) exists() (bool, error)               { return p.dir.exists(p.name) }

// beside returns the place of the file that has suffix after its name.
func (p place) beside(suffix string) place { return place{p.dir, p.name + suffix} }

// A walkFunc is called for what a walk comes upon: at is where it lies, in a
// directory that stays open until the walk has left it, and name what it is
// called from where the walk began.
type walkFunc func(at place, name string, fi fileInfo) error

// walk calls fn for name and, if it is a directory, for all that is below
// it: parents before children, sorted. If fn returns [fs.SkipDir] for a
// directory, what is in it is passed over. Each directory is opened once and
// then read by its handle: what takes its name meanwhile, such as a symbolic
// link to somewhere else, is not followed. One that has vanished by the time
// that it is opened, or is none any more, is told to gone, after fn.
func (d *dir) walk(ctx context.Context, name string, fn walkFunc, gone func(name string)) error {
	at := place{d, name}
	fi, err := at.lstat()
	if err != nil {
		return err
	}
	w := walker{ctx: ctx, fn: fn, gone: gone}
	return w.visit(at, name, fi)
}

type walker struct {
	ctx  context.Context
	fn   walkFunc
	gone func(name string)
}

func (w *walker) visit(at place, name string, fi fileInfo) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	err := w.fn(at, name, fi)
	if fi.isDir() && err == fs.SkipDir {
		return nil
	}
	if err != nil || !fi.isDir() {
		return err
	}
	here, err := at.dir.sub(at.name)
	if isGone(err) {
		w.gone(name)
		return nil
	}
	if err != nil {
		return err
	}
	defer here.close()
	infos, err := here.readDir(".")
	if isGone(err) {
		w.gone(name)
		return nil
	}
	for _, fi := range infos {
		if err := w.visit(place{here, fi.name}, path.Join(name, fi.name), fi); err != nil {
			return err
		}
	}
	return err
}

// isGone reports whether an error says that a file, or a directory that leads
// to it, is not there any more.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}
