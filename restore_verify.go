package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"
)

// How a restore verifies. What it has staged it reads back, all of it, once
// that is durable. What is in place in the end has to be the very files that
// were read then. Where there is no telling, or where they had to be copied
// once more, what is in place is read.
//
// Bytes with the SHA-256 of the manifest need no second look by SQLite: those
// of the snapshot had one, moments ago.

// verifyStaged reads back what was staged.
func (r *restorer) verifyStaged(ctx context.Context) error {
	if err := r.compare(ctx, func(sw *swap) string { return path.Join(sw.Staging, "new") }); err != nil {
		return fmt.Errorf("verify what was staged: %w", err)
	}
	for _, sw := range r.journal.Swaps {
		if err := sw.setFinalModes(); err != nil {
			return fmt.Errorf("stage source %q: %w", sw.Source, err)
		}
	}
	return nil
}

// setFinalModes takes from their owner the permission to read what was staged,
// where the snapshot says so.
func (sw *swap) setFinalModes() error {
	for i, e := range slices.Backward(sw.entries) { // of directories last
		if e.Type == typeLink || e.perm()&e.leastPerm() == e.leastPerm() {
			continue
		}
		to := sw.staged(rawString(e.name))
		err := sw.dir.syncAfter(to, func() error { return sw.dir.setAttributes(to, e.perm(), e.MTime) })
		if err != nil {
			return err
		}
		fi, err := sw.dir.lstat(to)
		if err != nil {
			return err
		}
		sw.entries[i].seen = &fi
	}
	return nil
}

