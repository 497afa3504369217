package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/afero"
)

// skip passes over what has been found in a walk.
func skip(fi fileInfo) error {
	if fi.isDir() {
		return fs.SkipDir
	}
	return nil
}

// hasDatabaseHeader reports whether a file is a SQLite database.
func hasDatabaseHeader(at place, fi fileInfo) (bool, error) {
	if fi.size < leastDatabase {
		return false, nil
	}
	f, _, err := openSeen(at, fi)
	if errors.Is(err, errNotRegular) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close() // nothing was written
	err = refuseDatabase(f, fi.size)
	if err == errIsDatabase {
		return true, nil
	}
	return false, err
}

// A treeCopy is the copying of one tree.
type treeCopy struct {
	*capture
	t         *target
	databases map[string]entryType // whose sidecars are left out
	dirs      []entry
}

// copyTree copies what is in a tree. The tree must hold still as little as a
// file must: what changes is noted.
func (c *capture) copyTree(ctx context.Context, t *target) error {
	tc := &treeCopy{capture: c, t: t, databases: make(map[string]entryType)}
	err := t.dir.walk(ctx, ".", func(at place, name string, fi fileInfo) error {
		return tc.copy(ctx, at, name, fi)
	}, func(name string, err error) error {
		if name == "." {
			return err // an empty tree is not what there was
		}
		return c.missed(t, path.Join(t.Name, name), sourceError{err})
	})
	if err != nil {
		return err
	}
	for _, e := range slices.Backward(tc.dirs) { // writing into one changes its time
		if err := c.out.setAttributes(string(e.Path), e.perm()|0o700, e.MTime); err != nil {
			return err
		}
		if err := c.out.syncDir(string(e.Path)); err != nil {
			return err
		}
	}
	return nil
}

// copy copies what the walk through the tree comes upon.
func (tc *treeCopy) copy(ctx context.Context, at place, name string, fi fileInfo) error {
	t, to := tc.t, path.Join(tc.t.Name, name)
	switch {
	case t.layout.isHole(name) || t.layout.isStore(fi):
		return skip(fi)
	case fi.isStaging():
		tc.note(CodeFileChanged, t, to, "was left by a restore, and is not copied")
		return skip(fi)
	case fi.isDir():
		err := tc.makeDir(to, fi)
		tc.dirs = append(tc.dirs, tc.entries[len(tc.entries)-1])
		return err
	case fi.isLink():
		return tc.copyLink(t, at, to)
	case !fi.isRegular():
		t.skipped = append(t.skipped, name)
		return nil
	case tc.isLeftOut(name):
		return nil
	}
	if err := tc.held.check(at); err != nil {
		return err
	}
	kind, err := tc.copyTreeFile(ctx, t, at, fi, to)
	tc.databases[name] = kind
	return err
}

// isLeftOut reports whether a file is a sidecar of a database that has been
// copied: what it holds is in the copy. (An index of a WAL is never data.)
func (tc *treeCopy) isLeftOut(name string) bool {
	return slices.ContainsFunc(sidecars, func(suffix string) bool {
		main, ok := strings.CutSuffix(name, suffix)
		kind := tc.databases[main]
		return ok && (kind == typeDatabase || kind == typeRaw && suffix == "-shm")
	})
}

// errIsDatabase: a file of a tree is to be copied hot.
var errIsDatabase = errors.New("a SQLite database")

func refuseDatabase(r io.ReaderAt, size int64) error {
	if size < leastDatabase {
		return nil
	}
	is, err := startsDatabase(r)
	if err == io.EOF || err == io.ErrUnexpectedEOF { // it was truncated meanwhile
		err = nil
	}
	if is {
		err = errIsDatabase
	}
	return err
}

// copyTreeFile copies one file of a tree, and returns as what.
func (c *capture) copyTreeFile(ctx context.Context, t *target, at place, fi fileInfo, to string) (kind entryType, err error) {
	err = errIsDatabase
	if c.pins[at.full()] == nil {
		if shared, err := c.share(t, to, fi); shared || err != nil {
			return typeFile, err
		}
		err = c.copyFile(ctx, t, at, to, typeFile)
	}
	if err == errIsDatabase {
		err = c.copyDatabase(ctx, t, at, to)
	}
	if err != nil {
		return "", c.missed(t, to, err)
	}
	e := c.entries[len(c.entries)-1]
	out, err := c.written.at(to)
	if err != nil {
		return "", err
	}
	return e.Type, out.dir.setAttributes(out.name, e.perm()|0o600, e.MTime)
}

