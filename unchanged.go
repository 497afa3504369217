package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"
)

// What has not changed in a tree since an earlier snapshot is not read again.
// The new snapshot shares it with that one: as a clone or, where the source
// asks for it, as one file with two names.

// findPrevious finds, for each tree that may share something, the newest good
// snapshot of this boot that has it, and holds that until the session ends. One
// that is in use, or that cannot be read, is passed over: nothing depends on it.
// (A power cut may set the times of a file back, and leave what was written: see
// fdatasync(2). So those of before tell nothing.)
func (ss *session) findPrevious(ctx context.Context, now time.Time, clones bool, sources []Source) (map[string]*loaded, error) {
	wanted := make(map[string]bool)
	for i := range sources {
		src := &sources[i]
		if src.Kind == Tree && (clones || src.LinkUnchanged) {
			wanted[src.Name] = true
		}
	}
	previous := make(map[string]*loaded)
	boot := ss.snapshots.bootID()
	if len(wanted) == 0 || boot == "" {
		return previous, nil
	}
	names, err := ss.snapshots.readNames(".")
	if err != nil {
		return nil, err
	}
	const most = 100 // are looked at: a tree that none of them has is not worth more
	newest := formatStamp(now)
	names = slices.DeleteFunc(names, func(name string) bool { return name > newest }) // none of ours, or the clock was wrong
	for _, stamp := range slices.Backward(names[max(0, len(names)-most):]) {
		if err := ctx.Err(); err != nil || len(wanted) == 0 {
			return previous, err
		}
		l := ss.loadGood(ctx, stamp, func(m *metadata) bool {
			return m.Boot == boot && slices.ContainsFunc(m.Sources, func(s SourceState) bool { return wanted[s.Name] && s.hasTree() })
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
func (ss *session) loadGood(ctx context.Context, stamp string, wanted func(*metadata) bool) *loaded {
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
	m, snap, err := d.readMetadata(ctx, stamp)
	if m != nil && err == nil && snap.good() && wanted(m) {
		if l, problem, err := d.load(ctx, stamp); problem == nil && err == nil {
			ss.unlocks = append(ss.unlocks, unlock, d.close)
			return l
		}
	}
	d.close()
	unlock()
	return nil
}

// earlier returns the entry of an earlier snapshot that a file of a tree is
// still the same as, and that snapshot, or nil.
func (c *capture) earlier(t *target, known *cursor, to string, fi fileInfo) (*loaded, *entry) {
	from := c.previous[t.Name]
	if from == nil || c.apart[to] || !t.tellsChanges || fi.device() != t.device || from.volumes[t.Name] != t.volume {
		return nil, nil
	}
	known.in = from.entries // it is one for each source
	e, ok := known.find(to)
	if !ok || !e.describes(fi) {
		return nil, nil
	}
	return from, e
}

// volumes says where the trees were that were captured.
func (c *capture) volumes() map[string]string {
	volumes := make(map[string]string)
	for _, t := range c.targets {
		if t.Kind == Tree && t.volume != "" {
			volumes[t.Name] = t.volume
		}
	}
	return volumes
}

// describes reports whether a file of that volume is as it was when it was copied.
// While the system runs, nobody can write to it, or set its times, and leave the time of
// that as it was.
func (e *entry) describes(fi fileInfo) bool {
	return e.Inode != 0 && e.Inode == fi.inode && e.Size == fi.size && e.Mode == formatPerm(fi.mode) &&
		e.MTime.Equal(fi.mtime) && e.CTime.Equal(fi.ctime)
}

// identify notes in the entry of a file that was copied by what it can be known
// again: if its file system is one that can be trusted with that, and if it
// had last been changed so long before, by the file system's clock, that
// nobody can still have been about it. A write(2) sets the times when it
// begins, and a mapping keeps them until it is written back, which takes half a
// minute: see dirty_expire_centisecs in
// https://docs.kernel.org/admin-guide/sysctl/vm.html.
func (t *target) identify(e *entry, fi fileInfo, begun time.Time) {
	const quiet = time.Minute
	if t.tellsChanges && fi.device() == t.device && fi.isOlder(quiet, begun) {
		e.setIdentity(fi)
	}
}

// share gives the new snapshot what an earlier one has of an unchanged file,
// and reports whether that could be done. If not, the file is to be copied.
// (Whether it is what it should be is for the validation to find.)
func (c *copier) share(ctx context.Context, to string, fi fileInfo) (bool, error) {
	from, e := c.earlier(c.t, &c.known, to, fi)
	if e == nil {
		return false, nil
	}
	out, err := c.written.at(to)
	if err != nil {
		return false, err
	}
	err = c.shareFrom(ctx, from, e, out)
	if errors.Is(err, fs.ErrExist) {
		return false, nil // that is not ours to remove
	}
	if err != nil {
		return false, ignoreNotExist(out.remove()) // it may have taken effect
	}
	again := *e
	again.shared = true
	c.add(again)
	c.moved(e.Size)
	return true, nil
}

// errNotShared: it is to be copied.
var errNotShared = errors.New("cannot be shared")

func (c *copier) shareFrom(ctx context.Context, from *loaded, e *entry, out place) error {
	c.sharedWith.root = from.dir
	in, err := c.sharedWith.at(string(e.Path))
	switch {
	case err != nil:
		return err
	case c.t.LinkUnchanged:
		return in.link(out)
	case e.Size == 0: // has no blocks
		return errNotShared
	}
	return cloneTo(ctx, in, out, e)
}

// cloneTo makes out a clone of the file at in.
func cloneTo(ctx context.Context, in, out place, e *entry) error {
	src, _, err := in.open(ctx)
	if err != nil {
		return err
	}
	defer src.Close() // nothing was written
	err = out.dir.createCopy(out.name, src, e.Size, func(dst newFile) error {
		if !dst.cloned {
			return errNotShared
		}
		return nil
	})
	if err != nil {
		return err
	}
	return out.dir.setAttributes(out.name, e.perm()|0o600, e.MTime)
}

// A sharedDamage is the error of a new snapshot in which some files that are
// shared with an earlier one have come to be damaged there: the tree itself may
// still have them as they were.
type sharedDamage struct{ paths []string }

func (d sharedDamage) Error() string {
	return fmt.Sprintf("%d files that are shared with an earlier snapshot are damaged, such as %s", len(d.paths), d.paths[0])
}

// checkShared returns a sharedDamage if there is any.
func (v *verifier) checkShared(entries manifest) error {
	var damage sharedDamage
	for i := range entries {
		if e := &entries[i]; e.shared && len(v.wrong[e]) > 0 {
			damage.paths = append(damage.paths, string(e.Path))
		}
	}
	if len(damage.paths) == 0 {
		return nil
	}
	return damage
}