// closeDirs takes from their owner the permission to write to directories at the
// top of a swap, where the snapshot says so: one that a crash has cut short while
// it was moved may have it still. See dir.rename.
func (r *restorer) closeDirs() error {
	for _, sw := range r.journal.Swaps {
		for _, e := range sw.entries {
			opened := e.seen.mode.Perm() == e.perm()|0o700 && e.perm()|0o700 != e.perm()
			if e.Type != typeDir || strings.Contains(e.name, "/") || !opened {
				continue
			}
			err := sw.dir.syncAfter(e.name, func() error { return sw.dir.setAttributes(e.name, e.perm(), e.MTime) })
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// verify sees to it that what is in place is what the snapshot has.
func (r *restorer) verify(ctx context.Context) error {
	if err := r.checkRoots(); err != nil {
		return err
	}
	if err := r.compare(ctx, func(*swap) string { return "." }); err != nil {
		return fmt.Errorf("verify what is in place: %w", err)
	}
	return nil
}

// checkRoots sees whether the paths of the sources still lead to where their
// entries were exchanged.
func (r *restorer) checkRoots() error {
	for _, sw := range r.journal.Swaps {
		src, _ := r.source(sw.Source)
		if src.Kind == Tree {
			continue
		}
		root, _, err := r.swapRoot(src)
		if err != nil {
			return err
		}
		d, err := openDir(r.cfg.Fs, root)
		if err != nil {
			return err
		}
		there, err := d.lstat(".")
		d.close()
		here, hereErr := sw.dir.lstat(".")
		if err := errors.Join(err, hereErr); err != nil {
			return err
		}
		if !there.sameFile(here) {
			return fmt.Errorf("source %q: %s does not lead to %s any more", src.Name, src.Path, sw.Root)
		}
	}
	return nil
}

// fillHashes computes the SHA-256 of entries of swaps that have none, as those of
// the Python module: what the snapshot has must do.
func (r *restorer) fillHashes(ctx context.Context) error {
	for _, sw := range r.journal.Swaps {
		for _, e := range sw.entries {
			if !e.Type.holdsBytes() || e.SHA256 != "" {
				continue
			}
			f, _, err := r.from.open(ctx, string(e.Path))
			if err != nil {
				return err
			}
			e.SHA256, err = hashOf(ctx, f, unreported)
			if err = errors.Join(err, f.Close()); err != nil {
				return err
			}
		}
	}
	return nil
}

// compare compares the entries of all swaps with what there is in one directory
// of each. It reads, side by side, all files that are not the very ones that it
// has read before.
func (r *restorer) compare(ctx context.Context, in func(sw *swap) string) error {
	v := newVerifier(ctx, newCrew(r.root.cores()), nil, ValidateFull, r.meter)
	err := v.run(func() error {
		for _, sw := range r.journal.Swaps {
			if err := v.compareSwap(sw, in(sw), r.from.entries); err != nil {
				return fmt.Errorf("source %q: %w", sw.Source, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.judge(v)
}

// compareSwap has a crew read what it must of the entries of a swap.
func (v *verifier) compareSwap(sw *swap, in string, entries manifest) error {
	root, err := sw.dir.sub(in)
	if err != nil {
		return err
	}
	defer root.close()
	to := &trail{root: root}
	defer to.close()
	files := v.reader(entries)
	return files.gather(func() error { return v.compareEntries(sw, to, files) })
}

func (v *verifier) compareEntries(sw *swap, to *trail, files *gatherer) error {
	for i := range sw.entries {
		if err := v.ctx.Err(); err != nil {
			return err
		}
		e := &sw.entries[i]
		at, err := to.at(e.name)
		if err != nil {
			return err
		}
		fi, err := at.lstat()
		if err != nil {
			return err
		}
		if v.entry(e.entry, at, fi) && !(e.seen != nil && fi.isWhatItWas(*e.seen)) {
			v.read(files, e.entry, at, fi)
		}
		if e.seen != nil && fi.mode != e.seen.mode {
			v.add(e.entry, CodeTypeMismatch, fmt.Sprintf("%v, and not %v", fi.mode, e.seen.mode))
		}
		e.seen = &fi
	}
	return nil
}

// judge joins what is wrong with the entries. What is wrong with a database
// whose bytes are those of the snapshot may have been accepted; but then, and
// of files that were copied as they lay, it cannot be said that all passed.
func (r *restorer) judge(v *verifier) error {
	var refused []Problem
	for _, sw := range r.journal.Swaps {
		for _, e := range sw.entries {
			problems := v.wrong[e.entry]
			if len(problems) > 0 || e.Type == typeRaw {
				r.verified = false
			}
			refused = append(refused, slices.DeleteFunc(problems, r.isAccepted)...)
		}
	}
	return errors.Join(joinProblems(refused), errors.Join(v.unread...))
}

// isAccepted reports whether a problem that SQLite's checks have found was
// found when the snapshot was taken, too: it would not have come to be restored
// if that had not been accepted.
func (r *restorer) isAccepted(p Problem) bool {
	return (p.Code == CodeDatabaseCorrupt || p.Code == CodeCheckFailed) && r.from.snapshot.recorded(p)
}

// checkSidecars returns errStranger for files beside the databases in place
// that would change what is read from them. It is for a restore that has just
// made its exchange: later, they may be those of the service.
func (r *restorer) checkSidecars(ctx context.Context) error {
	return r.eachDatabase(ctx, func(sw *swap, e *stagedEntry, ours map[string]bool) error {
		for _, suffix := range sidecars {
			if err := sw.checkSidecar(e.name, suffix, ours); err != nil {
				return err
			}
		}
		return nil
	})
}

// findCommits returns errStranger if somebody has committed to a database that
// was put in place, as far as can be told: by its log, its size or its time.
func (r *restorer) findCommits(ctx context.Context) error {
	if err := r.checkSidecars(ctx); err != nil {
		return err
	}
	return r.eachDatabase(ctx, func(sw *swap, e *stagedEntry, _ map[string]bool) error {
		fi, err := sw.dir.lstat(e.name)
		if err != nil {
			return ignoreNotExist(err)
		}
		const coarse = 2 * time.Second // FAT's times
		written := fi.isNative && fi.mtime.Sub(e.MTime).Abs() > coarse
		if written || fi.size != e.Size {
			return sw.stranger(rawString(e.name))
		}
		return nil
	})
}

// eachDatabase calls fn for each database that has been put in place wholly, with
// the names of what came with it.
func (r *restorer) eachDatabase(ctx context.Context, fn func(sw *swap, e *stagedEntry, ours map[string]bool) error) error {
	for _, sw := range r.journal.Swaps {
		ours := make(map[string]bool, len(sw.entries))
		for _, e := range sw.entries {
			ours[e.name] = true
		}
		for i := range sw.entries {
			e := &sw.entries[i]
			if !r.mayBeDatabase(e.entry) {
				continue
			}
			top, _, _ := strings.Cut(e.name, "/")
			waiting, err := sw.dir.exists(sw.staged(rawString(top)))
			if err == nil && !waiting && (e.Type != typeFile || place{sw.dir, e.name}.isDatabase(ctx)) {
				err = fn(sw, e, ours)
			}
			if err != nil {
				return fmt.Errorf("source %q: %w", sw.Source, err)
			}
		}
	}
	return nil
}

// mayBeDatabase reports whether an entry may be a database: the Python module's
// snapshots, and what was copied as it lay, do not say.
func (r *restorer) mayBeDatabase(e *entry) bool {
	switch e.Type {
	case typeDatabase, typeRaw:
		return true
	case typeFile:
		return r.from.legacy && e.Size%leastDatabase == 0
	}
	return false
}

func (sw *swap) checkSidecar(main, suffix string, ours map[string]bool) error {
	name := main + suffix
	fi, err := sw.dir.lstat(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENAMETOOLONG) || ours[name] {
		return nil
	}
	if err == nil && !fi.isHarmlessSidecar(suffix) {
		err = sw.stranger(rawString(name))
	}
	return err
}
