package backup

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/afero"
)

// A target is a source as it lies on the file system. Its name is that of a
// file in dir, or "." for a tree.
type target struct {
	*Source
	dir       *dir // nil if it is missing
	name      string
	bytes     int64       // what it will take, about
	layout    *treeLayout // of a tree
	databases []string    // of a tree, the ones to pin before anything is copied
	skipped   []string    // of a tree, what is neither file, directory nor link
	release   func()      // ends its quiescence
}

// maxPins bounds the databases within trees that are pinned together, each
// of which costs a connection. Those beyond are pinned when it is their
// turn.
const maxPins = 64

// A capture copies targets into the directory of a new snapshot.
type capture struct {
	*Store
	out     *dir
	lenient bool // a safety snapshot: no state is too bad to be copied
	targets []*target

	held heldFiles

	pins     map[string]*pin // by full path
	releases []func()        // of sources that are quiescent

	entries  manifest
	problems []Problem
	done     map[string]int64 // bytes, by source, for Progress
}

// locateSources finds the sources, and measures them. The caller closes what
// it returns.
func (c *capture) locateSources(ctx context.Context, sources []Source) error {
	for i := range sources {
		t := &target{Source: &sources[i]}
		c.targets = append(c.targets, t)
		err := c.locate(ctx, t)
		if errors.Is(err, fs.ErrNotExist) && c.lenient && t.hasSidecars() {
			continue // what was committed may be in its WAL
		}
		if errors.Is(err, fs.ErrNotExist) && (t.Optional || c.lenient) {
			t.close()
			t.dir = nil
			continue
		}
		if err != nil {
			return fmt.Errorf("source %q: %s: %w", t.Name, t.Path, err)
		}
	}
	return nil
}

func (t *target) close() {
	if t.dir != nil {
		t.dir.close()
	}
}

// locate opens the target's directory and sums up its bytes.
func (c *capture) locate(ctx context.Context, t *target) (err error) {
	if t.Kind == Tree {
		t.name = "."
		t.layout = c.holes(t.Source)
		if t.dir, err = openDir(c.cfg.Fs, t.Path); err != nil {
			return err
		}
		return t.scan(ctx, c.held)
	}
	if t.dir, t.name, err = locate(c.cfg.Fs, t.Path); err != nil {
		return err
	}
	fi, err := t.dir.lstat(t.name)
	if err != nil {
		return err
	}
	if !fi.isRegular() {
		return errNotRegular
	}
	t.bytes = fi.size
	if t.DB == nil {
		if err := c.held.check(t.dir, t.name); err != nil {
			return err
		}
	}
	if t.Kind == Database {
		if wal, err := t.dir.lstat(t.name + "-wal"); err == nil {
			t.bytes += wal.size // most of it replaces pages, but it may add
		}
	}
	return nil
}

// hasSidecars reports whether a Database has left files beside it.
func (t *target) hasSidecars() bool {
	if t.Kind != Database || t.dir == nil {
		return false
	}
	return slices.ContainsFunc(sidecars, func(suffix string) bool {
		_, err := t.dir.lstat(t.name + suffix)
		return err == nil
	})
}

// scan sums up a tree and finds its databases.
func (t *target) scan(ctx context.Context, held heldFiles) error {
	return t.dir.walk(ctx, t.name, func(name string, fi fileInfo) error {
		if t.layout.isHole(name) {
			return skip(fi)
		}
		t.bytes += fi.size
		if err := held.check(t.dir, name); err != nil {
			return err
		}
		if !fi.isRegular() || len(t.databases) == maxPins || t.Quiesce != nil {
			return nil
		}
		isDB, err := hasDatabaseHeader(t.dir, name, fi)
		if isDB {
			t.databases = append(t.databases, name)
		}
		return ignoreNotExist(err)
	})
}

// skip passes over what has been found in a walk.
func skip(fi fileInfo) error {
	if fi.isDir() {
		return fs.SkipDir
	}
	return nil
}

