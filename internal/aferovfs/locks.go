package aferovfs

import (
	"path/filepath"
	"reflect"
	"sync"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"
	"github.com/spf13/afero"
)

// lockTable holds the locks of all databases that are open through
// [Register]. It belongs to the package since two registrations of one file
// system must exclude each other.
var lockTable struct {
	mu    sync.Mutex
	nodes map[lockKey]*lockNode
}

// A lockKey is the identity of a database file.
type lockKey struct {
	fs   any // comparable
	path string
}

// key returns the identity of the database name. For some file systems, "a"
// and "/a" are one file; where they are two, it does no harm that the locks
// of one hold for the other.
func (v *fsVFS) key(name string) lockKey {
	return lockKey{v.id, filepath.Clean(string(filepath.Separator) + name)}
}

// A lockNode is the state of the locks on one database file.
type lockNode struct {
	key  lockKey
	refs int // guarded by lockTable.mu

	// create is held while a handle is opened. Two goroutines that create
	// one file of a MemMapFs at a time get a file each.
	create sync.Mutex

	mu     sync.Mutex
	shared int     // holders of SHARED or more
	writer *holder // the holder of RESERVED or more
	cause  error   // why an operation on the path of a sidecar last failed
}

// A holder is the share that one handle has in the locks of its file.
type holder struct {
	node  *lockNode
	level vfs.LockLevel // written under node.mu by the handle's own goroutine
}

// identity returns the comparable value that stands for fsys in the lock
// table: fallback, if fsys cannot be compared.
func identity(fsys afero.Fs, fallback any) any {
	switch fsys.(type) {
	case *afero.OsFs, afero.OsFs:
		// Pointers to values without a size may or may not be equal.
		return afero.OsFs{}
	}
	if !reflect.ValueOf(fsys).Comparable() {
		return fallback
	}
	return fsys
}

// acquireNode returns the node of a database, for one more user.
func acquireNode(key lockKey) *lockNode {
	lockTable.mu.Lock()
	defer lockTable.mu.Unlock()
	n := lockTable.nodes[key]
	if n == nil {
		if lockTable.nodes == nil {
			lockTable.nodes = map[lockKey]*lockNode{}
		}
		n = &lockNode{key: key}
		lockTable.nodes[key] = n
	}
	n.refs++
	return n
}

// release undoes acquireNode.
func (n *lockNode) release() {
	lockTable.mu.Lock()
	defer lockTable.mu.Unlock()
	if n.refs--; n.refs == 0 {
		delete(lockTable.nodes, n.key)
	}
}

// setCause remembers err for the users of the database that key names, if
// there are any.
func setCause(key lockKey, err error) {
	lockTable.mu.Lock()
	n := lockTable.nodes[key]
	lockTable.mu.Unlock()
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cause = err
}

// raise takes a higher lock, or returns BUSY at once.
func (h *holder) raise(to vfs.LockLevel) error {
	n := h.node
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case to == vfs.LOCK_SHARED && h.level == vfs.LOCK_NONE:
		if n.writer != nil && n.writer.level >= vfs.LOCK_PENDING {
			return sqlite3.BUSY
		}
		n.shared++
		n.cause = nil // a transaction begins

	case to == vfs.LOCK_RESERVED && h.level == vfs.LOCK_SHARED:
		if n.writer != nil {
			return sqlite3.BUSY
		}
		n.writer = h

	case to == vfs.LOCK_EXCLUSIVE && h.level >= vfs.LOCK_SHARED:
		if n.shared > 1 { // whoever is the writer holds SHARED, too
			if n.writer == h {
				// Let no new readers in, or the writer may wait for ever.
				h.level = vfs.LOCK_PENDING
			}
			return sqlite3.BUSY
		}
		// Straight from SHARED if there is a journal to roll back, or with
		// locking_mode=EXCLUSIVE.
		n.writer = h

	default:
		return sqlite3.IOERR_LOCK
	}
	h.level = to
	return nil
}

// lower goes back to SHARED or NONE. It returns the cause of the last failure
// on the path of a sidecar.
func (h *holder) lower(to vfs.LockLevel) (cause error) {
	n := h.node
	n.mu.Lock()
	defer n.mu.Unlock()
	if h.level <= to {
		return n.cause
	}
	if n.writer == h {
		n.writer = nil
	}
	if to == vfs.LOCK_NONE {
		n.shared--
	}
	h.level = to
	return n.cause
}

// reserved reports whether any handle holds RESERVED or more.
func (h *holder) reserved() bool {
	h.node.mu.Lock()
	defer h.node.mu.Unlock()
	return h.node.writer != nil
}
