package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"

	"github.com/spf13/afero"
)

// A swap exchanges entries of one directory, the root, for staged ones. The
// old entries wait in the staging directory, which lies in the root, so that
// every move is a rename within one file system:
//
//	root/.atobackup-…/new/app.db    →  root/app.db
//	root/app.db, root/app.db-wal    →  root/.atobackup-…/old/
//
// What has been done can be told from which names are where, so that a swap
// may be finished or undone from whatever a crash has left. Renames are
// taken to be atomic, but not to reach the disk in order: that is what the
// syncs between the steps are for. A name that is found where a swap cannot
// have left it is a stranger's: somebody has worked with the files before
// Recover was called. Then nothing is touched.
//
// A name that is a mount point cannot be renamed. It is noted in InPlace,
// after the old bytes have been copied to the staging directory ("copy"), and
// then overwritten. Renames also tell when that is complete: the staged file
// is moved aside ("done") once the new bytes are durable, and the copy
// removed once the old ones are.
type swap struct {
	Source   string      `json:"source"`
	Root     rawString   `json:"root"`               // as openDir takes it
	Database rawString   `json:"database,omitempty"` // the name of a Database in it
	Staging  string      `json:"staging"`            // a name in the root
	New      []rawString `json:"new"`                // names in the root
	Old      []rawString `json:"old"`                // likewise: a database comes before its sidecars
	Stay     []rawString `json:"stay,omitzero"`      // of a tree: names in the root that are not the restore's to move
	InPlace  []rawString `json:"in_place,omitempty"`

	// The numbers of the files that were mounted there, and of the anchor: by
	// which Recover knows whether it has the file systems before it that the
	// restore had. Zero: not known, or no number that lasts.
	InPlaceInodes []uint64 `json:"in_place_inodes,omitempty"`
	Inode         uint64   `json:"inode,omitempty"`

	// What New looked like when it was staged, and Old right before the
	// exchange: see dir.fingerprint. Who has worked with them since has changed that.
	NewSeen []string `json:"new_seen,omitempty"`
	OldSeen []string `json:"old_seen,omitempty"`

	Made []rawString `json:"made,omitempty"` // directories made for it, outermost first

	dir     *dir          // the open root
	entries []stagedEntry // what is to be staged, parents first
}

// open opens the root, once. A root that is missing is nil and no error.
func (sw *swap) open(fsys afero.Fs) (err error) {
	if sw.dir == nil {
		sw.dir, err = openDirOrNone(fsys, string(sw.Root))
	}
	return err
}

func (sw *swap) close() {
	if sw.dir != nil {
		sw.dir.close()
	}
}

// mustOpen opens the root, which was there when the journal was written.
func (sw *swap) mustOpen(fsys afero.Fs) error {
	err := sw.open(fsys)
	if err == nil && sw.dir == nil {
		err = fmt.Errorf("%s: %w: is its file system mounted?", sw.Root, fs.ErrNotExist)
	}
	return err
}

// A direction says which state an exchange is on its way to.
type direction int

const (
	toNew direction = iota
	toOld
)

func (sw *swap) staged(name rawString) string { return path.Join(sw.Staging, "new", string(name)) }
func (sw *swap) saved(name rawString) string  { return path.Join(sw.Staging, "old", string(name)) }
func (sw *swap) copied(name rawString) string { return path.Join(sw.Staging, "copy", string(name)) }
func (sw *swap) done(name rawString) string   { return path.Join(sw.Staging, "done", string(name)) }

// errNotMounted: a journal speaks of files that are not there now.
var errNotMounted = errors.New("is not what was there when the restore began: is its file system mounted?")

func mustHave(path string, fi fileInfo, inode uint64) error {
	if inode != 0 && fi.inode != inode {
		return fmt.Errorf("%s %w", path, errNotMounted)
	}
	return nil
}

// Where a name of a swap is to be found.
type whereabouts struct {
	inPlace, staged, saved bool
	info                   fileInfo // of what is in place
}

func (sw *swap) whereIs(name rawString) (w whereabouts, err error) {
	w.info, err = sw.dir.lstat(string(name))
	if w.inPlace = err == nil; !w.inPlace {
		if err = ignoreNotExist(err); err != nil {
			return w, err
		}
	}
	if w.staged, err = sw.dir.exists(sw.staged(name)); err != nil {
		return w, err
	}
	w.saved, err = sw.dir.exists(sw.saved(name))
	return w, err
}

// isComplete reports whether all new entries are in place, or were: none is
// staged any more.
func (sw *swap) isComplete() (bool, error) {
	waiting, err := sw.dir.readNames(path.Join(sw.Staging, "new"))
	return len(waiting) == 0, err
}