// missed notes what was listed and is gone, or is something else by now, or
// is unreadable, and passes on any other error.
func (c *capture) missed(t *target, to string, err error) error {
	switch {
	case isGone(err):
		c.note(CodeFileVanished, t, to, "removed or renamed before it was copied")
	case errors.Is(err, errNotRegular), errors.Is(err, errReplaced):
		c.note(CodeFileChanged, t, to, "replaced by something else before it was copied")
	default:
		return c.unreadable(t, to, err)
	}
	return nil
}

// unreadable notes, for a safety snapshot, what cannot be read, and passes on
// any other error: damage must not stand in the way of a restore.
func (c *capture) unreadable(t *target, to string, err error) error {
	if !c.lenient || !isSourceError(err) || !isOfMedium(err) {
		return err
	}
	c.note(CodeSourceUnreadable, t, to, err.Error())
	return nil
}

// isOfMedium reports whether an error says that nobody can read it any more.
// (Another user can read what we may not, and another try what we had no
// descriptors or memory for: to replace that would be to destroy it.)
func isOfMedium(err error) bool {
	return slices.ContainsFunc(mediumErrors, func(e error) bool { return errors.Is(err, e) })
}

// A sourceError is a failure to read, as opposed to one to write.
type sourceError struct{ error }

func (e sourceError) Unwrap() error { return e.error }

// isSourceError reports whether an error says that reading has failed, and
// nothing else has.
func isSourceError(err error) bool {
	switch e := err.(type) {
	case nil:
		return false
	case sourceError:
		return true
	case interface{ Unwrap() []error }:
		return !slices.ContainsFunc(e.Unwrap(), func(err error) bool { return !isSourceError(err) })
	}
	return isSourceError(errors.Unwrap(err))
}

// A sourceAt marks the errors of reading.
type sourceAt struct{ io.ReaderAt }

func (r sourceAt) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.ReaderAt.ReadAt(p, off)
	switch err {
	case nil, io.EOF:
		return n, err
	case io.ErrUnexpectedEOF: // which afero's MemMapFs says at the end
		return n, io.EOF
	}
	return n, sourceError{err}
}

// Fd lets a file that has a descriptor be cloned.
func (r sourceAt) Fd() uintptr {
	if file, ok := r.ReaderAt.(interface{ Fd() uintptr }); ok {
		return file.Fd()
	}
	return ^uintptr(0) // is no descriptor
}

func (c *capture) copyLink(t *target, at place, to string) error {
	link, err := at.dir.readlink(at.name)
	if err != nil {
		return c.missed(t, to, sourceError{err})
	}
	out, err := c.written.at(to)
	if err != nil {
		return err
	}
	if err := out.dir.symlink(link, out.name); err != nil {
		return err
	}
	c.entries = append(c.entries, entry{Path: rawString(to), Type: typeLink, Target: rawString(link)})
	return nil
}

// copyAttempts is how often a file that changes under the copy is copied
// anew.
const copyAttempts = 3

// copyFile copies a file. One that changes meanwhile is copied anew, and
// after some attempts noted.
func (c *capture) copyFile(ctx context.Context, t *target, from place, to string, kind entryType) error {
	for attempt := 1; ; attempt++ {
		e, stable, err := c.tryCopyFile(ctx, t, from, to, kind)
		if err != nil {
			return err
		}
		if stable || attempt == copyAttempts {
			if !stable {
				c.note(CodeFileChanged, t, to, fmt.Sprintf("changed under each of %d attempts to copy it", attempt))
			}
			c.entries = append(c.entries, e)
			return nil
		}
		if err := c.out.remove(to); err != nil {
			return err
		}
	}
}

