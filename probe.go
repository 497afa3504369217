package backup

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// What a restore does to find out that the service is running all the same.

// probeSource refuses to go on if a database of a source is seen to be open.
func (s *Store) probeSource(ctx context.Context, src *Source) error {
	if src.Kind == File {
		return nil
	}
	var running error
	err := s.eachLive(ctx, src, func(at place, name string, fi fileInfo) error {
		if src.Kind == Tree && isInSnapshot(src.Path+"/"+name) {
			return nil
		}
		isDB, err := hasDatabaseHeader(ctx, at, fi)
		if err == nil && isDB && fi.isRegular() {
			running = probeRunning(ctx, at)
			return running
		}
		return onlyShortage(err)
	})
	if running == nil && isShortage(err) {
		return err
	}
	return running
}

// eachLive calls fn for all that there is of a source: a File, a Database with
// its sidecars, or what is in a Tree and neither a restore's nor anybody
// else's.
func (s *Store) eachLive(ctx context.Context, src *Source, fn walkFunc) error {
	root, base, err := s.swapRoot(src)
	if err != nil {
		return err
	}
	d, err := openDirOrNone(s.cfg.Fs, root)
	if err != nil || d == nil {
		return err
	}
	defer d.close()
	if src.Kind == Tree {
		layout := s.holes(src)
		return d.walk(ctx, ".", func(at place, name string, fi fileInfo) error {
			if layout.isHole(name) || layout.isStore(fi) || fi.isStaging() {
				return skip(fi)
			}
			return fn(at, name, fi)
		}, exceptDamage) // which is for those who need to read it
	}
	for _, suffix := range src.suffixes() {
		at := place{d, base + suffix}
		fi, err := at.lstat()
		if err == nil {
			err = fn(at, at.name, fi)
		}
		if err = ignoreNotExist(err); err != nil {
			return err
		}
	}
	return nil
}

// fingerprint returns a digest of what there is of each source: names, sizes,
// times, and what is mounted where. What cannot be read is part of it, unless that
// is for a shortage: then there is none. The time of the
// last change in any way (ctime) is, too, where there is one: who writes can set
// that of modification back. Who puts another file in the place of one changes
// it as well, by rename(2). (Inodes would tell no more, and some file systems
// number them anew.)
func (r *restorer) fingerprint(ctx context.Context) (map[string]string, error) {
	seen := make(map[string]string)
	for _, src := range r.sources {
		sum := sha256.New()
		if src.Kind == Tree {
			mounts, err := r.mountsIn(src)
			if isShortage(err) {
				return nil, err
			}
			fmt.Fprintln(sum, mounts, err)
		}
		_, base, _ := r.swapRoot(src) // eachLive tells
		made := r.madeIn(src)
		err := r.eachLive(ctx, src, func(at place, name string, fi fileInfo) error {
			if !made[name] && !isOwnSidecar(ctx, base, at, fi) {
				writeFingerprint(sum, name, fi)
				if !fi.isDir() {
					fmt.Fprintln(sum, fi.ctime)
				}
			}
			return nil
		})
		if isShortage(err) {
			return nil, err
		}
		fmt.Fprintln(sum, err)
		seen[src.Name] = fmt.Sprintf("%x", sum.Sum(nil))
	}
	return seen, nil
}

func (s *Store) mountsIn(src *Source) ([]string, error) {
	layout, err := s.treeLayout(src)
	if err != nil {
		return nil, err
	}
	return layout.fixed, nil
}

// madeIn returns the directories in a tree that were made to stage in.
func (r *restorer) madeIn(src *Source) map[string]bool {
	made := make(map[string]bool)
	root := realPath(r.cfg.Fs, src.Path)
	for _, sw := range r.journal.Swaps {
		for _, p := range sw.Made {
			if rel, err := filepath.Rel(root, realPath(r.cfg.Fs, string(p))); err == nil {
				made[filepath.ToSlash(rel)] = true
			}
		}
	}
	return made
}

