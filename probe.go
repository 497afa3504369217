package backup

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"maps"
	"path"
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
	_ = s.eachLive(ctx, src, func(at place, _ string, fi fileInfo) error {
		if isDB, err := hasDatabaseHeader(at, fi); err == nil && isDB && fi.isRegular() {
			running = probeRunning(ctx, at)
		}
		return running
	})
	return running
}

// eachLive calls fn for all that there is of a source: a File or Database
// with its sidecars, or what is in a Tree and neither a restore's nor
// anybody else's.
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
			if layout.isHole(name) || layout.isStore(fi) || strings.HasPrefix(path.Base(name), stagingPrefix) {
				return skip(fi)
			}
			return fn(at, name, fi)
		}, func(string, error) error { return nil }) // what cannot be read is for those who need to
	}
	for _, suffix := range append([]string{""}, sidecars...) {
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

// look returns a digest of what there is of each source: names, sizes, times
// and what is mounted where. What cannot be read is part of it.
func (r *restorer) look(ctx context.Context) map[string]string {
	seen := make(map[string]string)
	for _, src := range r.sources {
		sum := sha256.New()
		if src.Kind == Tree {
			mounts, err := r.mountsIn(src)
			fmt.Fprintln(sum, mounts, err)
		}
		err := r.eachLive(ctx, src, func(_ place, name string, fi fileInfo) error {
			addLook(sum, name, fi)
			return nil
		})
		fmt.Fprintln(sum, err)
		seen[src.Name] = fmt.Sprintf("%x", sum.Sum(nil))
	}
	return seen
}

func (s *Store) mountsIn(src *Source) ([]string, error) {
	layout, err := s.treeLayout(src)
	if err != nil {
		return nil, err
	}
	return layout.fixed, nil
}

// addLook leaves out what we may change ourselves, by reading a database and
// by making directories to stage in. (Who commits writes to a database or to
// its -wal.)
func addLook(sum hash.Hash, name string, fi fileInfo) {
	switch {
	case fi.isDir(), strings.HasSuffix(name, "-shm"), strings.HasSuffix(name, "-journal"):
		return
	case strings.HasSuffix(name, "-wal") && fi.size == 0:
		return
	}
	if fi.sys == nil {
		fi.mtime = time.Time{} // afero's MemMapFs changes it when a file is closed
	}
	fmt.Fprintf(sum, "%q %v %d %v\n", name, fi.mode, fi.size, fi.mtime)
}

// checkUnchanged refuses to replace what has changed since the safety snapshot was
// taken: that would be in neither.
func (r *restorer) checkUnchanged(ctx context.Context, before map[string]string) error {
	after := r.look(ctx)
	if err := ctx.Err(); err != nil {
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
		whole, err := ss.isWhole(j, name)
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
func (ss *session) isWhole(j *journal, source string) (bool, error) {
	var saved, staged int
	for _, sw := range j.Swaps {
		if sw.Source != source {
			continue
		}
		if len(sw.InPlace) > 0 {
			return false, nil
		}
		if err := sw.mustOpen(ss.cfg.Fs); err != nil {
			return false, err
		}
		old, err := sw.dir.readNames(path.Join(sw.Staging, "old"))
		if err != nil {
			return false, err
		}
		waiting, err := sw.dir.readNames(path.Join(sw.Staging, "new"))
		if err != nil {
			return false, err
		}
		saved += len(old)
		staged += len(waiting)
	}
	return saved == 0 || staged == 0, nil
}

// findWorkedWith returns errStranger for a file that was written to since it
// was put in place, as opposed to one that has rotted there.
func (r *restorer) findWorkedWith() error {
	for _, sw := range r.journal.Swaps {
		for _, e := range sw.entries {
			if !e.Type.holdsBytes() {
				continue
			}
			fi, err := sw.dir.lstat(e.name)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if fi.size != e.Size || !isTimeAsSet(fi.mtime, e.MTime) {
				return sw.stranger(rawString(e.name))
			}
		}
	}
	return nil
}

// isTimeAsSet reports whether a file system that was told to set a time would
// say so: many have coarser clocks.
func isTimeAsSet(got, set time.Time) bool {
	ticks := []time.Duration{time.Nanosecond, 100 * time.Nanosecond, time.Microsecond, time.Millisecond, time.Second, 2 * time.Second}
	return slices.ContainsFunc(ticks, func(tick time.Duration) bool { return got.Equal(set.Truncate(tick)) })
}