// isUndone reports whether all old entries are in place, or were: none is saved
// any more, all new ones are staged, and no mount point has to get its old bytes
// back.
func (sw *swap) isUndone() (bool, error) {
	waiting, err := sw.dir.readNames(path.Join(sw.Staging, "new"))
	if err != nil || len(waiting) != len(sw.New) {
		return false, err
	}
	saved, err := sw.dir.readNames(path.Join(sw.Staging, "old"))
	if err != nil || len(saved) > 0 {
		return false, err
	}
	for _, name := range sw.InPlace {
		if needed, err := sw.dir.exists(sw.copied(name)); err != nil || needed {
			return false, err
		}
	}
	return true, nil
}

// isUntouched reports whether all old entries are in place as they were: mount
// points may be noted by then, and not be written to yet.
func (sw *swap) isUntouched(ctx context.Context) (bool, error) {
	noted := *sw
	noted.InPlace = nil
	undone, err := noted.isUndone()
	for _, name := range sw.InPlace {
		if err != nil || !undone {
			break
		}
		i := slices.Index(sw.Old, name)
		if i < 0 || sw.OldSeen[i] == "" {
			return false, nil
		}
		var changed bool
		changed, err = sw.hasChanged(ctx, name, sw.OldSeen[i])
		undone = !changed
	}
	return undone, err
}

// forward puts the new entries in place. changed records the swap in the
// journal.
func (sw *swap) forward(ctx context.Context, changed func() error) error {
	if err := sw.clear(ctx, changed); err != nil {
		return err
	}
	for _, name := range sw.New {
		if err := sw.checkClear(ctx, name); err != nil {
			return err
		}
		if err := sw.moveIn(ctx, name); err != nil {
			return fmt.Errorf("put %s in place: %w", sw.dir.full(string(name)), err)
		}
	}
	return sw.sync("new")
}

// clear moves the old entries out of the way, unless that was done before.
func (sw *swap) clear(ctx context.Context, changed func() error) error {
	for _, name := range sw.New {
		waiting, err := sw.dir.exists(sw.staged(name))
		if err != nil || !waiting {
			return err // a new entry is in place: no old one is
		}
	}
	for _, name := range sw.Old {
		if err := sw.moveOut(ctx, name, changed); err != nil {
			return fmt.Errorf("move %s out of the way: %w", sw.dir.full(string(name)), err)
		}
	}
	// No new entry may be durable before all old ones are out of the way: a
	// write-ahead log that stayed would be replayed over the new database.
	return sw.sync("old")
}

// sync makes the moves between the root and a staging directory durable.
func (sw *swap) sync(staging string) error {
	return errors.Join(sw.dir.syncDir(path.Join(sw.Staging, staging)), sw.dir.syncDir("."))
}

// moveOut moves an old entry to the staging directory, if it still is in
// place.
func (sw *swap) moveOut(ctx context.Context, name rawString, changed func() error) error {
	if slices.Contains(sw.InPlace, name) {
		return nil
	}
	w, err := sw.whereIs(name)
	if err != nil || !w.inPlace {
		return err
	}
	if w.saved && sw.isHarmless(ctx, name, w) {
		return sw.dir.remove(string(name))
	}
	err = sw.dir.rename(string(name), sw.saved(name))
	if !isMountError(err) {
		return err
	}
	if fi, statErr := sw.dir.lstat(string(name)); statErr == nil && fi.isRegular() && slices.Contains(sw.New, name) {
		return sw.copyOut(ctx, name, changed)
	}
	return fmt.Errorf("%w (what is a mount point, or on the lower layer of an overlay, cannot be renamed: put the source on a volume of its own)", err)
}

func (sw *swap) moveIn(ctx context.Context, name rawString) error {
	waiting, err := sw.dir.exists(sw.staged(name))
	if err != nil || !waiting {
		return err
	}
	if !slices.Contains(sw.InPlace, name) {
		return sw.dir.rename(sw.staged(name), string(name))
	}
	setErr, err := sw.overwrite(ctx, sw.staged(name), string(name))
	if err = errors.Join(err, setErr); err != nil {
		return err
	}
	return sw.moveAside(name)
}

// undo puts the old entries back, all that can be, but for a log whose database
// did not make room: it may not meet another one.
func (sw *swap) undo(ctx context.Context) error {
	var failed []error
	stuck := make(map[string]bool) // by familyOf
	for _, name := range sw.New {
		if err := sw.moveBack(ctx, name); err != nil {
			failed = append(failed, fmt.Errorf("take %s back: %w", sw.dir.full(string(name)), err))
			stuck[familyOf(name)] = true
		}
	}
	if err := sw.sync("new"); err != nil {
		return errors.Join(append(failed, err)...)
	}
	for _, name := range slices.Backward(sw.Old) {
		if stuck[familyOf(name)] {
			continue
		}
		if name == sw.Database { // is not to be seen without its sidecars
			if err := sw.sync("old"); err != nil {
				return errors.Join(append(failed, err)...)
			}
		}
		if err := sw.putBack(ctx, name); err != nil {
			failed = append(failed, fmt.Errorf("put %s back: %w", sw.dir.full(string(name)), err))
			stuck[familyOf(name)] = true
		}
	}
	return errors.Join(append(failed, sw.sync("old"))...)
}

