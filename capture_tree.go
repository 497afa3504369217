package backup

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
)

// A treeCopy is the copying of one tree.
type treeCopy struct {
	*copier // for what is not left to the crew
	dirs    []entry
	later   []string // what may be the sidecar of a database that others copy

	mu        sync.Mutex
	databases map[string]entryType // that have been copied, and as what
	idle      []*copier            // of members: their trails may be near what comes next
}

// copyTree copies what is in a tree, on all cores. Like a file, the tree need not
// hold still: what changes is noted.
func (c *copier) copyTree(ctx context.Context) error {
	tc := &treeCopy{copier: c, databases: make(map[string]entryType)}
	defer tc.dismiss()
	noted := len(c.problems)
	crew := newCrew(min(c.t.dir.cores(), c.out.cores()))
	err := crew.run(ctx, func(ctx context.Context, fail func(error)) error {
		files := &gatherer{crew: crew, work: func(files []found) {
			if err := tc.copyFiles(ctx, crew, files); err != nil {
				fail(err)
			}
		}}
		return files.gather(func() error { return tc.walk(ctx, files) })
	})
	if err == nil {
		err = tc.copyLater(ctx)
	}
	if err != nil {
		return err
	}
	slices.SortStableFunc(c.problems[noted:], func(a, b Problem) int { return cmp.Compare(a.Path, b.Path) })
	return tc.finishDirs()
}

// walk has all files that are in the tree copied, and copies the rest, but for
// what is to be copied later.
func (tc *treeCopy) walk(ctx context.Context, files *gatherer) error {
	return tc.t.dir.walk(ctx, ".", func(at place, name string, fi fileInfo) error {
		return tc.meet(ctx, files, at, name, fi)
	}, func(name string, err error) error {
		if name == "." {
			return err // an empty tree is not what there was
		}
		return tc.missed(tc.t, tc.to(name), sourceError{err})
	})
}

// to is what is called name in the tree as the snapshot calls it.
func (tc *treeCopy) to(name string) string { return below(tc.t.Name, name) }

// meet deals with what the walk through the tree comes upon.
func (tc *treeCopy) meet(ctx context.Context, files *gatherer, at place, name string, fi fileInfo) error {
	t := tc.t
	switch {
	case t.layout.isHole(name) || t.layout.isStore(fi):
		return skip(fi)
	case fi.isStaging():
		tc.note(CodeFileChanged, t, tc.to(name), "was left by a restore, and is not copied")
		return skip(fi)
	case fi.isDir():
		e, err := tc.makeDir(tc.to(name), fi)
		tc.dirs = append(tc.dirs, e)
		return err
	case fi.isLink():
		return tc.copyLink(ctx, at, tc.to(name))
	case !fi.isRegular():
		t.skipped = append(t.skipped, name)
		return nil
	case files.holds(mainOf(name)): // who copies that, copies this after it
		files.join(at, name, fi)
	case mainOf(name) != "": // what that is, others are finding out
		tc.later = append(tc.later, name)
	case tc.isPinned(at):
		files.addAlone(at, name, fi)
	default:
		files.add(at, name, fi)
	}
	return nil
}

// copyFiles copies some files of one directory, as a member of a crew.
func (tc *treeCopy) copyFiles(ctx context.Context, crew *crew, files []found) error {
	copied := tally{ctx: ctx, crew: crew, meter: tc.meter, source: tc.t.Name}
	defer copied.report()
	c := tc.hire()
	defer tc.letGo(c)
	c.moved = copied.count
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if tc.isLeftOut(f.path) {
			continue
		}
		if err := tc.put(ctx, c, f.place, f.info, f.path); err != nil {
			return err
		}
	}
	return nil
}

// hire returns a copier for a member, until it lets go of it.
func (tc *treeCopy) hire() *copier {
	tc.mu.Lock()
	defer tc.mu.Unlock()
	last := len(tc.idle) - 1
	if last < 0 {
		return tc.newCopier(tc.t, nil)
	}
	c := tc.idle[last]
	tc.idle = tc.idle[:last]
	return c
}

func (tc *treeCopy) letGo(c *copier) {
	tc.mu.Lock()
	defer tc.mu.Unlock()
	tc.idle = append(tc.idle, c)
}

// dismiss closes the copiers of the members, who have done their work.
func (tc *treeCopy) dismiss() {
	for _, c := range tc.idle {
		c.close()
	}
}

// isLeftOut reports whether a file is a sidecar of a database that has been
// copied: what it holds is in the copy. (An index of a WAL is never data.)
func (tc *treeCopy) isLeftOut(name string) bool {
	tc.mu.Lock()
	defer tc.mu.Unlock()
	kind := tc.databases[mainOf(name)]
	return kind == typeDatabase || kind == typeRaw && strings.HasSuffix(name, "-shm")
}

// put copies one file, and notes what it was.
func (tc *treeCopy) put(ctx context.Context, c *copier, at place, fi fileInfo, name string) error {
	kind, err := c.copyTreeFile(ctx, at, fi, tc.to(name))
	if err == nil && kind != typeFile {
		tc.mu.Lock()
		defer tc.mu.Unlock()
		tc.databases[name] = kind
	}
	return err
}

// copyLater copies what looks like a database's sidecar, and did not follow
// that in the walk.
func (tc *treeCopy) copyLater(ctx context.Context) error {
	read := trail{root: tc.t.dir}
	defer read.close()
	for _, name := range tc.later {
		if err := ctx.Err(); err != nil {
			return err
		}
		if tc.isLeftOut(name) {
			continue // it may be gone by now
		}
		var at place
		var fi fileInfo
		err := tc.untilThere(ctx, func() (err error) {
			if at, err = read.at(name); err == nil {
				fi, err = at.lstat()
			}
			return err
		})
		if err != nil {
			err = tc.missed(tc.t, tc.to(name), sourceError{err})
		} else {
			err = tc.put(ctx, tc.copier, at, fi, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// mainOf returns the name of the database whose sidecar a name would be, or "".
func mainOf(name string) string {
	for _, suffix := range sidecars {
		if main, ok := strings.CutSuffix(name, suffix); ok {
			return main
		}
	}
	return ""
}

// finishDirs ends what was written to the directories, which has changed their
// times.
func (tc *treeCopy) finishDirs() error {
	for _, e := range slices.Backward(tc.dirs) {
		out, err := tc.written.at(string(e.Path))
		if err != nil {
			return err
		}
		if err := out.dir.setAttributes(out.name, e.perm()|0o700, e.MTime); err != nil {
			return err
		}
		if err := out.dir.syncDir(out.name); err != nil {
			return err
		}
	}
	return nil
}
