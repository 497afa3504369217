package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/afero"

	"github.com/atocore/backup/internal/aferovfs"
)

// copyDatabase copies a live database hot. What cannot be copied so, in a
// tree, for a safety snapshot, or because it is damaged, is copied as it lies.
// It returns the entry of its main file.
func (c *copier) copyDatabase(ctx context.Context, from place, to string) (e *entry, err error) {
	fi, err := from.lstat()
	if err != nil && !c.t.hasSidecars() {
		return nil, sourceError{err}
	}
	if c.t.DB == nil && !c.isPinned(from) {
		if err := findHeldFiles().checkDatabase(from); err != nil { // it is opened only now
			return nil, err
		}
	}
	out, err := c.written.at(to)
	if err != nil {
		return nil, err
	}
	sum, err := c.copyHot(ctx, from, fi, out, to)
	if err == nil {
		e, err = c.record(ctx, out, to, fi, sum)
	}
	if err == nil || ctx.Err() != nil || !isSourceError(err) {
		return e, err
	}
	if c.t.Kind == Database && !c.mayCopyRaw(err) {
		return nil, err
	}
	why := err.Error()
	if c.t.Kind == Database {
		e, err = c.copyRaw(ctx, from, to)
	} else {
		e, err = c.copyFile(ctx, from, fi, to, typeRaw)
	}
	if err == nil {
		c.note(CodeRawCopy, c.t, to, why)
	}
	return e, err
}

// mayCopyRaw reports whether a Database that could not be copied hot is to be
// copied as it lies: one that is damaged, as what is left of it is all that
// there is, and for a safety snapshot any. One that is in use is not: its
// files may not fit together.
func (c *capture) mayCopyRaw(err error) bool { return c.lenient || isDamage(err) }

// copyHot returns the SHA-256 of the copy, if it comes by the way.
func (c *copier) copyHot(ctx context.Context, from place, fi fileInfo, out place, to string) (sum string, err error) {
	if c.t.DB != nil {
		return "", c.vacuumInto(ctx, out)
	}
	p, err := c.pinned(ctx, from, fi)
	if err != nil {
		return "", sourceError{fmt.Errorf("%s: %w", from.full(), err)}
	}
	defer p.close()
	if main, size, ok := p.mainFile(); ok {
		return c.copyMain(ctx, main, size, out, to)
	}
	return "", out.dir.createFile(out.name, func(f afero.File) error {
		w := &writeErrors{File: f}
		err := p.copyTo(ctx, w, c.moved)
		if err != nil && w.err == nil {
			err = sourceError{err}
		}
		if err != nil {
			return err
		}
		return aferovfs.CompleteChecksums(ctx, f)
	})
}

// copyMain copies the main file of a pinned database. SQLite's locks keep that as
// it is; who goes past them, and is seen to, has torn the copy.
func (c *copier) copyMain(ctx context.Context, main osFile, size int64, out place, to string) (sum string, err error) {
	before, err := main.Stat()
	if err != nil {
		return "", sourceError{err}
	}
	src := c.cloneable(main)
	err = out.dir.createCopy(out.name, src, size, func(dst newFile) error {
		done, err := copyHashed(ctx, dst, io.NewSectionReader(src, 0, size), size, c.moved)
		sum = done.sha256
		return err
	})
	if err != nil {
		return "", err
	}
	after, err := main.Stat()
	if err != nil {
		return "", sourceError{err}
	}
	if after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) {
		c.note(CodeFileChanged, c.t, to, "written to under the copy by who takes no notice of SQLite's locks, as cp does")
	}
	return sum, nil
}

// pinned returns the pin of a database, which is the caller's now, or pins it
// if its turn has not come yet. One that could not be pinned before is tried
// again, but not waited for.
func (c *capture) pinned(ctx context.Context, db place, fi fileInfo) (*pin, error) {
	full := db.full()
	c.mu.Lock()
	p, tried := c.pins[full], c.unpinned[full]
	delete(c.pins, full)
	c.mu.Unlock()
	if p != nil && p.info.sameFile(fi) {
		return p, nil
	}
	if p != nil { // of a file that is not there any more
		p.close()
	}
	if tried {
		return pinDatabase(ctx, db, nil, nil)
	}
	return pinDatabase(ctx, db, newPatience(c.cfg.BusyTimeout), c.holding)
}

