package crashfs

import (
	"cmp"
	"slices"
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
// order. Those of a file without a name, in any state a crash can lead to, do
// not.
func (fsys *FS) pendingEffects() []*effect {
	all := slices.Clone(fsys.entries)
	named := map[*inode]bool{}
	for _, e := range fsys.entries {
		for _, s := range e.slots {
			named[s.before] = true
		}
	}
	for n := range fsys.dirty {
		if n.linked || named[n] {
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
	gone := map[*inode]bool{}
	for i, e := range all {
		if e.slots == nil {
			continue
		}
		if slices.ContainsFunc(e.after, lost) || slices.ContainsFunc(e.under, lost) {
			fates[i] = Lost
		}
		if fates[i] == Kept {
			gone[e.removed()] = true
		} else if e.node.born == e {
			gone[e.node] = true
		}
	}
	for i, e := range all {
		if e.slots == nil {
			fates[i] = e.normal(fates[i], gone[e.node])
		}
	}
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
	undone := map[*inode]map[string]*inode{}
	for i, e := range slices.Backward(all) {
		if fates[i] != Lost {
			continue
		}
		for _, s := range e.slots {
			if undone[s.dir] == nil {
				undone[s.dir] = map[string]*inode{}
			}
			undone[s.dir][s.name] = s.before
		}
	}
	left.root = left.survivor(fsys.root, undone, fates)
	left.root.parent = left.root
	return left
}

// survivor copies n and all below it to the file system left of it, with the
// entries of directories that are undone.
func (left *FS) survivor(n *inode, undone map[*inode]map[string]*inode, fates []Fate) *inode {
	img := n.restored(fates)
	c := &inode{ino: n.ino, attrs: img.attrs, content: img.content, target: n.target, mount: n.mount, linked: true}
	left.used += c.content.size
	if !n.isDir() {
		return c
	}
	c.entries = make(map[string]*inode, len(n.entries))
	place := func(name string, child *inode) {
		if child != nil {
			c.entries[name] = left.survivor(child, undone, fates)
			c.entries[name].parent = c
		}
	}
	for name, child := range n.entries {
		if _, ok := undone[n][name]; !ok {
			place(name, child)
		}
	}
	for name, before := range undone[n] {
		place(name, before)
	}
	return c
}
