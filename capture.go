package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// A target is a source as it lies on the file system.
type target struct {
	*Source
	place                    // its name is "." for a tree; no directory if it is missing
	files        int         // how many it will be, about
	bytes        int64       // what it has, about
	free         int64       // of these, what takes no space, as far as can be told
	layout       *treeLayout // of a tree
	device       any         // of a tree, on which it begins
	tellsChanges bool        // of a tree: see dir.tellsChanges
	volume       string      // of a tree: see dir.volume
	known        cursor      // of a tree: where its scan is in an earlier snapshot
	databases    []place     // of a tree, the ones to pin before anything is copied
	skipped      []string    // of a tree, what is neither file, directory nor link
	release      func()      // ends its quiescence
}

// maxPins bounds the databases within trees that are pinned together, each
// of which costs a connection. Those beyond are pinned when it is their
// turn.
const maxPins = 64

// A scanDepth is how far trees are looked into when they are located.
type scanDepth int

const (
	scanBytes scanDepth = iota // what may be a database is read
	scanNames                  // for who copies nothing, and looks for held files
	scanNothing
)

// A capture copies targets into the directory of a new snapshot.
type capture struct {
	*Store
	now     time.Time // when it began
	lenient bool      // a safety snapshot: no state is too bad to be copied
	depth   scanDepth
	targets []*target

	patience *patience // with databases that are locked, in all: writers of those that are pinned wait, too
	holding  *patience // for moments without a writer, in all

	reappearing *patience // with files that are gone: see untilThere

	clones   cloning            // where the snapshots are
	device   any                // which is there, if they can be made
	previous map[string]*loaded // by source: see findPrevious
	apart    map[string]bool    // paths that are not to be shared all the same

	out      *dir // the directory of the new one
	held     heldFiles
	releases []func() // of sources that are quiescent
	meter    *meter

	checking sync.Mutex // of copies, one after the other

	mu       sync.Mutex      // copiers add to what follows
	pins     map[string]*pin // by full path
	unpinned map[string]bool // those that could not be pinned
	entries  manifest
	problems []Problem
}

// locateSources adds a target for each source that is there, and measures it.
// close closes them, also after an error.
func (c *capture) locateSources(ctx context.Context, sources []Source) error {
	if err := c.checkApart(databasesOf(sources)); err != nil {
		return err
	}
	for i := range sources {
		t := &target{Source: &sources[i]}
		c.targets = append(c.targets, t)
		err := c.locate(ctx, t)
		if errors.Is(err, fs.ErrNotExist) && c.lenient && t.hasSidecars() {
			continue // what was committed may be in its WAL
		}
		missing := errors.Is(err, fs.ErrNotExist) && (t.Optional || c.lenient)
		if err != nil && (missing || c.unreadable(t, t.copyPath(), sourceError{err}) == nil) {
			t.close()
			t.dir = nil
			continue
		}
		if err != nil {
			return fmt.Errorf("source %q: %w", t.Name, t.named(err))
		}
	}
	return nil
}

// named gives an error the target's path, unless it names that, or something
// below it.
func (t *target) named(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok && within(e.Path, t.Path) {
		return err
	}
	return fmt.Errorf("%s: %w", t.Path, err)
}

func (t *target) close() {
	if t.dir != nil {
		t.dir.close()
	}
}

// locate opens the target's directory and sums up its bytes.
func (c *capture) locate(ctx context.Context, t *target) error {
	if t.Kind == Tree {
		return c.locateTree(ctx, t)
	}
	return c.locateFile(ctx, t)
}

func (c *capture) locateTree(ctx context.Context, t *target) (err error) {
	t.name = "."
	t.layout = c.holes(t.Source)
	if t.dir, err = openDir(c.cfg.Fs, t.Path); err != nil {
		return err
	}
	here, err := t.dir.lstat(".")
	if err != nil {
		return err
	}
	if t.layout.isStore(here) {
		return errors.New("it is the store itself by another name")
	}
	if c.depth == scanNothing {
		return nil
	}
	t.device, t.volume = here.device(), t.dir.volume()
	t.tellsChanges = t.dir.tellsChanges() && (t.volume != "" || !t.dir.native)
	return c.scan(ctx, t)
}

