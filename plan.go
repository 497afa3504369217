package backup

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// A stagedEntry is an entry of the snapshot on its way into a swap.
type stagedEntry struct {
	*entry
	name string    // below the root of the swap
	seen *fileInfo // when it was compared with the snapshot; nil: it was not
}

// plan says in the journal what is to be exchanged, and where.
func (r *restorer) plan() error {
	id := make([]byte, 8)
	rand.Read(id) // never fails: see crypto/rand
	for _, src := range r.sources {
		if src.Kind == Tree {
			if err := r.checkLinks(src); err != nil {
				return err
			}
		}
		swaps, err := r.planSource(src, stagingPrefix+hex.EncodeToString(id)+"-"+src.Name)
		if err != nil {
			return fmt.Errorf("source %q: %w", src.Name, err)
		}
		r.journal.Swaps = append(r.journal.Swaps, swaps...)
	}
	if err := r.assign(); err != nil {
		return err
	}
	for _, sw := range r.journal.Swaps {
		for _, e := range sw.entries {
			if !strings.Contains(e.name, "/") {
				sw.New = append(sw.New, rawString(e.name))
			}
		}
	}
	return nil
}

// checkLinks refuses to exchange a tree together with what is reached through
// a link in it: the link would lead elsewhere when the tree is restored.
func (r *restorer) checkLinks(tree *Source) error {
	root := realPath(r.cfg.Fs, tree.Path)
	layout := r.holes(tree)
	check := func(what, p string) error {
		native, ok := nativePath(r.cfg.Fs, p)
		if !ok {
			return nil
		}
		_, links, err := resolve(native)
		for _, link := range links {
			rel, relErr := filepath.Rel(root, link)
			if relErr == nil && filepath.IsLocal(rel) && !layout.isHole(filepath.ToSlash(rel)) {
				return fmt.Errorf("%s is reached through the symbolic link %s, which source %q is about to exchange: "+
					"name the Sources to restore one after the other, or configure the path that the link stands for", what, link, tree.Name)
			}
		}
		return err
	}
	for _, src := range r.sources {
		if src == tree {
			continue
		}
		if err := check(fmt.Sprintf("source %q", src.Name), src.Path); err != nil {
			return err
		}
	}
	return check("dir", r.cfg.Dir)
}

// checkSpace compares what the staged files need with what is free.
func (r *restorer) checkSpace() error {
	need := make(map[any]int64) // by file system
	var clones any              // the one on which files become clones, which need nothing
	if r.from.cloning() == clonesAlways {
		var err error
		if clones, err = r.from.device(); err != nil {
			return err
		}
	}
	for _, sw := range r.journal.Swaps {
		if err := sw.open(r.cfg.Fs); err != nil {
			return fmt.Errorf("source %q: %w", sw.Source, err)
		}
		if sw.dir == nil {
			continue // there is no telling yet
		}
		device, err := sw.dir.device()
		if err != nil {
			return fmt.Errorf("source %q: %w", sw.Source, err)
		}
		if device != clones {
			for _, e := range sw.entries {
				need[device] += e.Size
			}
		}
		if free, ok := sw.dir.free(); ok && free < need[device] {
			return fmt.Errorf("%w in %s: %d bytes are needed, %d are free", ErrNoSpace, sw.Root, need[device], free)
		}
	}
	return nil
}

// checkMountPoints refuses to go on if a file that can only be overwritten may
// not be written to, as one that is mounted read-only, or if its file system has
// no room for what it grows by: in the middle of the exchange is no time to find
// that out. Where mount points cannot be told, it is, and all is undone.
func (r *restorer) checkMountPoints(ctx context.Context) error {
	need := make(map[any]int64) // by file system
	for _, sw := range r.journal.Swaps {
		if sw.dir == nil {
			continue // nothing is mounted there
		}
		mounts, err := sw.dir.mountsBelow()
		if err != nil {
			return fmt.Errorf("source %q: %w", sw.Source, err)
		}
		for _, name := range mounts {
			if !slices.Contains(sw.New, rawString(name)) {
				continue
			}
			f, info, err := sw.dir.openRegular(ctx, name, os.O_WRONLY)
			if err != nil {
				return fmt.Errorf("source %q: a mount point, which can only be overwritten: %w", sw.Source, err)
			}
			f.Close() // nothing was written
			full := sw.dir.full(name)
			need[info.device()] += max(0, sw.entry(name).Size-info.size)
			if free, err := freeBytes(full); err == nil && free < need[info.device()] {
				return fmt.Errorf("source %q: %w in %s: %d bytes more are needed, %d are free", sw.Source, ErrNoSpace, full, need[info.device()], free)
			}
		}
	}
	return nil
}

