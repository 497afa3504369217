package backup

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/afero"
)

// stagingPrefix begins the names of the directories that a restore makes
// beside, or for trees in, its targets.
const stagingPrefix = ".atobackup-"

var stagingPattern = regexp.MustCompile(`^` + regexp.QuoteMeta(stagingPrefix) + `[0-9a-f]{16}-(.+)$`)

// stagedFor returns the source that a restore makes a directory of that name
// for, or "".
func stagedFor(name string) string {
	if m := stagingPattern.FindStringSubmatch(name); m != nil {
		return m[1]
	}
	return ""
}

// isStaging reports whether a restore makes such directories.
func (fi fileInfo) isStaging() bool { return fi.isDir() && stagedFor(fi.name) != "" }

// findStaged returns the name of such a directory for a source, or "". (A file of
// that name is somebody's. What cannot be looked at may be one.)
func (d *dir) findStaged(source string) string {
	names, _ := d.readNames(".") // what cannot be read is for those who need to
	for _, name := range names {
		if stagedFor(name) != source {
			continue
		}
		fi, err := d.lstat(name)
		if err == nil && fi.isStaging() || err != nil && !isGone(err) {
			return name
		}
	}
	return ""
}

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
// not be written to, as one that is mounted read-only: in the middle of the
// exchange is no time to find that out. Where mount points cannot be told, it
// is, and all is undone.
func (r *restorer) checkMountPoints(ctx context.Context) error {
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
			f, _, err := sw.dir.openRegular(ctx, name, os.O_WRONLY)
			if err != nil {
				return fmt.Errorf("source %q: a mount point, which can only be overwritten: %w", sw.Source, err)
			}
			f.Close() // nothing was written
		}
	}
	return nil
}

