package crashfs

import (
	"path/filepath"
	"strings"
	"syscall"
)

const (
	maxSymlinks = 40 // path_resolution(7)
	maxName     = 255
)

// lastLink says what becomes of a symbolic link that is the last component.
type lastLink int

const (
	followLast lastLink = iota
	keepLast            // but follow it if a slash comes after
	takeEntry           // never follow it: it is the name that matters
)

// A place is what a path leads to.
type place struct {
	entry
	node    *inode // nil if there is nothing of that name
	slash   bool   // the path ends in a slash: it must be a directory
	unnamed bool   // the path ends in ".", "..", or is the root: entry is void
}

// device returns the root of the mounted file system that what is there is on.
func (at place) device() *inode {
	if at.node.isDir() || at.node.mount {
		return at.node.device()
	}
	return at.dir.device()
}

// An entry is a name in a directory.
type entry struct {
	dir  *inode
	name string
}

// walk resolves path. Its error is a syscall.Errno.
func (fsys *FS) walk(path string, last lastLink) (place, error) {
	if path == "" {
		return place{}, syscall.ENOENT
	}
	if strings.Contains(path, "\x00") {
		return place{}, syscall.EINVAL
	}
	path = filepath.ToSlash(path[len(filepath.VolumeName(path)):])
	at := place{node: fsys.root, unnamed: true}
	rest, links := path, 0
	for {
		name, more := nextName(&rest)
		if name == "" {
			return at, nil
		}
		if at.node == nil {
			return place{}, syscall.ENOENT
		}
		var err error
		if at, err = at.node.lookup(name); err != nil {
			return place{}, err
		}
		at.slash = strings.HasPrefix(rest, "/") && !more
		if at.node == nil || !at.node.isSymlink() || !more && !last.follows(at.slash) {
			continue
		}
		if links++; links > maxSymlinks {
			return place{}, syscall.ELOOP
		}
		rest = at.node.target + rest
		at = place{node: at.dir, unnamed: true}
		if strings.HasPrefix(rest, "/") {
			at.node = fsys.root
		}
	}
}

func (l lastLink) follows(slash bool) bool {
	return l == followLast || l == keepLast && slash
}

// nextName cuts the first name from rest, and reports whether more follow.
func nextName(rest *string) (name string, more bool) {
	s := strings.TrimLeft(*rest, "/")
	end := strings.IndexByte(s, '/')
	if end < 0 {
		end = len(s)
	}
	name, *rest = s[:end], s[end:]
	return name, strings.Trim(*rest, "/") != ""
}

// lookup finds one name in n.
func (n *inode) lookup(name string) (place, error) {
	switch {
	case !n.isDir():
		return place{}, syscall.ENOTDIR
	case name == ".":
		return place{node: n, unnamed: true}, nil
	case name == "..":
		return place{node: n.parent, unnamed: true}, nil
	case len(name) > maxName:
		return place{}, syscall.ENAMETOOLONG
	}
	return place{entry: entry{n, name}, node: n.entries[name]}, nil
}

// find resolves a path that must exist.
func (fsys *FS) find(path string, last lastLink) (*inode, error) {
	at, err := fsys.findPlace(path, last)
	return at.node, err
}

func (fsys *FS) findPlace(path string, last lastLink) (place, error) {
	at, err := fsys.walk(path, last)
	switch {
	case err != nil:
		return place{}, err
	case at.node == nil:
		return place{}, syscall.ENOENT
	case at.slash && !at.node.isDir():
		return place{}, syscall.ENOTDIR
	}
	return at, nil
}
