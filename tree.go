package backup

import (
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// A treeLayout says what in a tree is not the tree's to capture or to move.
// Names are slash-separated and relative to the tree.
type treeLayout struct {
	// holes are the places that belong to other sources or to the store. A
	// Database's hole takes its sidecars with it.
	holes     []string
	databases []string // those holes that are Databases

	store fileInfo // the store's directory, if there is one

	// fixed are the directories that a restore leaves where they are, the
	// tree's own, ".", first: what leads to holes, mount points, and what
	// leads to those. Sorted.
	fixed []string
}

// holes returns the layout of a tree as far as capture needs it.
func (s *Store) holes(src *Source) *treeLayout {
	l := &treeLayout{}
	root := realPath(s.cfg.Fs, src.Path)
	add := func(p string) (string, bool) {
		rel, err := filepath.Rel(root, realPath(s.cfg.Fs, p))
		if err != nil || !filepath.IsLocal(rel) || rel == "." {
			return "", false
		}
		l.holes = append(l.holes, filepath.ToSlash(rel))
		return filepath.ToSlash(rel), true
	}
	add(s.cfg.Dir)
	if d, err := openDir(s.cfg.Fs, s.cfg.Dir); err == nil {
		l.store, _ = d.lstat(".") // one that is not to be had is not to be met with
		d.close()
	}
	for _, other := range s.cfg.Sources {
		if other.Name == src.Name {
			continue
		}
		if name, ok := add(other.Path); ok && other.Kind == Database {
			l.databases = append(l.databases, name)
		}
	}
	return l
}

// isStore reports whether a directory is the store's, whose lstat is own, by
// whatever name.
func (fi fileInfo) isStore(own fileInfo) bool {
	return fi.isDir() && fi.sys != nil && fi.sameFile(own)
}

// treeLayout returns the layout of a tree for a restore.
func (s *Store) treeLayout(src *Source) (*treeLayout, error) {
	l := s.holes(src)
	fixed := map[string]bool{".": true}
	pinParents := func(name string) {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			fixed[dir] = true
		}
	}
	for _, hole := range l.holes {
		pinParents(hole)
	}
	d, err := openDirOrNone(s.cfg.Fs, src.Path)
	if err != nil {
		return nil, err
	}
	if d != nil {
		defer d.close()
		mounts, err := d.mountsBelow()
		if err != nil {
			return nil, err
		}
		for _, name := range mounts {
			if l.isHole(name) {
				continue
			}
			pinParents(name)
			if fi, err := d.lstat(name); err == nil && fi.isDir() {
				fixed[name] = true
			}
		}
	}
	for name := range fixed {
		l.fixed = append(l.fixed, name)
	}
	slices.Sort(l.fixed)
	return l, nil
}

// isHole reports whether name is, or is in, a place that belongs to others.
func (l *treeLayout) isHole(name string) bool {
	for _, hole := range l.holes {
		if name == hole || strings.HasPrefix(name, hole+"/") {
			return true
		}
	}
	for _, db := range l.databases {
		if suffix, ok := strings.CutPrefix(name, db); ok && slices.Contains(sidecars, suffix) {
			return true
		}
	}
	return false
}