func (c *capture) locateFile(ctx context.Context, t *target) (err error) {
	if t.dir, t.name, err = locate(c.cfg.Fs, t.Path); err != nil {
		return err
	}
	var fi fileInfo
	err = c.untilThere(ctx, func() (err error) {
		fi, err = t.lstat()
		return err
	})
	if err != nil {
		return err
	}
	if !fi.isRegular() {
		return &fs.PathError{Op: "open", Path: t.full(), Err: errNotRegular}
	}
	t.bytes = fi.size
	if t.DB == nil {
		if c.canClone(fi) {
			t.free = fi.size
		}
		if err := c.held.checkDatabase(t.place); err != nil {
			return err
		}
	}
	if t.Kind == File && !c.lenient {
		isDB, err := hasDatabaseHeader(ctx, t.place, fi)
		if isDB {
			err = &fs.PathError{Op: "open", Path: t.full(), Err: errDatabaseAsFile}
		}
		if isGone(err) {
			err = nil // it was there: who copies it waits for it to come back
		}
		return err
	}
	if t.Kind == Database {
		if wal, err := t.beside("-wal").lstat(); err == nil {
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
		_, err := t.beside(suffix).lstat()
		return err == nil
	})
}

// scan sums up a tree and finds its databases.
func (c *capture) scan(ctx context.Context, t *target) error {
	crew := newCrew(t.dir.cores())
	err := crew.run(ctx, func(ctx context.Context, fail func(error)) error {
		candidates := &gatherer{crew: crew, work: func(files []found) {
			for _, f := range files {
				if err := c.findDatabase(ctx, t, f); err != nil {
					fail(err)
				}
			}
		}}
		return candidates.gather(func() error {
			return t.dir.walk(ctx, t.name, func(at place, name string, fi fileInfo) error {
				return c.count(t, candidates, at, name, fi)
			}, c.laterNoted)
		})
	})
	slices.SortFunc(t.databases, func(a, b place) int { return cmp.Compare(a.name, b.name) })
	t.databases = t.databases[:min(len(t.databases), maxPins)]
	return err
}

// count adds what a walk through a tree comes upon to its sum, and to the
// candidates what may be a database that is to be pinned.
func (c *capture) count(t *target, candidates *gatherer, at place, name string, fi fileInfo) error {
	if t.layout.isHole(name) || t.layout.isStore(fi) || fi.isStaging() {
		return skip(fi)
	}
	t.files++
	t.bytes += fi.size
	_, same := c.earlier(t, &t.known, below(t.Name, name), fi)
	if same != nil || c.canClone(fi) {
		t.free += fi.size
	}
	if err := c.held.check(at); err != nil {
		return err
	}
	if c.depth == scanBytes && same == nil && t.Quiesce == nil && fi.isOfPages() && !isInSnapshot(t.Path+"/"+name) {
		candidates.add(at, name, fi)
	}
	return nil
}

// isOfPages reports whether a file has the size of a database: all sizes of
// pages are multiples of the smallest.
func (fi fileInfo) isOfPages() bool {
	return fi.isRegular() && fi.size >= leastDatabase && fi.size%leastDatabase == 0
}

// findDatabase notes a file of a tree if it is a database, as a member of a
// crew.
func (c *capture) findDatabase(ctx context.Context, t *target, f found) error {
	if ctx.Err() != nil {
		return nil
	}
	if err := c.held.check(f.place); err != nil { // what has the name may have come since
		return err
	}
	isDB, err := hasDatabaseHeader(ctx, f.place, c.held.unseen(f.info))
	if isDB {
		c.mu.Lock()
		defer c.mu.Unlock()
		t.databases = append(t.databases, place{t.dir, f.path}) // that one stays open
	}
	return c.laterNoted(f.path, err)
}

// laterNoted passes over what will be noted when it is not copied. A tree
// that cannot be listed at all is none that is copied.
func (c *capture) laterNoted(name string, err error) error {
	if name != "." && (isGone(err) || c.lenient && isOfMedium(err)) {
		return nil
	}
	return err
}

// canClone reports whether the copy of a file can be a clone, as far as can be
// told.
func (c *capture) canClone(fi fileInfo) bool {
	return c.clones == clonesAlways && fi.isRegular() && fi.device() == c.device
}

// space is what the targets will take, about.
func (c *capture) space() int64 {
	var sum int64
	for _, t := range c.targets {
		sum += t.bytes - t.free
	}
	return sum
}