// hasDatabaseHeader reports whether a file of a tree is a SQLite database.
func hasDatabaseHeader(d *dir, name string, fi fileInfo) (bool, error) {
	if fi.size < 512 { // the smallest page
		return false, nil
	}
	f, _, err := d.open(name)
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

// bytes is what the targets will take, about.
func (c *capture) bytes() int64 {
	var sum int64
	for _, t := range c.targets {
		sum += t.bytes
	}
	return sum
}

// run copies all targets: first it pins every database, then it copies them,
// then files and trees.
func (c *capture) run(ctx context.Context) error {
	defer c.release()
	for _, t := range c.targets {
		if err := c.pinTarget(ctx, t); err != nil {
			return fmt.Errorf("source %q: %w", t.Name, err)
		}
	}
	for _, ofDatabases := range []bool{true, false} {
		for _, t := range c.targets {
			if (t.Kind == Database) != ofDatabases || t.dir == nil {
				continue
			}
			if err := c.copyTarget(ctx, t); err != nil {
				return fmt.Errorf("copy source %q: %w", t.Name, err)
			}
		}
	}
	c.entries.sort()
	return nil
}

// release ends what pins and quiescence are left after an error.
func (c *capture) release() {
	for _, p := range c.pins {
		p.close()
	}
	clear(c.pins)
	for _, release := range c.releases {
		release()
	}
}

// pinTarget pins the databases of a target, a Database's within its
// quiescence. Those of a tree with Quiesce wait for that.
func (c *capture) pinTarget(ctx context.Context, t *target) error {
	names := t.databases
	if t.dir == nil {
		return nil
	}
	if t.Kind == Database {
		if err := c.quiesce(ctx, t); err != nil || t.DB != nil {
			return err
		}
		names = []string{t.name}
	}
	for _, name := range names {
		p, err := pinDatabase(ctx, t.dir, name, c.cfg.BusyTimeout)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && t.Kind == Database && !c.lenient {
			return fmt.Errorf("%s: %w", t.dir.full(name), err)
		}
		if err == nil {
			c.pins[t.dir.full(name)] = p
			continue
		}
		c.cfg.Logger.WarnContext(ctx, "database cannot be copied hot", "path", t.dir.full(name), "error", err)
	}
	return nil
}

// quiesce holds off the writers of a target until its copy is done, or all
// is.
func (c *capture) quiesce(ctx context.Context, t *target) error {
	if t.Quiesce == nil {
		return nil
	}
	release, err := t.Quiesce(ctx)
	if err != nil {
		return fmt.Errorf("quiesce: %w", err)
	}
	if release != nil {
		release = sync.OnceFunc(release)
		t.release = release
		c.releases = append(c.releases, release)
	}
	return nil
}

// copyTarget copies one target into a directory of its name.
func (c *capture) copyTarget(ctx context.Context, t *target) error {
	if t.Kind != Database {
		if err := c.quiesce(ctx, t); err != nil {
			return err
		}
	}
	if t.release != nil {
		defer t.release()
	}
	if t.Kind == Tree {
		return c.copyTree(ctx, t)
	}
	if err := c.makeDir(t.Name, fileInfo{mode: 0o700, mtime: c.cfg.Now()}); err != nil {
		return err
	}
	var err error
	if t.Kind == Database {
		err = c.copyDatabase(ctx, t, t.name, path.Join(t.Name, t.name))
	} else {
		err = c.copyFile(ctx, t, t.name, path.Join(t.Name, t.name), typeFile)
	}
	return errors.Join(err, c.out.syncDir(t.Name))
}

func (c *capture) makeDir(name string, fi fileInfo) error {
	if err := c.out.mkdir(name); err != nil {
		return err
	}
	e := entry{Path: rawString(name), Type: typeDir}
	e.setAttributes(fi)
	c.entries = append(c.entries, e)
	return nil
}

func (c *capture) note(code Code, t *target, name string, detail string) {
	c.problems = append(c.problems, Problem{Code: code, Source: t.Name, Path: name, Detail: detail})
}

// copyTree copies what is in a tree. The tree must hold still as little as a
// file must: what changes is noted.
func (c *capture) copyTree(ctx context.Context, t *target) error {
	hot := make(map[string]bool) // databases whose sidecars are left out
	var dirs []entry
	err := t.dir.walk(ctx, ".", func(name string, fi fileInfo) error {
		to := path.Join(t.Name, name)
		switch {
		case t.layout.isHole(name):
			return skip(fi)
		case fi.isDir():
			err := c.makeDir(to, fi)
			dirs = append(dirs, c.entries[len(c.entries)-1])
			return err
		case fi.isLink():
			return c.copyLink(t, name, to)
		case !fi.isRegular():
			t.skipped = append(t.skipped, name)
			return nil
		}
		for _, suffix := range sidecars {
			if main, ok := strings.CutSuffix(name, suffix); ok && hot[main] {
				return nil
			}
		}
		isDB, err := c.copyTreeFile(ctx, t, name, fi)
		hot[name] = isDB
		return err
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

// copyTreeFile copies one file of a tree, and reports whether it was a
// database that was copied hot.
func (c *capture) copyTreeFile(ctx context.Context, t *target, name string, fi fileInfo) (hot bool, err error) {
	to := path.Join(t.Name, name)
	isDB := c.pins[t.dir.full(name)] != nil
	if !isDB {
		if isDB, err = hasDatabaseHeader(t.dir, name, fi); err != nil {
			return false, c.vanished(t, to, err)
		}
	}
	if isDB {
		err = c.copyDatabase(ctx, t, name, to)
	} else {
		err = c.copyFile(ctx, t, name, to, typeFile)
	}
	if err != nil {
		return false, c.vanished(t, to, err)
	}
	e := c.entries[len(c.entries)-1]
	if string(e.Path) != to {
		return false, nil
	}
	return e.Type == typeDatabase, c.out.setAttributes(to, e.perm()|0o600, e.MTime)
}

// vanished notes a file that was listed and is gone, and passes on any other
// error.
func (c *capture) vanished(t *target, to string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	c.note(CodeFileVanished, t, to, "removed or renamed while the tree was copied")
	return nil
}

func (c *capture) copyLink(t *target, name, to string) error {
	link, err := t.dir.readlink(name)
	if err != nil {
		return c.vanished(t, to, err)
	}
	if err := c.out.symlink(link, to); err != nil {
		return err
	}
	c.entries = append(c.entries, entry{Path: rawString(to), Type: typeLink, Target: rawString(link)})
	return nil
}

// copyDatabase copies a live database hot. What cannot be copied so, in a
// tree or for a safety snapshot, is copied as it lies.
func (c *capture) copyDatabase(ctx context.Context, t *target, name, to string) error {
	fi, err := t.dir.lstat(name)
	if err != nil && !t.hasSidecars() {
		return err
	}
	err = c.copyHot(ctx, t, name, to)
	if err == nil {
		err = c.record(ctx, t, to, fi)
	}
	if err == nil || ctx.Err() != nil || !isSourceError(err) {
		return err
	}
	switch {
	case t.Kind != Database:
		c.note(CodeRawCopy, t, to, err.Error())
		return c.copyFile(ctx, t, name, to, typeRaw)
	case c.lenient:
		return c.copyRaw(ctx, t, name, to, err.Error())
	}
	return err
}

// A sourceError is a failure to read, as opposed to one to write.
type sourceError struct{ error }

func (e sourceError) Unwrap() error { return e.error }

func isSourceError(err error) bool {
	_, ok := errors.AsType[sourceError](err)
	return ok
}

func (c *capture) copyHot(ctx context.Context, t *target, name, to string) error {
	if t.DB != nil {
		return c.vacuumInto(ctx, t, to)
	}
	full := t.dir.full(name)
	p := c.pins[full]
	if p == nil {
		var err error
		if p, err = pinDatabase(ctx, t.dir, name, c.cfg.BusyTimeout); err != nil {
			return sourceError{fmt.Errorf("%s: %w", full, err)}
		}
	}
	delete(c.pins, full)
	defer p.close()
	return c.out.createFile(to, func(f afero.File) error {
		w := &writeErrors{File: f}
		err := p.copyTo(ctx, w, c.moved(t))
		if err != nil && w.err == nil {
			err = sourceError{err}
		}
		return err
	})
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
			return vacuumInto(ctx, t.DB, c.out.full(to), f)
		}
		temp, err := os.CreateTemp("", "atobackup-*.db") // a driver reaches no other file system
		if err != nil {
			return err
		}
		defer os.Remove(temp.Name())
		defer temp.Close()
		if err := vacuumInto(ctx, t.DB, temp.Name(), temp); err != nil {
			return err
		}
		_, err = copyBytes(ctx, f, temp, c.moved(t))
		return err
	})
}

func vacuumInto(ctx context.Context, db *sql.DB, native string, f afero.File) error {
	var mode string
	if err := db.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&mode); err != nil {
		return sourceError{err}
	}
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", native); err != nil {
		return sourceError{err}
	}
	if mode != "wal" {
		return nil
	}
	// VACUUM makes a database in rollback mode of any. The two versions in
	// the header are all that marks one as WAL:
	// https://sqlite.org/fileformat.html#file_format_version_numbers.
	_, err := f.WriteAt([]byte{2, 2}, 18)
	return err
}