// familyOf returns the name of the database that a file is a sidecar of, if it
// is one, and its own otherwise.
func familyOf(name rawString) string { return cmp.Or(mainOf(string(name)), string(name)) }

// putBack moves an old entry back, if it was moved out. A database that is nowhere
// is an error.
func (sw *swap) putBack(ctx context.Context, name rawString) error {
	w, err := sw.whereIs(name)
	if err != nil {
		return err
	}
	if !w.saved {
		if !w.inPlace && name == sw.Database {
			err = &fs.PathError{Op: "rename", Path: sw.dir.full(sw.saved(name)), Err: fs.ErrNotExist}
		}
		return err
	}
	if w.inPlace && sw.isHarmless(ctx, name, w) {
		if err := sw.dir.remove(string(name)); err != nil {
			return err
		}
	}
	return sw.dir.rename(sw.saved(name), string(name))
}

// moveBack takes a new entry out again, if it is in place.
func (sw *swap) moveBack(ctx context.Context, name rawString) error {
	if slices.Contains(sw.InPlace, name) {
		return sw.writeBack(ctx, name)
	}
	waiting, err := sw.dir.exists(sw.staged(name))
	if err != nil || waiting {
		return err
	}
	inPlace, err := sw.dir.exists(string(name))
	if err != nil || !inPlace {
		return err
	}
	return sw.dir.rename(string(name), sw.staged(name))
}

// discard removes the staging directory and, unless they have come into use,
// the directories that were made.
func (sw *swap) discard(fsys afero.Fs) error {
	open := sw.mustOpen
	if slices.Contains(sw.Made, sw.Root) {
		open = sw.open
	}
	if err := open(fsys); err != nil {
		return err
	}
	if err := sw.removeStaging(fsys); err != nil {
		return err
	}
	for _, made := range slices.Backward(sw.Made) {
		if err := removeEmptyDir(fsys, string(made)); err != nil {
			return err
		}
	}
	return nil
}

// removeStaging removes the staging directory. Where that is not to be found, it
// has been removed before; or its file system is not mounted.
func (sw *swap) removeStaging(fsys afero.Fs) error {
	there := false
	var err error
	if sw.dir != nil {
		there, err = sw.dir.exists(sw.Staging)
	}
	if err == nil && !there {
		err = sw.checkAnchor(fsys)
	}
	if err != nil || sw.dir == nil {
		return err
	}
	return errors.Join(sw.dir.removeAll(sw.Staging), sw.dir.syncDir("."))
}

// checkAnchor returns an error if the anchor is not the directory that it was.
func (sw *swap) checkAnchor(fsys afero.Fs) error {
	here, err := sw.anchor(fsys)
	if err != nil {
		return err
	}
	return mustHave(string(sw.Root), here, sw.Inode)
}

// anchor looks at the root or, if that was made for the swap, at the directory
// in which it was: one that has been there all the time.
func (sw *swap) anchor(fsys afero.Fs) (fileInfo, error) {
	p := string(sw.Root)
	if len(sw.Made) > 0 {
		p = filepath.Dir(string(sw.Made[0]))
	}
	d, err := openDir(fsys, p)
	if err != nil {
		return fileInfo{}, err
	}
	defer d.close()
	here, err := d.lstat(".")
	if !d.tellsChanges() { // then its numbers may be others tomorrow, too
		here.inode = 0
	}
	return here, err
}

func removeEmptyDir(fsys afero.Fs, p string) error {
	d, err := openDirOrNone(fsys, p)
	if err != nil || d == nil {
		return err
	}
	found, err := d.readDir(".")
	d.close()
	if err != nil || len(found) > 0 {
		return err
	}
	parent, err := openDir(fsys, filepath.Dir(p))
	if err != nil {
		return err
	}
	defer parent.close()
	return errors.Join(parent.remove(filepath.Base(p)), parent.syncDir("."))
}

// missingDirs returns p and those of its parents that do not exist, outermost
// first.
func missingDirs(fsys afero.Fs, p string) ([]rawString, error) {
	var missing []rawString
	for ; ; p = filepath.Dir(p) {
		d, err := openDir(fsys, p)
		if err == nil {
			d.close()
			slices.Reverse(missing)
			return missing, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		missing = append(missing, rawString(p))
		if p == filepath.Dir(p) {
			slices.Reverse(missing)
			return missing, nil
		}
	}
}