// run copies all targets: first it pins every database, then it copies them,
// then files and trees. What it leaves is durable once the batch of c.out has
// ended.
func (c *capture) run(ctx context.Context) error {
	defer c.release()
	files := 0
	for _, t := range c.targets {
		files += t.files
		if t.layout != nil {
			t.layout.addStore(c.out)
		}
	}
	c.entries = make(manifest, 0, files)
	if err := c.out.beginBatch(files); err != nil {
		return err
	}
	c.held = findHeldFiles() // the scans took their time
	for _, t := range c.targets {
		c.foldLogs(ctx, t)
	}
	for _, t := range c.targets {
		if err := c.pinTarget(ctx, t); err != nil {
			return fmt.Errorf("source %q: %w", t.Name, err)
		}
	}
	if err := c.out.checkSpace(c.space()); err != nil { // by now it is known what can be cloned
		return err
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

// release ends what pins and quiescence are left, as after an error.
func (c *capture) release() {
	for _, p := range c.pins {
		p.close()
	}
	clear(c.pins)
	for _, release := range c.releases {
		defer release() // all of them, if one panics
	}
}

// pinTarget pins the databases of a target, a Database's within its
// quiescence. Those of a tree with Quiesce wait for that.
func (c *capture) pinTarget(ctx context.Context, t *target) error {
	databases := t.databases
	if t.dir == nil {
		return nil
	}
	if t.Kind == Database {
		if err := c.quiesce(ctx, t); err != nil || t.DB != nil {
			return err
		}
		databases = []place{t.place}
	}
	for _, db := range databases {
		if err := findHeldFiles().checkDatabase(db); err != nil { // Quiesce took its time, and so did those before
			return err
		}
		p, err := pinDatabase(ctx, db, c.patience, c.holding)
		if err == nil {
			c.pins[db.full()] = p
			if !p.still && c.canClone(p.info) {
				t.free -= p.info.size // it will be copied page by page
			}
			continue
		}
		c.unpinned[db.full()] = true
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if t.Kind == Database && !c.mayCopyRaw(err) {
			return fmt.Errorf("%s: %w", db.full(), err)
		}
		c.cfg.Logger.WarnContext(ctx, "database cannot be copied hot", "path", db.full(), "error", err)
	}
	return nil
}

// foldLogs prepares the databases of a target to be copied as files. For a
// safety snapshot, that of a service that is stopped, they are left alone.
func (c *capture) foldLogs(ctx context.Context, t *target) {
	if t.dir == nil || c.lenient {
		return
	}
	databases := t.databases
	if t.Kind == Database && t.DB == nil {
		databases = []place{t.place}
	}
	for _, db := range databases {
		if c.held.checkDatabase(db) == nil { // else it will be refused
			foldLog(ctx, db)
		}
	}
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
		c.held = findHeldFiles() // that took its time, and so did the sources before
	}
	if t.release != nil {
		defer t.release()
	}
	to := c.newCopier(t, c.meter.of(t.Name))
	defer to.close()
	if t.Kind == Tree {
		return to.copyTree(ctx)
	}
	return to.copyAlone(ctx)
}

// copyAlone copies a Database or a File into a directory of its own.
func (c *copier) copyAlone(ctx context.Context) error {
	t, to := c.t, c.t.copyPath()
	if _, err := c.makeDir(t.Name, fileInfo{mode: 0o700, mtime: c.now}); err != nil {
		return err
	}
	var err error
	if t.Kind == Database {
		_, err = c.copyDatabase(ctx, t.place, to)
		err = c.unreadable(t, to, err)
	} else if err = c.held.check(t.place); err == nil {
		_, err = c.copyFile(ctx, t.place, fileInfo{}, to, typeFile)
		err = c.missed(t, to, err)
	}
	if last := len(c.entries) - 1; err == nil && string(c.entries[last].Path) == t.Name {
		// Nothing came of it: a restore must not take that for "there was none".
		c.entries = c.entries[:last]
		return c.out.remove(t.Name)
	}
	return errors.Join(err, c.out.syncDir(t.Name))
}

// copyPath is where the target is copied to, in the snapshot.
func (t *target) copyPath() string {
	if t.Kind == Tree {
		return t.Name
	}
	return path.Join(t.Name, filepath.Base(t.Path)) // the host's name for it, also of a link
}

func (c *copier) makeDir(name string, fi fileInfo) (entry, error) {
	e := entry{Path: rawString(name), Type: typeDir}
	e.setAttributes(fi)
	out, err := c.written.at(name)
	if err == nil {
		err = out.dir.mkdir(out.name)
	}
	if err == nil {
		c.add(e)
	}
	return e, err
}

// add adds an entry to the manifest.
func (c *capture) add(e entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries = append(c.entries, e)
}

func (c *capture) note(code Code, t *target, name string, detail string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.problems = append(c.problems, Problem{Code: code, Source: t.Name, Path: name, Detail: detail})
}

// isPinned reports whether a file is a database that waits to be copied.
func (c *capture) isPinned(at place) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pins) > 0 && c.pins[at.full()] != nil
}

// state sums up what was captured of a target.
func (c *capture) state(t *target) SourceState {
	_, captured := c.entries.find(t.Name)
	st := SourceState{Name: t.Name, Kind: t.Kind, Captured: captured, Skipped: t.skipped}
	if !captured {
		return st
	}
	st.Path = t.copyPath()
	st.Files, st.Bytes = c.entries.sum(t.Name)
	return st
}
