package crashfs

import "slices"

// A slot is one directory entry that an operation changes.
type slot struct {
	entry
	before, after *inode // nil: no such entry
}

// enter makes an operation on directory entries take effect, and notes it as
// pending. The sync of the directory of the last slot makes it durable. What
// it concerns is node: the inode that gets, loses or changes its name.
func (fsys *FS) enter(e Effect, node *inode, slots ...slot) {
	fsys.seq++
	e.Op = fsys.current
	op := &effect{Effect: e, seq: fsys.seq, node: node, when: fsys.now(), slots: slots, home: slots[len(slots)-1].dir}
	fsys.order(op)
	fsys.entries = append(fsys.entries, op)
	for _, s := range slots {
		fsys.latest[s.entry] = op
		s.dir.mtime = op.when
		s.replace()
	}
	for n := range op.touched {
		n.ctime = op.when
	}
	switch e.Kind {
	case Create, Mkdir, Symlink:
		node.born, node.mtime = op, op.when
	}
	if old := op.removed(); old != nil {
		fsys.release(old)
	}
}

// replace gives the name to the inode that is to have it.
func (s slot) replace() {
	if s.before != nil {
		s.before.links--
		delete(s.dir.entries, s.name)
	}
	if s.after == nil {
		return
	}
	s.after.links++
	s.dir.entries[s.name] = s.after
	if s.after.isDir() {
		s.after.parent = s.dir
	}
}

// removed returns the inode that the operation takes a name from, or nil: one
// that is unlinked, or that another is renamed onto.
func (e *effect) removed() *inode {
	return e.slots[len(e.slots)-1].before
}

// order finds the pending operations that op depends on. For the reasons see
// the package comment.
func (fsys *FS) order(op *effect) {
	for _, s := range op.slots {
		op.after = appendPending(op.after, fsys.latest[s.entry])
		op.under = appendPending(op.under, s.dir.born)
	}
	if op.Kind == Link {
		op.after = appendPending(op.after, op.node.born) // or the name would be of nothing
	}
	if gone := op.removed(); gone != nil && gone.isDir() {
		for _, e := range fsys.entries {
			if slices.ContainsFunc(e.slots, func(s slot) bool { return s.dir == gone }) {
				op.after = append(op.after, e)
			}
		}
	}
	if op.Kind == Rename && op.node.isDir() && op.slots[0].dir != op.slots[1].dir {
		op.after = appendPending(op.after, fsys.lastMove)
		fsys.lastMove = op
	}
}

// appendPending appends e if there is such an effect and it is not durable.
func appendPending(list []*effect, e *effect) []*effect {
	if e == nil || e.durable {
		return list
	}
	return append(list, e)
}

// syncEntries makes durable what was done in directory dir, so far as it does
// not hang on dir's own name.
func (fsys *FS) syncEntries(dir *inode) {
	for _, e := range fsys.entries {
		if e.home == dir && !e.Dropped {
			fsys.seq++
			fsys.settle(e, dir.born, fsys.seq)
		}
	}
	fsys.absorb()
}

// settle marks e, and what it depends on, as synced: all but own, the creation
// of the directory that was synced. Visit is the number of this traversal.
func (fsys *FS) settle(e, own *effect, visit int) {
	if e.visit == visit || e.durable {
		return
	}
	e.visit, e.settled = visit, true
	for _, prior := range e.after {
		fsys.settle(prior, own, visit)
	}
	for _, mkdir := range e.under {
		if mkdir != own {
			fsys.settle(mkdir, own, visit)
		}
	}
}

// absorb takes the synced operations that hang on nothing pending from the
// list of pending ones.
func (fsys *FS) absorb() {
	pending := func(e *effect) bool { return !e.durable }
	fsys.entries = slices.DeleteFunc(fsys.entries, func(e *effect) bool {
		if !e.settled || slices.ContainsFunc(e.after, pending) || slices.ContainsFunc(e.under, pending) {
			return false
		}
		e.durable, e.after, e.under = true, nil, nil
		for n := range e.touched {
			n.changed = later(n.changed, e.when)
		}
		return true
	})
}

// dropEntries makes what is pending in directory dir deaf to later syncs.
func (fsys *FS) dropEntries(dir *inode) {
	for _, e := range fsys.entries {
		if e.home == dir {
			e.Dropped = !e.settled
		}
	}
}

// SyncAll makes everything durable, as syncfs(2) does.
func (fsys *FS) SyncAll() error {
	return fsys.do(Op{Kind: OpSyncAll, Path: "/"}, func(fault Fault) error {
		fsys.seq++
		for n := range fsys.dirty {
			if fault.Effect == DropSync {
				fsys.dropInode(n)
			} else {
				fsys.syncInode(n)
			}
		}
		for _, e := range fsys.entries {
			switch {
			case fault.Effect == DropSync:
				e.Dropped = !e.settled
			case !e.Dropped:
				fsys.settle(e, nil, fsys.seq)
			}
		}
		fsys.absorb()
		if fault.Effect == DropSync {
			return fault.err()
		}
		return nil
	})
}
