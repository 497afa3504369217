package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/afero"
)

// copyDatabase copies a live database hot. What cannot be copied so, in a
// tree, for a safety snapshot, or because it is damaged, is copied as it lies.
func (c *capture) copyDatabase(ctx context.Context, t *target, from place, to string) error {
	fi, err := from.lstat()
	if err != nil && !t.hasSidecars() {
		return sourceError{err}
	}
	sum, err := c.copyHot(ctx, t, from, fi, to)
	if err == nil {
		err = c.record(ctx, to, fi, sum)
	}
	if err == nil || ctx.Err() != nil || !isSourceError(err) {
		return err
	}
	switch {
	case t.Kind != Database:
		why := err.Error()
		if err := c.copyFile(ctx, t, from, to, typeRaw); err != nil {
			return err
		}
		c.note(CodeRawCopy, t, to, why)
		return nil
	case c.mayCopyRaw(err):
		return c.copyRaw(ctx, t, from, to, err.Error())
	}
	return err
}

// mayCopyRaw reports whether a Database that could not be copied hot is to be
// copied as it lies: one that is damaged, as what is left of it is all that
// there is, and for a safety snapshot any. One that is in use is not: its
// files may not fit together.
func (c *capture) mayCopyRaw(err error) bool { return c.lenient || isDamage(err) }

// copyHot returns the SHA-256 of the copy, if it comes by the way.
func (c *capture) copyHot(ctx context.Context, t *target, from place, fi fileInfo, to string) (sum string, err error) {
	if t.DB != nil {
		return "", c.vacuumInto(ctx, t, to)
	}
	p, err := c.pinned(ctx, from, fi)
	if err != nil {
		return "", sourceError{fmt.Errorf("%s: %w", from.full(), err)}
	}
	defer p.close()
	out, err := c.written.at(to)
	if err != nil {
		return "", err
	}
	err = out.dir.createFile(out.name, func(f afero.File) error {
		if src, size, ok := p.mainFile(); ok {
			done, err := copyHashed(ctx, f, sourceAt{src}, size, c.moved(t))
			sum = done.sha256
			return err
		}
		w := &writeErrors{File: f}
		err := p.copyTo(ctx, w, c.moved(t))
		if err != nil && w.err == nil {
			err = sourceError{err}
		}
		return err
	})
	return sum, err
}

// pinned returns the pin of a database, which is the caller's now, or pins it
// if its turn has not come yet. One that could not be pinned before is tried
// again, but not waited for.
func (c *capture) pinned(ctx context.Context, db place, fi fileInfo) (*pin, error) {
	full := db.full()
	p := c.pins[full]
	delete(c.pins, full)
	if p != nil && p.info.sameFile(fi) {
		return p, nil
	}
	if p != nil { // of a file that is not there any more
		p.close()
	}
	patience := c.cfg.BusyTimeout
	if c.unpinned[full] {
		patience = 0
	}
	return pinDatabase(ctx, db, patience)
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
func (c *capture) vacuumInto(ctx context.Context, t *target, to string) error {
	return c.out.createFile(to, func(f afero.File) error {
		if c.out.native {
			return c.vacuum(ctx, t, c.out.full(to), f)
		}
		temp, err := os.CreateTemp("", "atobackup-*.db") // a driver reaches no other file system
		if err != nil {
			return err
		}
		defer os.Remove(temp.Name())
		defer temp.Close()
		if err := c.vacuum(ctx, t, temp.Name(), temp); err != nil {
			return err
		}
		_, err = copyBytes(ctx, f, temp, c.moved(t))
		return err
	})
}

func (c *capture) vacuum(ctx context.Context, t *target, native string, f afero.File) error {
	fi, err := t.lstat()
	if err != nil {
		return err
	}
	conn, err := t.DB.Conn(ctx)
	if err != nil {
		return sourceError{hostBusy(err)}
	}
	defer conn.Close() // back into the host's pool
	wal, err := vacuumInto(ctx, conn, fi.sys, native, c.cfg.BusyTimeout)
	if err != nil {
		return sourceError{hostBusy(err)}
	}
	if !wal {
		return nil
	}
	// VACUUM makes a database in rollback mode of any. The two versions in
	// the header are all that marks one as WAL:
	// https://sqlite.org/fileformat.html#file_format_version_numbers.
	_, err = f.WriteAt([]byte{2, 2}, 18)
	return err
}

// copyRaw copies a database's files as they lie, with their sidecars, for
// want of better: what was committed may be in any of them. A main file that
// cannot be read is an error: sidecars are of no use without it.
func (c *capture) copyRaw(ctx context.Context, t *target, from place, to, why string) error {
	for _, suffix := range append([]string{""}, sidecars...) {
		fi, err := from.beside(suffix).lstat()
		if errors.Is(err, fs.ErrNotExist) || err == nil && !fi.isRegular() {
			continue
		}
		if err != nil {
			err = sourceError{err}
		} else {
			err = c.copyFile(ctx, t, from.beside(suffix), to+suffix, typeRaw)
		}
		if suffix != "" {
			err = c.unreadable(t, to+suffix, err)
		}
		if err != nil {
			return err
		}
	}
	c.note(CodeRawCopy, t, to, why)
	return nil
}

// record adds the entry of a database's copy, which SQLite may have written in
// an order of its own, so that there is no sum yet. In a safety snapshot a copy
// that fails SQLite's checks is taken back: it would be no way to undo a
// restore.
func (c *capture) record(ctx context.Context, to string, fi fileInfo, sum string) error {
	f, written, err := c.out.open(to)
	if err != nil {
		return err
	}
	defer f.Close() // nothing was written
	e := entry{Path: rawString(to), Type: typeDatabase, Size: written.size, SHA256: sum}
	e.setAttributes(fi)
	if sum == "" {
		if e.SHA256, err = hashOf(ctx, f); err != nil {
			return err
		}
	}
	if c.lenient {
		problems, err := checkCopy(ctx, f, e.Size, ValidateFull, nil)
		if err != nil {
			return err
		}
		if len(problems) > 0 {
			return errors.Join(sourceError{joinProblems(problems)}, c.out.remove(to))
		}
		e.sound = true
	}
	c.entries = append(c.entries, e)
	return nil
}
