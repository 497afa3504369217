package backup

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
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

func (p place) lstat() (fileInfo, error) { return p.dir.lstat(p.name) }
func (p place) remove() error            { return p.dir.remove(p.name) }

func (p place) open(ctx context.Context) (afero.File, fileInfo, error) {
	return p.dir.open(ctx, p.name)
}

func (p place) openSeen(ctx context.Context, fi fileInfo) (afero.File, fileInfo, error) {
	return p.dir.openSeen(ctx, p.name, fi)
}

// link gives the file at p another name, to, which must be free.
func (p place) link(to place) error {
	if p.dir.native && to.dir.native {
		return linkNative(p, to)
	}
	if l, ok := p.dir.fs.(linker); ok {
		return l.LinkIfPossible(p.full(), to.full())
	}
	return &os.LinkError{Op: "link", Old: p.full(), New: to.full(), Err: errors.ErrUnsupported}
}

// A linker makes hard links, as an afero.Linker makes symbolic ones.
type linker interface {
	LinkIfPossible(oldname, newname string) error
}

// beside returns the place of the file that has suffix after its name.
func (p place) beside(suffix string) place { return place{p.dir, p.name + suffix} }

// A walkFunc is called for what a walk comes upon: at is where it lies, in a
// directory that stays open until the walk has left it, and name what it is
// called from where the walk began.
type walkFunc func(at place, name string, fi fileInfo) error

// A lostFunc is told why a walk cannot go to what is called name, and returns
// nil if it is to be passed over.
type lostFunc func(name string, err error) error

// below returns the path of what has a name, or a path, in a directory: path.Join
// for who has nothing to clean.
func below(dir, name string) string {
	switch {
	case dir == ".":
		return name
	case name == ".":
		return dir
	}
	return dir + "/" + name
}

// exceptGone is a lostFunc that passes over what has vanished meanwhile.
func exceptGone(_ string, err error) error {
	if isGone(err) {
		return nil
	}
	return err
}

// exceptDamage is a lostFunc that passes over what cannot be read, unless that is for
// a shortage: what it hides may be what is looked for.
func exceptDamage(_ string, err error) error { return onlyShortage(err) }

// walk calls fn for name and, if it is a directory, for all that is below
// it: parents before children, sorted. If fn returns [fs.SkipDir] for a
// directory, what is in it is passed over. Each directory is opened once and
// then read by its handle: what takes its name meanwhile, such as a symbolic
// link to somewhere else, is not followed. What cannot be opened or looked at
// is told to lost, a directory after fn; if lost returns nil, it is passed
// over.
func (d *dir) walk(ctx context.Context, name string, fn walkFunc, lost lostFunc) error {
	at := place{d, name}
	fi, err := at.lstat()
	if err != nil {
		return err
	}
	w := walker{ctx: ctx, fn: fn, lost: lost}
	return w.visit(at, name, fi)
}

type walker struct {
	ctx  context.Context
	fn   walkFunc
	lost lostFunc
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
	here, err := at.dir.sub(at.name) // fi may be old: somebody may have put another in its place
	if err != nil {
		return w.lost(name, err)
	}
	defer here.close()
	infos, err := here.readDirBut(".", func(base string, err error) error { return w.lost(below(name, base), err) })
	if err != nil {
		return w.lost(name, err)
	}
	for _, fi := range infos {
		if err := w.visit(place{here, fi.name}, below(name, fi.name), fi); err != nil {
			return err
		}
	}
	return nil
}

// A trail leads to places below a directory, one after the other. It keeps the
// directories open that lead to the last one: to begin from the first for each
// file of a tree would cost more than to copy it.
type trail struct {
	root *dir
	open []openDirectory // within root, each in the one before
}

// at returns a place, in a directory that stays open until the trail leads
// elsewhere.
func (t *trail) at(name string) (place, error) {
	parent, base := path.Split(name)
	parent = path.Clean(parent)
	here, reached := t.root, "."
	for i, o := range t.open {
		if parent != o.path && !strings.HasPrefix(parent, o.path+"/") {
			t.leave(i)
			break
		}
		here, reached = o.dir, o.path
	}
	for reached != parent {
		next, _, _ := strings.Cut(strings.TrimPrefix(parent, reached+"/"), "/")
		sub, err := here.sub(next)
		if err != nil {
			return place{}, err
		}
		here, reached = sub, path.Join(reached, next)
		t.open = append(t.open, openDirectory{reached, here})
	}
	return place{here, base}, nil
}

// leave closes all but the first n directories.
func (t *trail) leave(n int) {
	for _, o := range t.open[n:] {
		o.dir.close()
	}
	t.open = t.open[:n]
}

// close closes all but the root, which is whose it was.
func (t *trail) close() { t.leave(0) }

// An openDirectory is one below another, by its path in that.
type openDirectory struct {
	path string
	dir  *dir
}

// isGone reports whether an error says that a file, or a directory that leads
// to it, is not there any more.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}
