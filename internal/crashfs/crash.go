package crashfs

import (
	"cmp"
	"slices"
	"time"
)

// Pending returns the effects that a power cut now may lose, in order. An
// effect that is synced, but whose directory was never made durable, is not
// among them: it is lost if the creation of the directory is.
func (fsys *FS) Pending() []Effect {
	fsys.mu.Lock()
	defer fsys.mu.Unlock()
	var free []Effect
	for _, e := range fsys.pendingEffects() {
		if !e.settled {
			free = append(free, e.Effect)
		}
	}
	return free
}

// CrashKeeping returns the file system that is left if the power is cut now
// and keep decides about each of the [FS.Pending] effects. Effects that those
// kept depend on are kept as well, for the same name; and effects in a
// directory whose creation is lost are lost. All of the new file system is
// durable; it has the options, mount points and inode numbers of fsys, and no
// handles, log, hook or faults. fsys is left as it is, and its handles work on
// in it; to make them fail, cut its power. keep must not call fsys.
func (fsys *FS) CrashKeeping(keep func(i int, e Effect) Fate) *FS {
	fsys.mu.Lock()
	defer fsys.mu.Unlock()
	all := fsys.pendingEffects()
	fates := make([]Fate, len(all))
	free := 0
	for i, e := range all {
		if !e.settled {
			fates[i] = keep(free, e.Effect)
			free++
		}
	}
	consistent(all, fates)
	return fsys.crashed(all, fates)
}

// pendingEffects returns all effects that are not durable and that matter, in
// order. Those of a file without any name, in any state a crash can lead to,
// do not.
func (fsys *FS) pendingEffects() []*effect {
	all := slices.Clone(fsys.entries)
	named := map[*inode]bool{}
	for _, e := range fsys.entries {
		for _, s := range e.slots {
			named[s.before] = true
		}
	}
	for n := range fsys.dirty {
		if n.links > 0 || named[n] {
			all = append(all, n.effects...)
		}
	}
	slices.SortFunc(all, func(a, b *effect) int { return cmp.Compare(a.seq, b.seq) })
	for i, e := range all {
		e.idx = i
	}
	return all
}

// consistent changes fates to those of a state that a journaling file system
// may be in, and that no other fates mean.
func consistent(all []*effect, fates []Fate) {
	for i, e := range slices.Backward(all) {
		if e.slots != nil && (e.settled || fates[i] != Lost) {
			fates[i] = Kept
			for _, prior := range e.after {
				keep(fates, prior)
			}
		}
	}
	lost := func(e *effect) bool { return !e.durable && fates[e.idx] == Lost }
	for i, e := range all {
		if e.slots != nil && (slices.ContainsFunc(e.after, lost) || slices.ContainsFunc(e.under, lost)) {
			fates[i] = Lost
		}
	}
	more := moreNames(all, fates)
	for i, e := range all {
		if e.slots == nil {
			fates[i] = e.normal(fates[i], e.node.links+more[e.node] == 0)
		}
	}
}

// moreNames returns how many names more or less an inode has if those of all
// that are lost are undone. It is gone with its last name, not before.
func moreNames(all []*effect, fates []Fate) map[*inode]int {
	more := map[*inode]int{}
	for i, e := range all {
		if fates[i] != Lost {
			continue
		}
		for _, s := range e.slots {
			more[s.before]++
			more[s.after]--
		}
	}
	return more
}

func keep(fates []Fate, e *effect) {
	if !e.durable {
		fates[e.idx] = Kept
	}
}

// normal returns what fate means for an effect on an inode that is gone or
// not.
func (e *effect) normal(fate Fate, gone bool) Fate {
	switch {
	case gone || fate == Lost:
		return Lost
	case e.Kind != Write || e.Dropped:
		return Kept
	case fate > 0 && int(fate) >= e.sectors():
		return Kept
	case fate < Kept && fate != Zeroed && int(Kept-fate) >= e.sectors():
		return Lost
	}
	return fate
}

// crashed builds the file system that the consistent fates of all leave.
func (fsys *FS) crashed(all []*effect, fates []Fate) *FS {
	left := newFS(fsys.opts)
	left.lastIno, left.clock, left.rofs = fsys.lastIno, fsys.clock, fsys.rofs
	c := &crash{
		left:    left,
		fates:   fates,
		undone:  map[*inode]map[string]*inode{},
		changed: map[*inode]time.Time{},
		copies:  map[*inode]*inode{},
	}
	for i, e := range slices.Backward(all) {
		if fates[i] == Lost {
			c.undo(e)
			continue
		}
		for n := range e.touched {
			c.changed[n] = later(c.changed[n], e.when)
		}
	}
	left.root = c.survivor(fsys.root)
	left.root.parent, left.root.links = left.root, 1
	return left
}

// A crash copies what survives to the file system left of it.
type crash struct {
	left    *FS
	fates   []Fate
	undone  map[*inode]map[string]*inode // entries of directories, nil: no such entry
	changed map[*inode]time.Time         // by effects that are kept
	copies  map[*inode]*inode            // one of each inode, whatever number of names it has
}

func (c *crash) undo(e *effect) {
	for _, s := range e.slots {
		if c.undone[s.dir] == nil {
			c.undone[s.dir] = map[string]*inode{}
		}
		c.undone[s.dir][s.name] = s.before
	}
}

// survivor returns the copy of n, with all below it.
func (c *crash) survivor(n *inode) *inode {
	if copied := c.copies[n]; copied != nil {
		return copied
	}
	img, changed := n.restored(c.fates), later(n.changed, c.changed[n])
	to := &inode{
		ino: n.ino, attrs: img.attrs, content: img.content, target: n.target, mount: n.mount,
		ctime: changed, changed: changed,
	}
	c.copies[n] = to
	c.left.used += to.content.size
	if !n.isDir() {
		return to
	}
	to.entries = make(map[string]*inode, len(n.entries))
	for name, child := range n.entries {
		if _, ok := c.undone[n][name]; !ok {
			c.place(to, name, child)
		}
	}
	for name, before := range c.undone[n] {
		if before != nil {
			c.place(to, name, before)
		}
	}
	return to
}

// place gives what survives of child a name in dir.
func (c *crash) place(dir *inode, name string, child *inode) {
	slot{entry: entry{dir, name}, after: c.survivor(child)}.replace()
}