// swapRoot returns the directory in which the entries of a source lie, and
// the name that they have or, with something appended, share.
func (s *Store) swapRoot(src *Source) (root, base string, err error) {
	if src.Kind == Tree {
		return src.Path, "", nil
	}
	p, err := followLinks(s.cfg.Fs, src.Path)
	return filepath.Dir(p), filepath.Base(p), err
}

// planSource says what there is of a source to be exchanged.
func (r *restorer) planSource(src *Source, staging string) ([]*swap, error) {
	if src.Kind == Tree {
		return r.planTree(src, staging)
	}
	root, base, err := r.swapRoot(src)
	if err != nil {
		return nil, err
	}
	sw, err := r.newSwap(src, root, staging)
	if err != nil {
		return nil, err
	}
	if src.Kind == Database {
		sw.Database = rawString(base)
	}
	return []*swap{sw}, nil
}

// listOld lists what is in place now and is to make room.
func (r *restorer) listOld() error {
	for _, sw := range r.journal.Swaps {
		sw.Old = []rawString{}
		if sw.dir == nil {
			continue
		}
		src, _ := r.source(sw.Source)
		var err error
		if src.Kind == Tree {
			err = r.listOldOfTree(sw, src)
		} else {
			err = r.listOldFile(sw, src)
		}
		if err != nil {
			return fmt.Errorf("source %q: %w", sw.Source, err)
		}
	}
	return nil
}

// fingerprintOld notes what that looks like, right before the exchange, and refuses
// to move what is not the source's.
func (r *restorer) fingerprintOld(ctx context.Context) (err error) {
	for _, sw := range r.journal.Swaps {
		if src, _ := r.source(sw.Source); src.Kind == Tree {
			if err := sw.mayMoveOld(r.holes(src)); err != nil {
				return fmt.Errorf("source %q: %w", sw.Source, err)
			}
		}
		if sw.OldSeen, err = sw.dir.fingerprints(ctx, sw.Old, func(name rawString) string { return string(name) }); err != nil {
			return err
		}
	}
	return nil
}

func (sw *swap) mayMoveOld(layout *treeLayout) error {
	for _, name := range sw.Old {
		if err := layout.mayMove(place{sw.dir, string(name)}); err != nil {
			return err
		}
	}
	return nil
}

// listOldFile lists a File, or a Database before its sidecars.
func (r *restorer) listOldFile(sw *swap, src *Source) error {
	_, base, err := r.swapRoot(src)
	if err != nil {
		return err
	}
	for _, suffix := range src.suffixes() {
		there, err := sw.dir.exists(base + suffix)
		if err != nil {
			return err
		}
		if there {
			sw.Old = append(sw.Old, rawString(base+suffix))
		}
	}
	return nil
}

// assign gives each swap in the journal the entries of the snapshot that are
// its own.
func (r *restorer) assign() error {
	for _, sw := range r.journal.Swaps {
		src, _ := r.source(sw.Source)
		if src.Kind == Tree {
			continue
		}
		_, base, err := r.swapRoot(src)
		if err != nil {
			return err
		}
		state, _ := r.from.snapshot.Source(src.Name)
		for i := range r.from.entries {
			e := &r.from.entries[i]
			if rest, ok := strings.CutPrefix(string(e.Path), src.Name+"/"); ok {
				sw.add(e, base+sidecarSuffix(rest, path.Base(state.Path), e.Type))
			}
		}
	}
	return r.assignTrees()
}

