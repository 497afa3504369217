package crashfs

import (
	"io/fs"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/afero"
)

// Options are the properties of a new [FS].
type Options struct {
	// Now gives the times of files. It must not call the FS. If nil, a clock
	// that starts at the beginning of 2026 and is a millisecond later each
	// time it is asked.
	Now func() time.Time

	// Capacity is how many bytes all files together may have. If zero, there
	// is no limit.
	Capacity int64

	// RawRename makes Rename what rename(2) is, which lets a directory take
	// the place of an empty one. Without, it is like [os.Rename], which
	// refuses any directory as the new name, with EEXIST.
	RawRename bool
}

// An FS is a file system in memory. It is safe for concurrent use. Its paths
// are separated by slashes, on Windows by backslashes too; one that does not
// begin with a slash begins at the root all the same.
type FS struct {
	opts Options

	// mu guards all below and every inode and handle of the file system.
	mu      sync.Mutex
	root    *inode
	lastIno ino
	clock   time.Time // of the default Options.Now
	used    int64     // bytes of all files with a name or a handle
	rofs    bool

	log     []Op
	current int // number of the operation under way
	hook    func(Op) Fault
	faults  []*armedFault
	off     bool // the power is cut

	seq      int               // of the latest effect
	dirty    map[*inode]bool   // inodes with effects
	entries  []*effect         // pending operations on directory entries, in order
	latest   map[entry]*effect // the last operation on each name, nil if before a crash
	lastMove *effect           // the last that gave a directory another parent
}

var (
	_ afero.Fs        = (*FS)(nil)
	_ afero.Symlinker = (*FS)(nil)
)

// New returns a file system that has nothing but its root directory.
func New(opts Options) *FS {
	fsys := newFS(opts)
	fsys.clock = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	fsys.root = fsys.newInode(fs.ModeDir | 0o755)
	fsys.root.parent = fsys.root
	fsys.root.links = 1
	now := fsys.now()
	fsys.root.mtime, fsys.root.ctime, fsys.root.changed = now, now, now
	return fsys
}

func newFS(opts Options) *FS {
	return &FS{opts: opts, dirty: map[*inode]bool{}, latest: map[entry]*effect{}}
}

// Name returns the name of this kind of file system.
func (fsys *FS) Name() string { return "crashfs" }

// Clone returns a copy of fsys as it is now, all of it durable, with an empty
// log and no faults. Options, mount points and being read-only are copied.
// Tests build a file system once, and run what they test on clones.
func (fsys *FS) Clone() *FS {
	return fsys.CrashKeeping(func(int, Effect) Fate { return Kept })
}

// SetCapacity sets how many bytes all files together may have; 0 is no limit.
func (fsys *FS) SetCapacity(bytes int64) {
	fsys.mu.Lock()
	defer fsys.mu.Unlock()
	fsys.opts.Capacity = bytes
}

// MountReadOnly makes every change fail with EROFS from now on.
func (fsys *FS) MountReadOnly() {
	fsys.mu.Lock()
	defer fsys.mu.Unlock()
	fsys.rofs = true
}

// MountWritable undoes [FS.MountReadOnly].
func (fsys *FS) MountWritable() {
	fsys.mu.Lock()
	defer fsys.mu.Unlock()
	fsys.rofs = false
}

// SetMount makes the existing file or directory at path a mount point, as in
// a container: removing or renaming it, or renaming onto it, fails with EBUSY,
// and renaming between what is below it and what is not, with EXDEV.
func (fsys *FS) SetMount(path string) error {
	fsys.mu.Lock()
	defer fsys.mu.Unlock()
	at, err := fsys.walk(path, followLast)
	if err == nil && at.node == nil {
		err = syscall.ENOENT
	}
	if err != nil {
		return &fs.PathError{Op: "mount", Path: path, Err: err}
	}
	at.node.mount = true
	return nil
}

// Free returns how many more bytes the file system that holds path can take.
// Without a capacity, its error is ENOSYS, which is [errors.ErrUnsupported].
func (fsys *FS) Free(path string) (int64, error) {
	var free int64
	err := fsys.do(Op{Kind: OpFree, Path: path}, func(Fault) error {
		at, err := fsys.walk(path, followLast)
		switch {
		case err != nil:
			return err
		case at.node == nil:
			return syscall.ENOENT
		case fsys.opts.Capacity == 0:
			return syscall.ENOSYS
		}
		free = fsys.free()
		return nil
	})
	return free, err
}

// free returns how many bytes of the capacity are left.
func (fsys *FS) free() int64 {
	if fsys.opts.Capacity == 0 {
		return maxFileSize
	}
	return max(0, fsys.opts.Capacity-fsys.used)
}

func (fsys *FS) now() time.Time {
	if fsys.opts.Now != nil {
		return fsys.opts.Now()
	}
	fsys.clock = fsys.clock.Add(time.Millisecond)
	return fsys.clock
}

// newInode returns an inode that has no name and no times yet: see enter.
func (fsys *FS) newInode(mode fs.FileMode) *inode {
	fsys.lastIno++
	n := &inode{ino: fsys.lastIno, attrs: attrs{mode: mode}}
	if n.isDir() {
		n.entries = map[string]*inode{}
	}
	return n
}

// release gives back the space of a file that has neither name nor handle.
func (fsys *FS) release(n *inode) {
	if n.links == 0 && n.opens == 0 {
		fsys.used -= n.content.size
	}
}
