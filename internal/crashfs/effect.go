package crashfs

import (
	"fmt"
	"math"
	"time"
)

// EffectKind is what an effect changes.
type EffectKind string

const (
	Write    EffectKind = "write"
	Truncate EffectKind = "truncate"
	Attrs    EffectKind = "attributes" // mode, owner or modification time

	Create  EffectKind = "create"
	Mkdir   EffectKind = "mkdir"
	Symlink EffectKind = "symlink"
	Link    EffectKind = "link"
	Unlink  EffectKind = "unlink"
	Rmdir   EffectKind = "rmdir"
	Rename  EffectKind = "rename"
)

// An Effect is a change that is not durable yet.
type Effect struct {
	Op   int // number of the operation that made it
	Kind EffectKind
	Path string // as given to that operation
	To   string // of Rename and Link the new name
	Off  int64  // of Write; of Truncate the new size
	Len  int    // of Write, bytes

	// Dropped: a sync that failed has dropped it. See DropSync.
	Dropped bool
}

// String describes the effect for messages of tests.
func (e Effect) String() string {
	s := fmt.Sprintf("#%d %s %s", e.Op, e.Kind, e.Path)
	switch e.Kind {
	case Rename, Link:
		s += " -> " + e.To
	case Write:
		s += fmt.Sprintf(" [%d,%d)", e.Off, e.Off+int64(e.Len))
	case Truncate:
		s += fmt.Sprintf(" to %d", e.Off)
	}
	if e.Dropped {
		s += " (dropped)"
	}
	return s
}

// sectorSize is the unit that a device writes whole or not at all, in bytes.
const sectorSize = 512

// Fate is what becomes of an effect when the power is cut. For all but writes
// it is Lost, or else Kept.
type Fate int

const (
	Lost Fate = 0
	Kept Fate = -1

	// Zeroed keeps the size that a write gave the file, and not its bytes:
	// what it added to the file is zeros.
	Zeroed Fate = math.MinInt
)

// Torn keeps the first sectors that a write touches, at least one, and loses
// the others. Sectors are 512 bytes, counted from the start of the file.
func Torn(sectors int) Fate { return Fate(max(1, sectors)) }

// TornTail loses the first sectors that a write touches, at least one, and
// keeps the others.
func TornTail(sectors int) Fate { return Kept - Fate(max(1, sectors)) }

// String names the fate, and the constructor that makes it.
func (f Fate) String() string {
	switch {
	case f == Lost:
		return "lost"
	case f == Kept:
		return "kept"
	case f == Zeroed:
		return "zeroed"
	case f > 0:
		return fmt.Sprintf("torn(%d)", int(f))
	}
	return fmt.Sprintf("torn tail(%d)", int(Kept-f))
}

// An effect is an Effect with what it takes to undo or redo it. It is either
// of an inode, that is listed in inode.effects and redone over inode.stable;
// or of directory entries, listed in FS.entries and undone.
type effect struct {
	Effect
	seq  int // orders all effects of the file system
	idx  int // in the list of pendingEffects
	node *inode
	when time.Time

	// Of an inode.
	data []byte       // of Write
	set  func(*attrs) // of Attrs

	// Of directory entries.
	slots   []slot
	home    *inode    // whose sync makes it durable
	after   []*effect // pending ones that persist if this one does
	under   []*effect // pending creations of the directories; lost with them
	settled bool      // synced: durable once it is clear that after and under are
	durable bool      // nothing pending any more
	visit   int       // of the last settle
}

// sectors returns how many sectors a write touches.
func (e *effect) sectors() int {
	return int((e.Off+int64(e.Len)-1)/sectorSize - e.Off/sectorSize + 1)
}

// tearable reports whether there is more to the effect than lost and kept.
func (e *effect) tearable() bool {
	return e.Kind == Write && !e.Dropped && e.Len > 0
}

// change notes an effect on an inode, before the caller makes it, and returns
// its time.
func (fsys *FS) change(n *inode, e Effect, rest effect) time.Time {
	if n.stable == nil {
		n.stable = &image{n.attrs, n.content.snapshot()}
	}
	fsys.seq++
	e.Op = fsys.current
	rest.Effect, rest.seq, rest.node, rest.when = e, fsys.seq, n, fsys.now()
	n.effects = append(n.effects, &rest)
	n.ctime = rest.when
	fsys.dirty[n] = true
	return rest.when
}

// touched yields the inodes whose change time is that of e: also those of
// which only a name changed.
func (e *effect) touched(yield func(*inode) bool) {
	if e.slots == nil {
		yield(e.node)
		return
	}
	for _, s := range e.slots {
		for _, n := range []*inode{s.dir, s.before, s.after} {
			if n != nil && !yield(n) {
				return
			}
		}
	}
}

// redo applies a write, truncation or change of attributes to img.
func (e *effect) redo(img *image, fate Fate) {
	if fate == Lost {
		return
	}
	switch e.Kind {
	case Attrs:
		e.set(&img.attrs)
		return
	case Truncate:
		img.truncate(e.Off)
	case Write:
		e.rewrite(img, fate)
	}
	img.mtime = e.when
}

func (e *effect) rewrite(img *image, fate Fate) {
	if e.Dropped || fate == Zeroed {
		img.size = max(img.size, e.Off+int64(e.Len))
		return
	}
	lo, hi := 0, e.Len
	boundary := func(sectors Fate) int {
		return int(min(int64(e.Len), (e.Off/sectorSize+int64(sectors))*sectorSize-e.Off))
	}
	switch {
	case fate > 0:
		hi = boundary(fate)
	case fate < Kept:
		lo = boundary(Kept - fate)
	}
	img.writeAt(e.data[lo:hi], e.Off+int64(lo))
}

// restored returns what a power cut leaves of n, its effects meeting fates,
// which are indexed by effect.idx.
func (n *inode) restored(fates []Fate) image {
	whole := !n.diverged
	for _, e := range n.effects {
		whole = whole && fates[e.idx] == Kept
	}
	if n.stable == nil || whole {
		return image{n.attrs, n.content.snapshot()}
	}
	img := image{n.stable.attrs, n.stable.snapshot()}
	for _, e := range n.effects {
		e.redo(&img, fates[e.idx])
	}
	return img
}

// syncInode makes attributes and content of n durable.
func (fsys *FS) syncInode(n *inode) {
	if !n.diverged {
		n.stable = nil
	} else {
		for _, e := range n.effects {
			e.redo(n.stable, Kept)
		}
	}
	n.effects = nil
	n.changed = later(n.changed, n.ctime) // of a lost rename too: the inode is written whole
	delete(fsys.dirty, n)
}

// dropInode loses what was written to n since its last sync, but for the size
// that it gave the file, and goes on to show it.
func (fsys *FS) dropInode(n *inode) {
	for _, e := range n.effects {
		if e.Kind == Write {
			e.Dropped, e.data = true, nil
			n.diverged = true
		}
	}
}