// assignTrees gives the entries of trees to the innermost directory that has
// a swap. Those directories are in place, and no entries of one.
func (r *restorer) assignTrees() error {
	swaps := make(map[string]*swap) // by the path of their root in the snapshot
	for _, sw := range r.journal.Swaps {
		src, _ := r.source(sw.Source)
		if src.Kind != Tree {
			continue
		}
		rel, err := filepath.Rel(src.Path, string(sw.Root))
		if err != nil {
			return err
		}
		swaps[path.Join(src.Name, filepath.ToSlash(rel))] = sw
	}
	for i := range r.from.entries {
		e := &r.from.entries[i]
		if swaps[e.source()] == nil {
			continue
		}
		if swaps[string(e.Path)] != nil {
			if e.Type != typeDir {
				return fmt.Errorf("%s: a directory that must stay is a %s in the snapshot", e.Path, e.Type)
			}
			continue
		}
		owner := path.Dir(string(e.Path))
		for swaps[owner] == nil {
			owner = path.Dir(owner)
		}
		swaps[owner].add(e, strings.TrimPrefix(string(e.Path), owner+"/"))
	}
	return nil
}

// sidecarSuffix returns what a raw copy has appended to the name of its
// database, which is the recorded one if that is what name begins with: a
// record is text, and a name need not be.
func sidecarSuffix(name, recorded string, kind entryType) string {
	if suffix, ok := strings.CutPrefix(name, recorded); ok {
		return suffix
	}
	for _, suffix := range sidecars {
		if kind == typeRaw && strings.HasSuffix(name, suffix) {
			return suffix
		}
	}
	return ""
}

func (r *restorer) newSwap(src *Source, root, staging string) (*swap, error) {
	made, err := missingDirs(r.cfg.Fs, root)
	if err != nil {
		return nil, err
	}
	sw := &swap{
		Source: src.Name, Root: rawString(root), Staging: staging,
		New: []rawString{}, Old: []rawString{}, Made: made,
	}
	anchor, err := sw.anchor(r.cfg.Fs)
	sw.Inode = anchor.inode
	return sw, err
}

func (sw *swap) add(e *entry, name string) {
	sw.entries = append(sw.entries, stagedEntry{entry: e, name: name})
}

// entry returns the entry that has a name; they are sorted by that.
func (sw *swap) entry(name string) *entry {
	i, _ := slices.BinarySearchFunc(sw.entries, name, func(e stagedEntry, name string) int { return cmp.Compare(e.name, name) })
	return sw.entries[i].entry
}

// planTree exchanges what is in a tree's own directory, which stays: in a
// container it is a mount point. The same goes for the directories within it
// that lead to other mount points, or to what other sources have there. So
// there is a swap for each.
func (r *restorer) planTree(src *Source, staging string) ([]*swap, error) {
	layout, err := r.treeLayout(src)
	if err != nil {
		return nil, err
	}
	for i := range r.from.entries {
		name, ok := strings.CutPrefix(string(r.from.entries[i].Path), src.Name+"/")
		if ok && layout.isHole(name) {
			return nil, fmt.Errorf("%s: the snapshot has it in this source, but it belongs to another, or to the store, now", name)
		}
	}
	var swaps []*swap
	for _, name := range layout.fixed {
		sw, err := r.newSwap(src, filepath.Join(src.Path, filepath.FromSlash(name)), staging)
		if err != nil {
			return nil, err
		}
		swaps = append(swaps, sw)
	}
	return swaps, nil
}

// listOldOfTree lists what is in a directory of a tree, and what stays there.
func (r *restorer) listOldOfTree(sw *swap, src *Source) error {
	layout, err := r.treeLayout(src)
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(src.Path, string(sw.Root))
	if err != nil {
		return err
	}
	here, err := sw.dir.lstat(".")
	if err != nil {
		return err
	}
	if layout.isStore(here) {
		return fmt.Errorf("%s is the store itself by another name: keep it out of the tree", sw.Root)
	}
	sw.Stay = layout.stayIn(filepath.ToSlash(rel))
	found, err := sw.dir.readDir(".")
	for _, fi := range found {
		stays := layout.isHole(path.Join(filepath.ToSlash(rel), fi.name)) || slices.Contains(sw.Stay, rawString(fi.name))
		if !fi.isStaging() && !stays {
			sw.Old = append(sw.Old, rawString(fi.name))
		}
	}
	return err
}
