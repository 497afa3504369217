package crashfs

import (
	"io/fs"
	"maps"
	"slices"
	"time"
)

// ino is the number of an inode. A file has the same number for life, also
// after a power cut, and no other file ever gets it.
type ino uint64

// attrs are what Chmod, Chown and Chtimes set, and the type bits.
type attrs struct {
	mode     fs.FileMode
	mtime    time.Time
	uid, gid int
}

// An inode is a file, directory or symbolic link. Its fields are guarded by
// the mutex of its FS.
type inode struct {
	ino ino
	attrs
	ctime   time.Time         // of the last change of any kind, or of a name of it
	content content           // files
	entries map[string]*inode // directories
	parent  *inode            // directories; the root is its own
	target  string            // symbolic links

	links int  // names; of a directory, 1 or 0
	opens int  // handles: it takes up space while it has a name or one of them
	mount bool // see FS.SetMount

	// changed is the ctime that a power cut leaves at least: of what is durable.
	changed time.Time

	// stable is what is durable of attrs and content, if that may differ from
	// what they are; effects are what happened to them since.
	stable  *image
	effects []*effect

	// diverged: a failed sync has dropped effects, so that stable and the
	// remaining effects do not add up to what the inode shows.
	diverged bool

	// born is the creation of the inode's first name; nil if that was before a
	// crash.
	born *effect
}

// An image is what fsync of an inode makes durable.
type image struct {
	attrs
	content
}

func (n *inode) isDir() bool     { return n.mode.IsDir() }
func (n *inode) isSymlink() bool { return n.mode.Type() == fs.ModeSymlink }

// within reports whether directory n is dir or below it.
func (n *inode) within(dir *inode) bool {
	for ; n != dir; n = n.parent {
		if n == n.parent {
			return false
		}
	}
	return true
}

// device returns the root of the mounted file system that directory n is in.
func (n *inode) device() *inode {
	for !n.mount && n != n.parent {
		n = n.parent
	}
	return n
}

// names returns the names in directory n, sorted.
func (n *inode) names() []string {
	return slices.Sorted(maps.Keys(n.entries))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (n *inode) size() int64 {
	if n.isSymlink() {
		return int64(len(n.target))
	}
	return n.content.size
}

// A fileInfo describes an inode as it was when asked.
type fileInfo struct {
	name string
	size int64
	attrs
	ctime time.Time
	ino   ino
	links int
}

var (
	_ fs.FileInfo = fileInfo{}
	_ fs.DirEntry = fileInfo{}
)

func (n *inode) info(name string) fileInfo {
	return fileInfo{name: name, size: n.size(), attrs: n.attrs, ctime: n.ctime, ino: n.ino, links: n.links}
}

func (i fileInfo) Name() string               { return i.name }
func (i fileInfo) Size() int64                { return i.size }
func (i fileInfo) Mode() fs.FileMode          { return i.mode }
func (i fileInfo) Type() fs.FileMode          { return i.mode.Type() }
func (i fileInfo) ModTime() time.Time         { return i.mtime }
func (i fileInfo) IsDir() bool                { return i.mode.IsDir() }
func (i fileInfo) Info() (fs.FileInfo, error) { return i, nil }
func (i fileInfo) String() string             { return fs.FormatFileInfo(i) }

// SameFile reports whether a and b describe the same file of one FS, or of an
// FS and what a power cut left of it. ([os.SameFile] knows only the
// descriptions that package os itself made.)
func SameFile(a, b fs.FileInfo) bool {
	x, ok := a.(fileInfo)
	y, ok2 := b.(fileInfo)
	return ok && ok2 && x.ino == y.ino
}