// tryCopyFile copies as much as the file had when it was opened, and reports
// whether that was all of one instant.
func (c *capture) tryCopyFile(ctx context.Context, t *target, from place, to string, kind entryType) (e entry, stable bool, err error) {
	f, before, err := from.open()
	if err != nil {
		return e, false, sourceError{err}
	}
	defer f.Close() // nothing was written
	src := sourceAt{f}
	if t.Kind == Tree && kind == typeFile {
		if err := refuseDatabase(src, before.size); err != nil {
			return e, false, err
		}
	}
	if err := c.refuseHidden(t, from, f, before, to); err != nil {
		return e, false, err
	}
	out, err := c.written.at(to)
	if err != nil {
		return e, false, err
	}
	var done copied
	err = out.dir.createFile(out.name, func(dst afero.File) error {
		created, err := dst.Stat()
		if err != nil {
			return err
		}
		done, err = copyHashed(ctx, dst, src, before.size, c.moved(t))
		done.begun = created.ModTime()
		return err
	})
	if err != nil {
		return e, false, err
	}
	e = entry{Path: rawString(to), Type: kind, Size: done.size, SHA256: done.sha256}
	e.setAttributes(before)
	stable, err = t.isOfOneInstant(ctx, &e, f, before, out, done)
	if err != nil {
		err = errors.Join(err, out.remove())
	}
	return e, stable, err
}

// isOlder reports whether a file was last changed so long before then, a time
// of the file system's clock. (Anybody may have set its time of modification, to
// one that is yet to come, too.)
func (fi fileInfo) isOlder(age time.Duration, then time.Time) bool {
	return then.Sub(fi.mtime).Abs() > age && then.Sub(fi.ctime) > age
}

// refuseHidden refuses a file that does not tell its size; in a tree, it is
// copied as empty, which is noted.
func (c *capture) refuseHidden(t *target, from place, f afero.File, info fileInfo, to string) error {
	hides, err := hidesSize(f, sourceAt{f}, info)
	if err != nil || !hides {
		return err
	}
	if c.lenient || t.Kind != Tree {
		return &fs.PathError{Op: "read", Path: from.full(), Err: errHidesSize}
	}
	c.note(CodeFileChanged, t, to, errHidesSize.Error())
	return nil
}

// errHidesSize: there is no telling where the file ends, if it does. Files of
// the kernel's are such, as in /proc, and those of some FUSE file systems.
var errHidesSize = errors.New("its size is said to be 0, and it has bytes: it cannot be copied")

// hidesSize reports whether a file that is said to be empty is not, unless it
// has grown since.
func hidesSize(f afero.File, src io.ReaderAt, info fileInfo) (bool, error) {
	if info.size > 0 {
		return false, nil
	}
	n, err := src.ReadAt(make([]byte, 1), 0)
	if n == 0 {
		if err == io.EOF {
			err = nil
		}
		return false, err
	}
	now, err := f.Stat()
	if err != nil {
		return false, sourceError{err}
	}
	return now.Size() == 0, nil
}

// isOfOneInstant reports whether a file was copied as it was at one instant.
// What counts is the file that was opened: if another one has its name by now,
// it was whole before.
func (t *target) isOfOneInstant(ctx context.Context, e *entry, f afero.File, before fileInfo, out place, done copied) (bool, error) {
	now, err := f.Stat()
	if err != nil {
		return false, sourceError{err}
	}
	// A write within the same tick of the clock leaves the times as they were.
	const tick = 2 * time.Second // FAT's, the coarsest
	if done.size == before.size && newFileInfo(now).unchanged(before) && before.isOlder(tick, done.begun) {
		t.identify(e, before, done.begun)
		return true, nil
	}
	same, err := readsTheSame(ctx, e, sourceAt{f}, out, done)
	return same && done.size == before.size, err
}

// readsTheSame reports whether what was copied of a file that may have been
// written to reads the same again: then it was so at one instant, as a log is
// that grew. Of a clone the sum must be that of its own bytes.
func readsTheSame(ctx context.Context, e *entry, src sourceAt, out place, done copied) (bool, error) {
	if !done.cloned {
		again, err := hashOf(ctx, io.NewSectionReader(src, 0, done.size))
		return again == e.SHA256, err
	}
	f, info, err := out.open()
	if err != nil {
		return false, err
	}
	defer f.Close() // nothing was written
	e.Size = info.size
	e.SHA256, err = hashOf(ctx, f)
	return e.SHA256 == done.sha256, err
}
