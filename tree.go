package backup

import (
	"context"
	"fmt"
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

	store []fileInfo // the directories of the store, as far as there are any

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
	for _, dir := range []string{s.cfg.Dir, filepath.Join(s.cfg.Dir, snapshotsName)} {
		if d, err := openDir(s.cfg.Fs, dir); err == nil { // one that is not to be had is not to be met with
			l.addStore(d)
			d.close()
		}
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

// isInSnapshot reports whether a path leads into a snapshot, of whatever store.
// What is there changes no more. To open a database in it as a live one would
// leave files beside it, and that snapshot would fail validation.
func isInSnapshot(p string) bool {
	if !strings.Contains(p, snapshotsName) { // as most do not
		return false
	}
	elements := strings.Split(filepath.ToSlash(p), "/")
	for i, stamp := range elements[1:] {
		if elements[i] == snapshotsName && stampPattern.MatchString(stamp) {
			return true
		}
	}
	return false
}

// addStore has a directory of the store known by its identity.
func (l *treeLayout) addStore(d *dir) {
	if fi, err := d.lstat("."); err == nil && fi.isNative {
		l.store = append(l.store, fi)
	}
}

// isStore reports whether a directory is one of the store's, by whatever name:
// that of a bind mount, say, of the store or of what it lies in.
func (l *treeLayout) isStore(fi fileInfo) bool {
	return fi.isDir() && fi.isNative && slices.ContainsFunc(l.store, fi.sameFile)
}

// mayMove refuses what is, or leads to, a directory of the store's, or one that
// a restore has made: a snapshot of the tree has neither, and whoever needs
// them looks for them where they are.
func (l *treeLayout) mayMove(at place) error {
	return at.dir.walk(context.Background(), at.name, func(at place, _ string, fi fileInfo) error {
		if l.isStore(fi) {
			return fmt.Errorf("%s is the store itself by another name: keep it out of the tree", at.full())
		}
		if fi.isStaging() {
			return fmt.Errorf("%s was left by a restore: have its store recover it, or move it out of the tree", at.full())
		}
		return nil
	}, exceptDamage) // which is for those who need to read it
}

// treeLayout returns the layout of a tree for a restore.
func (s *Store) treeLayout(src *Source) (*treeLayout, error) {
	l := s.holes(src)
	fixed := map[string]bool{".": true}
	pinParents := func(name string) {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if !l.isHole(dir) { // it, and what is in it, is for who has it
				fixed[dir] = true
			}
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

// stayIn returns the names in one of the fixed directories, be there anything or not,
// that a restore leaves alone: holes, and what leads to them or is mounted there.
func (l *treeLayout) stayIn(dir string) []rawString {
	names := []rawString{}
	for _, name := range slices.Concat(l.holes, l.fixed) {
		if name == "." || path.Dir(name) != dir {
			continue
		}
		names = append(names, rawString(path.Base(name)))
		if slices.Contains(l.databases, name) {
			for _, suffix := range sidecars {
				names = append(names, rawString(path.Base(name)+suffix))
			}
		}
	}
	return names
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