// writeErrors remembers whether writing failed, so that a failed copy can be
// laid to the right side.
type writeErrors struct {
	afero.File
	err error
}

func (w *writeErrors) WriteAt(p []byte, off int64) (int, error) {
	n, err := w.File.WriteAt(p, off)
	w.err = errors.Join(w.err, err)
	return n, err
}

// vacuumInto has the host's own driver write the copy: see
// https://sqlite.org/lang_vacuum.html#vacuuminto. It writes into an empty
// file of ours, lest the driver make one that others may read.
func (c *copier) vacuumInto(ctx context.Context, out place) error {
	return out.dir.createFile(out.name, func(f afero.File) error {
		if out.dir.native {
			return c.vacuum(ctx, out.full(), f)
		}
		temp, err := os.CreateTemp("", "atobackup-*.db") // a driver reaches no other file system
		if err != nil {
			return err
		}
		defer os.Remove(temp.Name())
		defer temp.Close()
		if err := c.vacuum(ctx, temp.Name(), temp); err != nil {
			return err
		}
		_, err = copyBytes(ctx, f, temp, c.moved)
		return err
	})
}

func (c *copier) vacuum(ctx context.Context, native string, f afero.File) error {
	fi, err := c.t.lstat()
	if err != nil {
		return err
	}
	conn, err := hostConn(ctx, c.t.DB, c.cfg.BusyTimeout)
	if err != nil {
		return sourceError{hostBusy(err)}
	}
	defer conn.Close() // back into the host's pool
	wal, err := vacuumInto(ctx, conn, fi, native, c.cfg.BusyTimeout)
	if err != nil {
		return sourceError{hostBusy(err)}
	}
	if !wal {
		return nil
	}
	return aferovfs.MarkWAL(f) // VACUUM makes a database in rollback mode of any
}

// copyRaw copies a database's files as they lie, with their sidecars, for
// want of better: what was committed may be in any of them. A main file that
// cannot be read is an error: sidecars are of no use without it.
func (c *copier) copyRaw(ctx context.Context, from place, to string) (main *entry, err error) {
	for _, suffix := range append([]string{""}, sidecars...) {
		fi, err := from.beside(suffix).lstat()
		if errors.Is(err, fs.ErrNotExist) || err == nil && !fi.isRegular() {
			continue
		}
		var e *entry
		if err != nil {
			err = sourceError{err}
		} else {
			e, err = c.copyFile(ctx, from.beside(suffix), fi, to+suffix, typeRaw)
		}
		if suffix != "" {
			err = c.unreadable(c.t, to+suffix, err)
		} else {
			main = e
		}
		if err != nil {
			return nil, err
		}
	}
	return main, nil
}

// record adds the entry of a database's copy. sum is its SHA-256, or "" if SQLite
// wrote the copy, in an order of its own: then it is read once more for that. In a safety snapshot a copy
// that fails SQLite's checks is taken back: it would be no way to undo a
// restore.
func (c *copier) record(ctx context.Context, out place, to string, fi fileInfo, sum string) (*entry, error) {
	f, written, err := out.open(ctx)
	if err != nil {
		return nil, err
	}
	defer f.Close() // nothing was written
	e := entry{Path: rawString(to), Type: typeDatabase, Size: written.size, SHA256: sum}
	e.setAttributes(fi)
	if sum == "" {
		if e.SHA256, err = hashOf(ctx, f, unreported); err != nil {
			return nil, err
		}
	}
	if c.lenient {
		problems, err := c.check(ctx, out, f, e.Size)
		if err != nil {
			return nil, err
		}
		if len(problems) > 0 {
			return nil, errors.Join(sourceError{joinProblems(problems)}, out.remove())
		}
		e.sound = true
	}
	c.add(e)
	return &e, nil
}

// check runs SQLite's checks on a finished copy, on all cores, and with the
// memory that this takes: one copy after the other.
func (c *capture) check(ctx context.Context, out place, f io.ReaderAt, size int64) (problems []Problem, err error) {
	c.checking.Lock()
	defer c.checking.Unlock()
	crew := newCrew(out.dir.cores())
	err = crew.run(ctx, func(ctx context.Context, fail func(error)) error {
		crew.start(func() {
			var err error
			if problems, err = checkCopy(ctx, crew, f, size, ValidateFull, nil); err != nil {
				fail(err)
			}
		})
		return nil
	})
	return problems, err
}