// stage writes the new files beside the old ones, durably, having said in
// the journal where, and then reads them back.
func (r *restorer) stage(ctx context.Context) error {
	if err := r.checkSpace(); err != nil {
		return err
	}
	if err := r.writeJournal(r.journal); err != nil {
		return err
	}
	for _, sw := range r.journal.Swaps {
		if err := r.stageSwap(ctx, sw); err != nil {
			return fmt.Errorf("stage source %q: %w", sw.Source, err)
		}
		var err error
		if sw.NewSeen, err = sw.dir.looks(ctx, sw.New, sw.staged); err != nil {
			return err
		}
	}
	return r.verifyStaged(ctx)
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

// lookAtOld notes what that looks like, right before the exchange.
func (r *restorer) lookAtOld(ctx context.Context) (err error) {
	for _, sw := range r.journal.Swaps {
		if sw.OldSeen, err = sw.dir.looks(ctx, sw.Old, func(name rawString) string { return string(name) }); err != nil {
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
	suffixes := []string{""}
	if src.Kind == Database {
		suffixes = append(suffixes, sidecars...)
	}
	for _, suffix := range suffixes {
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
		rel, err := filepath.Rel(src.Path, string(sw.Root))
		if err != nil {
			return err
		}
		if src.Kind == Tree {
			swaps[path.Join(src.Name, filepath.ToSlash(rel))] = sw
		}
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
	return &swap{
		Source: src.Name, Root: rawString(root), Staging: staging,
		New: []rawString{}, Old: []rawString{}, Made: made,
	}, err
}

func (sw *swap) add(e *entry, name string) {
	sw.entries = append(sw.entries, stagedEntry{entry: e, name: name})
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

// listOldOfTree lists what is in a directory of a tree and does not stay there.
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
	found, err := sw.dir.readDir(".")
	for _, fi := range found {
		child := path.Join(filepath.ToSlash(rel), fi.name)
		switch {
		case fi.isStaging(), layout.isHole(child), slices.Contains(layout.fixed, child):
		default:
			if err := layout.mayMove(place{sw.dir, fi.name}); err != nil {
				return err
			}
			sw.Old = append(sw.Old, rawString(fi.name))
		}
	}
	return err
}

// stageSwap copies the new entries of a swap to its staging directory.
func (r *restorer) stageSwap(ctx context.Context, sw *swap) error {
	if err := r.prepare(sw); err != nil {
		return err
	}
	if err := sw.dir.beginBatch(len(sw.entries)); err != nil {
		return err
	}
	defer sw.dir.dropBatch()
	if err := r.stageEntries(ctx, sw); err != nil {
		return err
	}
	if err := sw.dir.endBatch(); err != nil {
		return err
	}
	return errors.Join(sw.dir.syncDir(path.Join(sw.Staging, "new")), sw.dir.syncDir(sw.Staging), sw.dir.syncDir("."))
}

// stageEntries copies the new entries of a swap, and syncs them at once or at
// the end of a batch.
func (r *restorer) stageEntries(ctx context.Context, sw *swap) error {
	staging, err := sw.dir.sub(path.Join(sw.Staging, "new"))
	if err != nil {
		return err
	}
	defer staging.close()
	chown, err := r.chownIn(staging, sw)
	if err != nil {
		return err
	}
	from, to := trail{root: r.from.dir}, trail{root: staging}
	defer from.close()
	defer to.close()
	for _, e := range sw.entries {
		src, err := from.at(string(e.Path))
		if err != nil {
			return err
		}
		dst, err := to.at(e.name)
		if err != nil {
			return err
		}
		if err := r.stageEntry(ctx, e.entry, src, dst); err != nil {
			return err
		}
		if err := chown(dst); err != nil {
			return err
		}
	}
	return sw.finishDirs(&to)
}

// finishDirs ends what is written to the staged directories, which changes their
// times.
func (sw *swap) finishDirs(to *trail) error {
	for _, e := range slices.Backward(sw.entries) {
		if e.Type != typeDir {
			continue
		}
		dst, err := to.at(e.name)
		if err != nil {
			return err
		}
		if err := errors.Join(dst.dir.syncDir(dst.name), dst.setAttributes(e.entry)); err != nil {
			return err
		}
	}
	return nil
}

// prepare makes the staging directory, and the root if that is missing.
func (r *restorer) prepare(sw *swap) (err error) {
	if sw.dir == nil {
		if sw.dir, err = makeDir(r.cfg.Fs, string(sw.Root)); err != nil {
			return err
		}
		if e, ok := r.from.entries.find(sw.Source); ok && sw.isTree(r.Store) {
			if err := sw.dir.setAttributes(".", e.perm()|0o700, e.MTime); err != nil {
				return err
			}
		}
	}
	for _, name := range []string{"", "new", "old", "copy"} {
		if err := sw.dir.mkdir(path.Join(sw.Staging, name)); err != nil {
			return err
		}
	}
	return nil
}

func (sw *swap) isTree(s *Store) bool {
	src, ok := s.source(sw.Source)
	return ok && src.Kind == Tree
}

// chownIn returns a function that gives what is staged the owner of what it
// will replace.
func (r *restorer) chownIn(staging *dir, sw *swap) (func(place) error, error) {
	src, _ := r.source(sw.Source)
	_, base, err := r.swapRoot(src)
	if err != nil {
		return nil, err
	}
	owner, err := sw.owner(base)
	if err != nil {
		return nil, err
	}
	ours, err := staging.lstat(".")
	if ours.sameOwner(owner) { // has what we make in it, too
		return func(place) error { return nil }, err
	}
	return func(p place) error { return p.dir.chown(p.name, owner) }, err
}

// owner returns the file whose owner the new ones are to have: the one that
// is replaced or, if there is none, the root.
func (sw *swap) owner(base string) (fileInfo, error) {
	if base != "" {
		fi, err := sw.dir.lstat(base)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return fi, err
		}
	}
	return sw.dir.lstat(".")
}

// stageEntry copies one entry.
func (r *restorer) stageEntry(ctx context.Context, e *entry, from, to place) error {
	switch e.Type {
	case typeDir:
		return to.dir.mkdir(to.name)
	case typeLink:
		return to.dir.symlink(string(e.Target), to.name)
	}
	src, info, err := from.open(ctx)
	if err != nil {
		return err
	}
	defer src.Close() // nothing was written
	err = to.dir.createCopy(to.name, src, info.size, func(dst newFile) error {
		if err := r.copyEntry(ctx, e, dst, src, info.size); err != nil || to.dir.batch != nil {
			return err
		}
		return to.setAttributes(e) // to be synced, too: Recover goes by it
	})
	if err != nil {
		return err
	}
	return to.setAttributes(e) // afero's MemMapFs, and Windows, change the time when a file is closed
}

// copyEntry copies an entry's bytes, which will be read back.
func (r *restorer) copyEntry(ctx context.Context, e *entry, dst newFile, src afero.File, size int64) error {
	moved := r.meter.of(e.source())
	if e.SHA256 != "" {
		return copyPlain(ctx, dst, src, size, moved)
	}
	done, err := copyHashed(ctx, dst, src, size, moved)
	e.SHA256 = done.sha256 // the Python module's have none: what was read now must do
	return err
}

// setAttributes gives a staged file or directory what the snapshot has noted,
// but lets its owner read it.
func (p place) setAttributes(e *entry) error {
	return p.dir.setAttributes(p.name, e.perm()|e.leastPerm(), e.MTime)
}

// leastPerm is what it takes to read an entry back, for all but the superuser.
func (e *entry) leastPerm() fs.FileMode {
	if e.Type == typeDir {
		return 0o500
	}
	return 0o400
}
