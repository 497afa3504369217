package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
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
func hasDatabaseHeader(ctx context.Context, at place, fi fileInfo) (bool, error) {
	if fi.size < leastDatabase {
		return false, nil
	}
	f, _, err := at.openSeen(ctx, fi)
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

// isDatabase reports whether there is a SQLite database, as far as can be told.
func (p place) isDatabase(ctx context.Context) bool {
	fi, err := p.lstat()
	if err != nil || !fi.isRegular() {
		return false
	}
	is, err := hasDatabaseHeader(ctx, p, fi)
	return err == nil && is
}

// errIsDatabase: a file of a tree is to be copied hot.
var errIsDatabase = errors.New("a SQLite database")

// errDatabaseAsFile: its copy would lack what is in its WAL alone, and a restore
// would leave a WAL that belongs to another.
var errDatabaseAsFile = errors.New("a SQLite database: make the source's kind \"database\"")

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

// A copier copies files of one target into the new snapshot, one after the
// other.
type copier struct {
	*capture
	t          *target
	written    trail  // in the new snapshot
	sharedWith trail  // in an earlier one
	known      cursor // of that
	moved      func(n int64)
}

// newCopier returns one that tells moved how many bytes it has copied. The
// caller closes it.
func (c *capture) newCopier(t *target, moved func(n int64)) *copier {
	return &copier{capture: c, t: t, written: trail{root: c.out}, moved: moved}
}

func (c *copier) close() {
	c.written.close()
	c.sharedWith.close()
}

// copyTreeFile copies one file of a tree, and returns as what.
func (c *copier) copyTreeFile(ctx context.Context, at place, fi fileInfo, to string) (entryType, error) {
	if err := c.held.check(at); err != nil {
		return "", err
	}
	fi = c.held.unseen(fi)
	var e *entry
	err := errIsDatabase
	if !c.isPinned(at) {
		if shared, err := c.share(ctx, to, fi); shared || err != nil {
			return typeFile, err
		}
		e, err = c.copyFile(ctx, at, fi, to, typeFile)
	}
	if errors.Is(err, errIsDatabase) {
		e, err = c.copyDatabase(ctx, at, to)
	}
	if err != nil {
		return "", c.missed(c.t, to, err)
	}
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

// A cloneableAt is a sourceAt that is not only read.
type cloneableAt struct {
	sourceAt
	file interface{ Fd() uintptr }
}

func (r cloneableAt) Fd() uintptr { return r.file.Fd() }

// cloneable returns what is to be copied of a file, as a clone if possible.
func (c *capture) cloneable(f io.ReaderAt) io.ReaderAt {
	if file, ok := f.(interface{ Fd() uintptr }); ok && c.clones != clonesNever {
		return cloneableAt{sourceAt{f}, file}
	}
	return sourceAt{f}
}

func (c *copier) copyLink(ctx context.Context, at place, to string) error {
	var link string
	err := c.untilThere(ctx, func() (err error) {
		link, err = at.dir.readlink(at.name)
		return err
	})
	if err != nil {
		if now, lstatErr := at.lstat(); lstatErr == nil && !now.isLink() {
			err = errReplaced
		}
		return c.missed(c.t, to, sourceError{err})
	}
	out, err := c.written.at(to)
	if err != nil {
		return err
	}
	if err := out.dir.symlink(link, out.name); err != nil {
		return err
	}
	c.add(entry{Path: rawString(to), Type: typeLink, Target: rawString(link)})
	return nil
}

// untilThere calls try, and again after a pause while that says that a file is
// gone, unless much has been waited for such files already.
func (c *capture) untilThere(ctx context.Context, try func() error) error {
	for attempt := 1; ; attempt++ {
		err := try()
		if !isGone(err) || attempt == reappearAttempts || !c.reappearing.busy(ctx, attempt) {
			return err
		}
	}
}

// reappearPatience is how long to wait for files that are gone, in all: when many
// are removed at a time, they do not come back.
const reappearPatience = time.Second

// copyAttempts is how often a file that changes under the copy is copied
// anew.
const copyAttempts = 3

// copyFile copies a file that was seen under a name. One that changes
// meanwhile is copied anew, and after some attempts noted.
func (c *copier) copyFile(ctx context.Context, from place, seen fileInfo, to string, kind entryType) (*entry, error) {
	out, err := c.written.at(to)
	if err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		e := entry{Path: rawString(to), Type: kind}
		stable := false
		err := c.untilThere(ctx, func() (err error) {
			e, stable, err = c.tryCopyFile(ctx, from, seen, out, e)
			return err
		})
		if err != nil {
			return nil, err
		}
		if stable || attempt == copyAttempts {
			if !stable {
				c.note(CodeFileChanged, c.t, to, fmt.Sprintf("changed under each of %d attempts to copy it", attempt))
			}
			c.add(e)
			return &e, nil
		}
		if err := out.remove(); err != nil {
			return nil, err
		}
	}
}

// tryCopyFile copies as much as the file has when its end is reached, completes its
// entry, and reports whether that was all of one instant.
func (c *copier) tryCopyFile(ctx context.Context, from place, seen fileInfo, out place, e entry) (_ entry, stable bool, err error) {
	f, before, err := from.openSeen(ctx, seen)
	if err != nil {
		return e, false, sourceError{err}
	}
	defer f.Close() // nothing was written
	if err := c.refuseHot(&e, sourceAt{f}, before.size); err != nil {
		return e, false, err
	}
	if err := c.refuseHidden(from, f, before, string(e.Path)); err != nil {
		return e, false, err
	}
	var done copied
	src := c.cloneable(f)
	all := &growingReader{src: src, file: f, end: before.size}
	const whole = math.MaxInt64 // what is cut may never have been so
	err = out.dir.createCopy(out.name, src, whole, func(dst newFile) (err error) {
		done, err = copyHashed(ctx, dst, all, before.size, c.moved)
		return err
	})
	if err != nil {
		return e, false, err
	}
	e.Size, e.SHA256 = done.size, done.sha256
	e.setAttributes(before)
	now, err := all.look()
	if err != nil {
		return e, false, errors.Join(err, out.remove())
	}
	stable, err = c.isOfOneInstant(ctx, &e, f, before, now, out, done)
	if err != nil {
		err = errors.Join(err, out.remove())
	}
	return e, stable, err
}

// A growingReader reads a file to the end that it had, and then what has come
// behind that by then, once: what was written there may go with what was written
// in a part that was not read yet.
type growingReader struct {
	src      io.ReaderAt
	file     afero.File
	off, end int64
	now      *fileInfo // of the file, when all was read to the end that it had
}

func (r *growingReader) Read(p []byte) (int, error) {
	if r.off >= r.end {
		if r.now != nil {
			return 0, io.EOF
		}
		if _, err := r.look(); err != nil {
			return 0, err
		}
		if r.end = max(r.end, r.now.size); r.off >= r.end {
			return 0, io.EOF
		}
	}
	n, err := r.src.ReadAt(p[:min(int64(len(p)), r.end-r.off)], r.off)
	r.off += int64(n)
	if n > 0 && err == io.EOF {
		err = nil // it may have grown
	}
	return n, err
}

// look returns what the file was like when its end was reached, or is now.
func (r *growingReader) look() (fileInfo, error) {
	if r.now == nil {
		now, err := statSource(r.file)
		if err != nil {
			return now, err
		}
		r.now = &now
	}
	return *r.now, nil
}

// refuseHot returns errIsDatabase for what is to be copied hot, and was not
// listed as that; and for a File, which is no Database. In a tree, the snapshots
// of another store are copied as they lie.
func (c *copier) refuseHot(e *entry, r io.ReaderAt, size int64) error {
	if c.t.Kind == Database || c.t.Kind == File && c.lenient || e.Type != typeFile {
		return nil
	}
	if c.t.Kind == Tree && isInSnapshot(c.t.Path+strings.TrimPrefix(string(e.Path), c.t.Name)) {
		return nil
	}
	err := refuseDatabase(r, size)
	if err == errIsDatabase && c.t.Kind == File {
		err = errDatabaseAsFile
	}
	return err
}

// isOlder reports whether a file was last changed so long before then, a time
// of the file system's clock. Its time of modification may have been set to one
// that is yet to come; where there is a ctime, that tells when.
func (fi fileInfo) isOlder(age time.Duration, then time.Time) bool {
	since := then.Sub(fi.mtime)
	if !fi.ctime.IsZero() {
		since = min(since.Abs(), then.Sub(fi.ctime))
	}
	return since > age
}

// refuseHidden refuses a file that does not tell its size; in a tree, it is
// copied as empty, which is noted.
func (c *copier) refuseHidden(from place, f afero.File, info fileInfo, to string) error {
	hides, err := hidesSize(f, sourceAt{f}, info)
	if err != nil || !hides {
		return err
	}
	if c.lenient || c.t.Kind != Tree {
		return &fs.PathError{Op: "read", Path: from.full(), Err: errHidesSize}
	}
	c.note(CodeFileChanged, c.t, to, errHidesSize.Error())
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
	now, err := statSource(f)
	if err != nil {
		return false, err
	}
	return now.size == 0, nil
}

// isOfOneInstant reports whether a file was copied as it was at one instant.
// What counts is the file that was opened: if another one has its name by now,
// it was whole before.
func (c *copier) isOfOneInstant(ctx context.Context, e *entry, f afero.File, before, now fileInfo, out place, done copied) (bool, error) {
	// A write within the same tick of the clock leaves the times as they were.
	const tick = 2 * time.Second // FAT's, the coarsest
	if done.size == before.size && now.unchanged(before) && before.isOlder(tick, done.dst.made) {
		c.t.identify(e, before, done.dst.made)
		return true, nil
	}
	if done.dst.cloned {
		return true, c.measure(ctx, e, out)
	}
	if done.size < before.size {
		return false, nil
	}
	return c.readsAgain(ctx, e, f, now)
}

// readsAgain reports whether a file that may have been written to under its
// copy has what was copied, as a log has that grew: then it had no more, and no
// less, when the end of the copy was reached. If it is written to now,
// too, and does not grow, that proves nothing: it may go to and fro between two
// contents, and each reading have the same half of both. (A file that another
// takes the name of is not written to. Only its ctime changes.)
func (c *copier) readsAgain(ctx context.Context, e *entry, f afero.File, before fileInfo) (bool, error) {
	again, err := hashOf(ctx, io.NewSectionReader(sourceAt{f}, 0, e.Size), unreported)
	if err != nil || again != e.SHA256 {
		return false, err
	}
	now, err := statSource(f)
	if err != nil || now.size < before.size || now.size == before.size && !now.mtime.Equal(before.mtime) {
		return false, err
	}
	return true, c.refuseHot(e, sourceAt{f}, e.Size) // it may have become one
}

func statSource(f afero.File) (fileInfo, error) {
	fi, err := statFile(f)
	if err != nil {
		return fi, sourceError{err}
	}
	return fi, nil
}

// measure has the entry say what its copy has, a clone whose origin had changed
// when that was read. Clones are of one instant, see ioctl_ficlone(2), but it may
// be one in which the file had become a database.
func (c *copier) measure(ctx context.Context, e *entry, out place) error {
	f, info, err := out.open(ctx)
	if err != nil {
		return err
	}
	defer f.Close() // nothing was written
	if err := c.refuseHot(e, f, info.size); err != nil {
		return err
	}
	e.Size = info.size
	e.SHA256, err = hashOf(ctx, f, unreported)
	return err
}