// isOwnSidecar reports whether a file may have come of our reading the database
// beside it, which is called base unless it is in a tree. (Who commits writes
// to the database, or has bytes in its -wal.)
func isOwnSidecar(ctx context.Context, base string, at place, fi fileInfo) bool {
	for _, suffix := range sidecars {
		main, ok := strings.CutSuffix(at.name, suffix)
		if !ok || suffix == "-wal" && fi.size > 0 {
			continue
		}
		if base != "" {
			return main == base
		}
		if (place{at.dir, main}).isDatabase(ctx) {
			return true
		}
	}
	return false
}

// writeFingerprint leaves out the times of directories, which change as we stage in
// them, and all permissions, which a power cut may undo.
func writeFingerprint(sum hash.Hash, name string, fi fileInfo) {
	if fi.isDir() {
		fmt.Fprintf(sum, "%q dir\n", name)
		return
	}
	if !fi.isNative {
		fi.mtime = time.Time{} // afero's MemMapFs changes it when a file is closed
	}
	fmt.Fprintf(sum, "%q %v %d %v\n", name, fi.mode.Type(), fi.size, fi.mtime)
}

// checkUnchanged refuses to replace what has changed since the safety snapshot was
// taken: that would be in neither.
func (r *restorer) checkUnchanged(ctx context.Context, before map[string]string) error {
	after, err := r.fingerprint(ctx)
	if err = cmp.Or(ctx.Err(), err); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if before[name] != after[name] {
			return fmt.Errorf("%w: source %q changed while the restore was prepared", ErrServiceRunning, name)
		}
	}
	return nil
}

// probeSettled probes what an interrupted restore has not begun to exchange,
// or has exchanged. (What is in between cannot be opened.)
func (ss *session) probeSettled(ctx context.Context, j *journal) error {
	for _, name := range j.sources() {
		src, _ := ss.source(name)
		whole, err := ss.isWhole(ctx, j, name)
		if err == nil && whole {
			err = ss.probeSource(ctx, src)
		}
		if err != nil {
			return fmt.Errorf("source %q: %w", name, err)
		}
	}
	return nil
}

// isWhole reports whether the files of a source are all old ones, or all new.
func (ss *session) isWhole(ctx context.Context, j *journal, source string) (bool, error) {
	allNew, allOld := true, true
	for _, sw := range j.Swaps {
		if sw.Source != source {
			continue
		}
		if err := sw.mustOpen(ss.cfg.Fs); err != nil {
			return false, err
		}
		complete, err := sw.isComplete()
		if err != nil {
			return false, err
		}
		untouched, err := sw.isUntouched(ctx)
		if err != nil {
			return false, err
		}
		allNew, allOld = allNew && complete, allOld && untouched
	}
	return allNew || allOld, nil
}

// fingerprint returns a digest of what is at a name: names, sizes and times.
// Sidecars below the name that a look at a database may have left, or that a power
// cut has brought back, do not count.
func (d *dir) fingerprint(ctx context.Context, name string) (string, error) {
	sum := sha256.New()
	err := d.walk(ctx, name, func(at place, below string, fi fileInfo) error {
		main := mainOf(at.name)
		traceless := below != name && main != "" && fi.isHarmlessSidecar(strings.TrimPrefix(at.name, main))
		if !traceless || !(place{at.dir, main}).isDatabase(ctx) {
			writeFingerprint(sum, strings.TrimPrefix(below, name), fi)
		}
		return nil
	}, exceptGone)
	return fmt.Sprintf("%x", sum.Sum(nil)[:8]), err
}

// fingerprints returns that of each of the names, or "" for one that cannot be
// had: that is not known, then, and no reason to go no further.
func (d *dir) fingerprints(ctx context.Context, names []rawString, at func(rawString) string) ([]string, error) {
	seen := make([]string, len(names))
	for i, name := range names {
		digest, err := d.fingerprint(ctx, at(name))
		if err == nil {
			seen[i] = digest
		}
		if isShortage(err) {
			return nil, err
		}
	}
	return seen, ctx.Err()
}