// copyRaw copies a database's files as they lie, with their sidecars, for
// want of better: what was committed may be in any of them.
func (c *capture) copyRaw(ctx context.Context, t *target, name, to, why string) error {
	c.note(CodeRawCopy, t, to, why)
	for _, suffix := range append([]string{""}, sidecars...) {
		fi, err := t.dir.lstat(name + suffix)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !fi.isRegular() {
			continue
		}
		if err == nil {
			err = c.copyFile(ctx, t, name+suffix, to+suffix, typeRaw)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// copyAttempts is how often a file that changes under the copy is copied
// anew.
const copyAttempts = 3

// copyFile copies a file. One that changes meanwhile is copied anew, and
// after some attempts noted.
func (c *capture) copyFile(ctx context.Context, t *target, name, to string, kind entryType) error {
	for attempt := 1; ; attempt++ {
		e, stable, err := c.tryCopyFile(ctx, t, name, to)
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
		c.done[t.Name] -= e.Size
	}
}

// tryCopyFile copies as much as the file had when it was opened, and reports
// whether that was all of one instant.
func (c *capture) tryCopyFile(ctx context.Context, t *target, name, to string) (e entry, stable bool, err error) {
	src, before, err := t.dir.open(name)
	if err != nil {
		return e, false, err
	}
	defer src.Close() // nothing was written
	e = entry{Path: rawString(to)}
	e.setAttributes(before)
	hash := sha256.New()
	var written fs.FileInfo
	err = c.out.createFile(to, func(f afero.File) error {
		e.Size, err = copyBytes(ctx, io.MultiWriter(f, hash), io.LimitReader(src, before.size), c.moved(t))
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
	after, err := t.dir.lstat(name)
	if err != nil {
		return e, false, errors.Join(err, c.out.remove(to))
	}
	if e.Size != before.size || !after.sameFile(before) {
		return e, false, nil
	}
	// A write within the same tick of the clock leaves the time as it was.
	const tick = 2 * time.Second // FAT's, the coarsest
	if after.unchanged(before) && written.ModTime().Sub(before.mtime).Abs() > tick {
		return e, true, nil
	}
	// Something was written: if all of what was copied reads the same again,
	// it was of one instant, as a log is that grew.
	again, err := hashOf(ctx, io.NewSectionReader(src, 0, before.size))
	return e, again == e.SHA256, err
}

func hashOf(ctx context.Context, r io.Reader) (string, error) {
	hash := sha256.New()
	_, err := copyBytes(ctx, hash, r, func(int64) {})
	return hex.EncodeToString(hash.Sum(nil)), err
}

// record adds the entry of a database's copy, which SQLite wrote in an order
// of its own. In a safety snapshot a copy that fails SQLite's checks is
// taken back, as it would be no way to undo a restore.
func (c *capture) record(ctx context.Context, t *target, to string, fi fileInfo) error {
	f, written, err := c.out.open(to)
	if err != nil {
		return err
	}
	defer f.Close() // nothing was written
	e := entry{Path: rawString(to), Type: typeDatabase, Size: written.size}
	e.setAttributes(fi)
	if e.SHA256, err = hashOf(ctx, f); err != nil {
		return err
	}
	if c.lenient && t.Kind == Database {
		problems, err := checkCopy(ctx, f, e.Size, ValidateFull, nil)
		if err != nil {
			return err
		}
		if len(problems) > 0 {
			return errors.Join(sourceError{joinProblems(problems)}, c.out.remove(to))
		}
	}
	c.entries = append(c.entries, e)
	return nil
}

// moved returns a function that reports progress on a target.
func (c *capture) moved(t *target) func(int64) {
	return func(n int64) {
		c.done[t.Name] += n
		done := max(0, c.done[t.Name])
		c.cfg.Progress(Progress{Op: "create", Source: t.Name, Done: done, Total: max(done, t.bytes)})
	}
}

// state sums up what was captured of a target.
func (c *capture) state(t *target) SourceState {
	st := SourceState{Name: t.Name, Kind: t.Kind, Captured: t.dir != nil, Skipped: t.skipped}
	if !st.Captured {
		return st
	}
	st.Path = t.Name
	if t.Kind != Tree {
		st.Path = path.Join(t.Name, filepath.Base(t.name))
	}
	st.Files, st.Bytes = c.entries.sum(t.Name)
	return st
}
