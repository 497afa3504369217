package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
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
	if fi.size < 512 { // the smallest page
		return false, nil
	}
	f, _, err := at.open()
	if errors.Is(err, errNotRegular) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close() // nothing was written
	is, err := startsDatabase(f)
	if err == io.EOF || err == io.ErrUnexpectedEOF { // it was truncated meanwhile
		err = nil
	}
	return is, err
}

// copyTree copies what is in a tree. The tree must hold still as little as a
// file must: what changes is noted.
func (c *capture) copyTree(ctx context.Context, t *target) error {
	databases := make(map[string]entryType) // whose sidecars are left out
	var dirs []entry
	err := t.dir.walk(ctx, ".", func(at place, name string, fi fileInfo) error {
		to := path.Join(t.Name, name)
		switch {
		case t.layout.isHole(name) || fi.isStore(t.layout.store):
			return skip(fi)
		case fi.isDir():
			err := c.makeDir(to, fi)
			dirs = append(dirs, c.entries[len(c.entries)-1])
			return err
		case fi.isLink():
			return c.copyLink(t, at, to)
		case !fi.isRegular():
			t.skipped = append(t.skipped, name)
			return nil
		}
		for _, suffix := range sidecars {
			main, ok := strings.CutSuffix(name, suffix)
			if kind := databases[main]; ok && (kind == typeDatabase || kind == typeRaw && suffix == "-shm") {
				return nil // an index of a WAL is never data
			}
		}
		if err := c.held.check(at); err != nil {
			return err
		}
		kind, err := c.copyTreeFile(ctx, t, at, to, fi)
		databases[name] = kind
		return err
	}, func(name string, err error) error {
		if name == "." {
			return err // an empty tree is not what there was
		}
		return c.missed(t, path.Join(t.Name, name), sourceError{err})
	})
	if err != nil {
		return err
	}
	for _, e := range slices.Backward(dirs) { // writing into one changes its time
		if err := c.out.setAttributes(string(e.Path), e.perm()|0o700, e.MTime); err != nil {
			return err
		}
		if err := c.out.syncDir(string(e.Path)); err != nil {
			return err
		}
	}
	return nil
}

// copyTreeFile copies one file of a tree, and returns as what.
func (c *capture) copyTreeFile(ctx context.Context, t *target, at place, to string, fi fileInfo) (kind entryType, err error) {
	isDB := c.pins[at.full()] != nil
	if !isDB {
		if isDB, err = hasDatabaseHeader(at, fi); err != nil {
			return "", c.missed(t, to, sourceError{err})
		}
	}
	if isDB {
		err = c.copyDatabase(ctx, t, at, to)
	} else {
		err = c.copyFile(ctx, t, at, to, typeFile)
	}
	if err != nil {
		return "", c.missed(t, to, err)
	}
	e := c.entries[len(c.entries)-1]
	return e.Type, c.out.setAttributes(to, e.perm()|0o600, e.MTime)
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
	if !c.lenient || !isSourceError(err) || !isUnreadable(err) {
		return err
	}
	c.note(CodeSourceUnreadable, t, to, err.Error())
	return nil
}

// isUnreadable reports whether an error says that it is of no use to try
// again. (For want of descriptors or memory, it is.)
func isUnreadable(err error) bool {
	return errors.Is(err, fs.ErrPermission) ||
		slices.ContainsFunc(mediumErrors, func(e error) bool { return errors.Is(err, e) })
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

// A sourceReader marks the errors of a reader.
type sourceReader struct{ io.Reader }

func (r sourceReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && err != io.EOF {
		err = sourceError{err}
	}
	return n, err
}

func (c *capture) copyLink(t *target, at place, to string) error {
	link, err := at.dir.readlink(at.name)
	if err != nil {
		return c.missed(t, to, sourceError{err})
	}
	if err := c.out.symlink(link, to); err != nil {
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
		e, stable, err := c.tryCopyFile(ctx, t, from, to)
		if err != nil {
			return err
		}
		if stable || attempt == copyAttempts {
			if !stable {
				c.note(CodeFileChanged, t, to, fmt.Sprintf("changed under each of %d attempts to copy it", attempt))
			}
			e.Type = kind
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
func (c *capture) tryCopyFile(ctx context.Context, t *target, from place, to string) (e entry, stable bool, err error) {
	src, before, err := from.open()
	if err != nil {
		return e, false, sourceError{err}
	}
	defer src.Close() // nothing was written
	e = entry{Path: rawString(to)}
	e.setAttributes(before)
	hash := sha256.New()
	var written fs.FileInfo
	err = c.out.createFile(to, func(f afero.File) error {
		e.Size, err = copyBytes(ctx, io.MultiWriter(f, hash), io.LimitReader(sourceReader{src}, before.size), c.moved(t))
		if err != nil {
			return err
		}
		written, err = f.Stat()
		return err
	})
	if err != nil {
		return e, false, err
	}
	e.SHA256 = hex.EncodeToString(hash.Sum(nil))
	// What counts is the file that was opened: if another one has its name
	// by now, it was whole before.
	fi, err := src.Stat()
	if err != nil {
		return e, false, errors.Join(sourceError{err}, c.out.remove(to))
	}
	after := newFileInfo(fi)
	if e.Size != before.size {
		return e, false, nil
	}
	// A write within the same tick of the clock leaves the time as it was.
	const tick = 2 * time.Second // FAT's, the coarsest
	if after.unchanged(before) && written.ModTime().Sub(before.mtime).Abs() > tick {
		return e, true, nil
	}
	// Something was written: if all of what was copied reads the same again,
	// it was of one instant, as a log is that grew.
	again, err := hashOf(ctx, sourceReader{io.NewSectionReader(src, 0, before.size)})
	if err != nil {
		err = errors.Join(err, c.out.remove(to))
	}
	return e, again == e.SHA256, err
}

func hashOf(ctx context.Context, r io.Reader) (string, error) {
	hash := sha256.New()
	_, err := copyBytes(ctx, hash, r, func(int64) {})
	return hex.EncodeToString(hash.Sum(nil)), err
}
