package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
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

// findStaged returns the name of such a directory for a source, or "". (A plain
// file of that name is somebody's. What cannot be looked at may be ours.)
func (d *dir) findStaged(source string) (string, error) {
	names, err := d.readNames(".")
	if err = onlyShortage(err); err != nil {
		return "", err
	}
	for _, name := range names {
		if stagedFor(name) != source {
			continue
		}
		fi, err := d.lstat(name)
		if err == nil && fi.isStaging() || err != nil && !isGone(err) {
			return name, nil
		}
	}
	return "", nil
}

// checkAlone refuses to go on if a restore of another store is at work with the same
// files. Of two that look once they have staged, at least one sees the other; to look
// before that spares the safety snapshot.
func (r *restorer) checkAlone() error {
	for _, sw := range r.journal.Swaps {
		if sw.dir == nil {
			continue
		}
		src, _ := r.source(sw.Source)
		ours := strings.TrimSuffix(sw.Staging, sw.Source) // and the id of this restore
		names, err := sw.dir.readNames(".")
		if err != nil {
			return err
		}
		for _, name := range names {
			if stagedFor(name) == "" || strings.HasPrefix(name, ours) {
				continue
			}
			rivals, err := sw.isStagedIn(name, src.Kind)
			if err == nil && rivals {
				err = fmt.Errorf("%w: %s is of another store's restore of the same: have that store end it, or recover it; if there is none, move it away", ErrBusy, sw.dir.full(name))
			}
			if err != nil {
				return fmt.Errorf("source %q: %w", sw.Source, err)
			}
		}
	}
	return nil
}

// isStagedIn reports whether somebody else's staging directory is for what the swap
// is to put in place: in a tree it is.
func (sw *swap) isStagedIn(staging string, kind Kind) (bool, error) {
	fi, err := sw.dir.lstat(staging)
	if err != nil || !fi.isDir() || kind == Tree {
		return err == nil && fi.isDir(), ignoreNotExist(err)
	}
	for _, name := range sw.New {
		if there, err := sw.dir.exists(path.Join(staging, "new", string(name))); err != nil || there {
			return there, err
		}
	}
	return false, nil
}

// stage writes the new files beside the old ones, durably, having said in
// the journal where, and reads them back.
func (r *restorer) stage(ctx context.Context) (err error) {
	if err := r.checkSpace(); err != nil {
		return err
	}
	if err := r.writeJournal(r.journal); err != nil {
		return err
	}
	for _, sw := range r.journal.Swaps {
		synced, stageErr := r.stageSwap(ctx, sw)
		if stageErr != nil {
			return fmt.Errorf("stage source %q: %w", sw.Source, stageErr)
		}
		defer func() { err = errors.Join(err, synced()) }()
		if sw.NewSeen, err = sw.dir.fingerprints(ctx, sw.New, sw.staged); err != nil {
			return err
		}
	}
	return r.verifyStaged(ctx)
}

// stageSwap copies the new entries of a swap to its staging directory. They are
// durable once synced has returned, which is to be called in any case.
func (r *restorer) stageSwap(ctx context.Context, sw *swap) (synced func() error, err error) {
	if err := r.prepare(sw); err != nil {
		return nil, err
	}
	if err := sw.dir.beginBatch(len(sw.entries)); err != nil {
		return nil, err
	}
	defer sw.dir.dropBatch()
	if err := r.stageEntries(ctx, sw); err != nil {
		return nil, err
	}
	err = errors.Join(sw.dir.syncDir(path.Join(sw.Staging, "new")), sw.dir.syncDir(sw.Staging), sw.dir.syncDir("."))
	if err != nil {
		return nil, err
	}
	return sw.dir.startSync(), nil
}

// stageEntries copies the new entries of a swap, on all cores, and syncs them at
// once or at the end of a batch.
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
	st := &stager{restorer: r, swap: sw, staging: staging, chown: chown, crew: newCrew(min(r.from.dir.cores(), staging.cores()))}
	err = st.crew.run(ctx, func(ctx context.Context, fail func(error)) error {
		files := &gatherer{crew: st.crew, work: func(files []found) {
			if err := st.stageFiles(ctx, files); err != nil {
				fail(err)
			}
		}}
		return files.gather(func() error { return st.walk(ctx, files) })
	})
	if err != nil {
		return err
	}
	return sw.finishDirs(staging)
}

// A stager stages the entries of one swap.
type stager struct {
	*restorer
	swap    *swap
	staging *dir
	chown   func(place) error
	crew    *crew
}

