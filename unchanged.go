package backup

import (
	"context"
	"errors"
	"slices"

	"github.com/spf13/afero"
)

// What has not changed in a tree since an earlier snapshot is not read again.
// The new snapshot shares it with that one: as a clone or, where the source
// asks for it, as one file with two names.

// findPrevious finds, for each tree that may share something, the newest good
// snapshot that has it, and holds that until the session ends. One that is in
// use, or that cannot be read, is passed over: nothing depends on it.
func (ss *session) findPrevious(ctx context.Context, clones bool, sources []Source) (map[string]*loaded, error) {
	wanted := make(map[string]bool)
	for i := range sources {
		src := &sources[i]
		if src.Kind == Tree && (clones || src.LinkUnchanged) {
			wanted[src.Name] = true
		}
	}
	previous := make(map[string]*loaded)
	if len(wanted) == 0 {
		return previous, nil
	}
	names, err := ss.snapshots.readNames(".")
	if err != nil {
		return nil, err
	}
	for _, stamp := range slices.Backward(names) {
		if err := ctx.Err(); err != nil || len(wanted) == 0 {
			return previous, err
		}
		l := ss.loadGood(stamp, func(snap *Snapshot) bool {
			return slices.ContainsFunc(snap.Sources, func(s SourceState) bool { return wanted[s.Name] && s.hasTree() })
		})
		if l == nil {
			continue
		}
		for _, s := range l.snapshot.Sources {
			if wanted[s.Name] && s.hasTree() {
				previous[s.Name] = l
				delete(wanted, s.Name)
			}
		}
	}
	return previous, nil
}

func (s *SourceState) hasTree() bool { return s.Captured && s.Kind == Tree }

// loadGood opens a snapshot for as long as the session lasts, if it is a good
// one, and wanted. Otherwise it returns nil.
func (ss *session) loadGood(stamp string, wanted func(*Snapshot) bool) *loaded {
	t, err := parseStamp(stamp)
	if err != nil {
		return nil
	}
	unlock, err := ss.locks.tryLock(ss.root, snapshotLock(t), shared)
	if err != nil {
		return nil
	}
	d, err := ss.snapshots.sub(stamp)
	if err != nil {
		unlock()
		return nil
	}
	m, snap, problem := d.readMetadata(stamp)
	if m != nil && problem == nil && snap.good() && wanted(snap) {
		if l, problem := d.load(stamp); problem == nil {
			ss.unlocks = append(ss.unlocks, unlock, d.close)
			return l
		}
	}
	d.close()
	unlock()
	return nil
}

// unchanged returns the entry of an earlier snapshot that a file of a tree is
// still the same as, and that snapshot, or nil.
func (c *capture) unchanged(t *target, to string, fi fileInfo) (*loaded, *entry) {
	from := c.previous[t.Name]
	if from == nil {
		return nil, nil
	}
	e, ok := from.entries.find(to)
	if !ok || !e.isUnchanged(fi) {
		return nil, nil
	}
	return from, e
}

// isUnchanged reports whether a file is as it was when it was copied. Nobody
// can write to it, or set its times, and leave the time of that as it was.
func (e *entry) isUnchanged(fi fileInfo) bool {
	return e.Inode != 0 && e.Inode == fi.inode && e.Size == fi.size &&
		e.MTime.Equal(fi.mtime) && e.CTime.Equal(fi.ctime)
}

// share gives the new snapshot what an earlier one has of an unchanged file,
// and reports whether that could be done. If not, the file is to be copied.
// (Whether it is what it should be is for the validation to find.)
func (c *capture) share(t *target, to string, fi fileInfo) (bool, error) {
	from, e := c.unchanged(t, to, fi)
	if e == nil {
		return false, nil
	}
	out, err := c.at(to)
	if err != nil {
		return false, err
	}
	if err := c.shareFrom(from, e, t, out); err != nil {
		return false, ignoreNotExist(out.remove()) // it may have taken effect
	}
	again := *e
	again.shared = true
	c.entries = append(c.entries, again)
	c.moved(t)(e.Size)
	return true, nil
}

// errNotShared: it is to be copied.
var errNotShared = errors.New("cannot be shared")

func (c *capture) shareFrom(from *loaded, e *entry, t *target, out place) error {
	if c.shared.root != from.dir {
		c.shared.close()
		c.shared.root = from.dir
	}
	in, err := c.shared.at(string(e.Path))
	if err != nil {
		return err
	}
	if t.LinkUnchanged {
		return in.link(out)
	}
	return cloneTo(in, out, e)
}

// cloneTo makes out a clone of the file at in.
func cloneTo(in, out place, e *entry) error {
	src, _, err := in.open()
	if err != nil {
		return err
	}
	defer src.Close() // nothing was written
	err = out.dir.createFile(out.name, func(dst afero.File) error {
		cloned, err := cloneFile(dst, src, e.Size)
		if err == nil && !cloned {
			err = errNotShared
		}
		return err
	})
	if err != nil {
		return err
	}
	return out.dir.setAttributes(out.name, e.perm()|0o600, e.MTime)
}

// errSharedDamage: what is shared with an earlier snapshot has come to be
// damaged there.
var errSharedDamage = errors.New("what it shares with an earlier snapshot is damaged")

// checkShared returns errSharedDamage if what is wrong with a new snapshot is
// so with what it shares: the tree itself may still have that as it was.
func (v *verifier) checkShared(entries manifest) error {
	for i := range entries {
		if e := &entries[i]; e.shared && len(v.wrong[e]) > 0 {
			return errSharedDamage
		}
	}
	return nil
}