// walk makes the directories and links, and has the files copied.
func (st *stager) walk(ctx context.Context, files *gatherer) error {
	from, to := trail{root: st.from.dir}, trail{root: st.staging}
	defer from.close()
	defer to.close()
	for _, e := range st.swap.entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if e.Type.holdsBytes() {
			src, err := from.at(string(e.Path))
			if err != nil {
				return err
			}
			files.add(src, e.name, fileInfo{size: e.Size})
			continue
		}
		dst, err := to.at(e.name)
		if err != nil {
			return err
		}
		if e.Type == typeDir {
			err = dst.dir.mkdir(dst.name)
		} else {
			err = dst.dir.symlink(string(e.Target), dst.name)
		}
		if err == nil {
			err = st.chown(dst)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// stageFiles copies some files of one directory, as a member of the crew.
func (st *stager) stageFiles(ctx context.Context, files []found) error {
	copied := tally{ctx: ctx, crew: st.crew, meter: st.meter, source: st.swap.Source}
	defer copied.report()
	to := trail{root: st.staging}
	defer to.close()
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		dst, err := to.at(f.path)
		if err == nil {
			err = stageFile(ctx, st.swap.entry(f.path), f.place, dst, copied.count)
		}
		if err == nil {
			err = st.chown(dst)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// finishDirs ends what is written to the staged directories, which changes their
// times.
func (sw *swap) finishDirs(staging *dir) error {
	to := trail{root: staging}
	defer to.close()
	for _, e := range slices.Backward(sw.entries) {
		if e.Type != typeDir {
			continue
		}
		dst, err := to.at(e.name)
		if err != nil {
			return err
		}
		if err := errors.Join(dst.setAttributes(e.entry), dst.dir.syncDir(dst.name)); err != nil {
			return err
		}
	}
	return nil
}

// prepare makes the staging directory, and the root if that is missing.
func (r *restorer) prepare(sw *swap) error {
	if sw.dir == nil {
		if err := r.makeRoot(sw); err != nil {
			return err
		}
	}
	for _, name := range []string{"", "new", "old", "copy"} {
		if err := sw.dir.mkdir(path.Join(sw.Staging, name)); err != nil {
			return err
		}
	}
	return nil
}

// makeRoot makes the root and the directories that lead to it. They belong to
// whom the directory does that they are made in.
func (r *restorer) makeRoot(sw *swap) (err error) {
	if sw.dir, err = makeDir(r.cfg.Fs, string(sw.Root)); err != nil {
		return err
	}
	for _, made := range sw.Made {
		if err := inherit(r.cfg.Fs, string(made)); err != nil {
			return err
		}
	}
	src, _ := r.source(sw.Source)
	if src.Kind != Tree {
		return nil
	}
	rel, err := filepath.Rel(src.Path, string(sw.Root))
	if err != nil {
		return err
	}
	if e, ok := r.from.entries.find(path.Join(sw.Source, filepath.ToSlash(rel))); ok {
		return sw.dir.setAttributes(".", e.perm()|0o700, e.MTime)
	}
	return nil
}

// inherit gives a directory the owner of the one that it is in.
func inherit(fsys afero.Fs, p string) error {
	parent, err := openDir(fsys, filepath.Dir(p))
	if err != nil {
		return err
	}
	defer parent.close()
	owner, err := parent.lstat(".")
	if err != nil {
		return err
	}
	base := filepath.Base(p)
	return errors.Join(parent.chown(base, owner), parent.syncDir(base))
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

// stageFile copies one file, which will be read back.
func stageFile(ctx context.Context, e *entry, from, to place, moved func(n int64)) error {
	src, info, err := from.open(ctx)
	if err != nil {
		return err
	}
	defer src.Close() // nothing was written
	err = to.dir.createCopy(to.name, src, info.size, func(dst newFile) error {
		if err := e.copy(ctx, dst, src, info.size, moved); err != nil || to.dir.batch != nil {
			return err
		}
		return to.setAttributes(e) // to be synced, too: Recover goes by it
	})
	if err != nil {
		return err
	}
	return to.setAttributes(e) // afero's MemMapFs, and Windows, change the time when a file is closed
}

// copy copies the entry's bytes.
func (e *entry) copy(ctx context.Context, dst newFile, src afero.File, size int64, moved func(n int64)) error {
	if e.SHA256 != "" {
		return copyPlain(ctx, dst, src, size, moved)
	}
	done, err := copyHashed(ctx, dst, io.NewSectionReader(src, 0, size), size, moved)
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
