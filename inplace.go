package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"syscall"

	"github.com/spf13/afero"
)

// What a swap does with a file that is a mount point: it cannot be renamed, and
// is overwritten. See swap.InPlace.

// checkMounted returns an error if a file that is to be overwritten is not
// mounted. Where that cannot be told, it has to be the one that was there when
// the journal was written. (Two file systems may number their files alike, and
// some number theirs anew.)
func (sw *swap) checkMounted() error {
	if len(sw.InPlace) == 0 {
		return nil
	}
	mounts, err := sw.dir.mountsBelow()
	told := sw.dir.native && tellsMounts && err == nil
	for i, name := range sw.InPlace {
		here, err := sw.dir.lstat(string(name))
		switch {
		case err != nil:
			return err
		case !told:
			err = mustHave(sw.dir.full(string(name)), here, sw.InPlaceInodes[i])
		case !slices.Contains(mounts, string(name)):
			err = fmt.Errorf("%s %w", sw.dir.full(string(name)), errNotMounted)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// copyOut saves a file that cannot be renamed, and then notes that it is to
// be overwritten.
func (sw *swap) copyOut(ctx context.Context, name rawString, changed func() error) error {
	if err := sw.dir.removeAll(sw.copied(name)); err != nil { // half a copy, of an attempt that was cut short
		return err
	}
	info, err := sw.copyFile(ctx, string(name), sw.copied(name))
	if err != nil {
		return err
	}
	i := slices.Index(sw.Old, name) // what is written after this look is not in the copy
	written, err := sw.hasChanged(ctx, name, sw.OldSeen[i])
	if err == nil && written {
		err = sw.writtenTo(name)
	}
	if err != nil {
		return err
	}
	if err := sw.dir.syncDir(path.Join(sw.Staging, "copy")); err != nil {
		return err
	}
	sw.InPlace, sw.InPlaceInodes = append(sw.InPlace, name), append(sw.InPlaceInodes, info.inode)
	return changed()
}

// checkHalfWritten returns errStranger for a mount point that neither looks as it
// did before it was to be overwritten, nor has what comes of that.
func (sw *swap) checkHalfWritten(ctx context.Context, name rawString, seen string) error {
	changed, err := sw.hasChanged(ctx, name, seen)
	if err != nil || !changed {
		return err
	}
	var files [3]afero.File
	for i, at := range []string{string(name), sw.staged(name), sw.copied(name)} {
		f, _, err := sw.dir.open(ctx, at)
		if i > 0 && errors.Is(err, fs.ErrNotExist) {
			return nil // it has all of its old bytes, or of its new ones
		}
		if err != nil {
			return err
		}
		defer f.Close() // nothing was written
		files[i] = f
	}
	mixed, err := isMixed(ctx, files[0], files[1], files[2])
	if err == nil && !mixed {
		err = sw.stranger(name)
	}
	return err
}

// mixedBlock is the smallest part of a file that is written at once: a sector of
// a disk, or page of a database.
const mixedBlock = 512 // bytes

// isMixed reports whether a file may come of writing a over b, or b over a, not
// to the end, and not in order.
func isMixed(ctx context.Context, file, a, b io.ReaderAt) (bool, error) {
	got, fromA, fromB := make([]byte, copyBuffer), make([]byte, copyBuffer), make([]byte, copyBuffer)
	for off := int64(0); ; off += copyBuffer {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		n, err := readBlocks(file, got, off)
		if err != nil || n == 0 {
			return err == nil, err
		}
		ofA, err := readBlocks(a, fromA, off)
		if err != nil {
			return false, err
		}
		ofB, err := readBlocks(b, fromB, off)
		if err != nil {
			return false, err
		}
		for at := 0; at < n; at += mixedBlock {
			end := min(at+mixedBlock, n)
			if !isBlockOf(got[at:end], fromA[at:end], fromB[at:end], ofA-at, ofB-at) {
				return false, nil
			}
		}
	}
}

// isBlockOf reports whether a block comes of writing a over b, or b over a, of
// which there are so many bytes of each: from where one of them ends, it may have
// what there was before, or nothing, as the whole of it may.
func isBlockOf(block, a, b []byte, ends ...int) bool {
	empty := make([]byte, len(block))
	isOne := func(part []byte, of ...[]byte) bool {
		return slices.ContainsFunc(of, func(other []byte) bool { return bytes.Equal(part, other) })
	}
	for _, n := range ends {
		n = max(0, min(n, len(block)))
		if isOne(block[:n], a[:n], b[:n], empty[:n]) && isOne(block[n:], a[n:], b[n:], empty[n:]) {
			return true
		}
	}
	return false
}

// readBlocks fills p from off on, with zeros beyond the end of the file, and
// returns how many bytes it has read.
func readBlocks(r io.ReaderAt, p []byte, off int64) (int, error) {
	n, err := r.ReadAt(p, off)
	clear(p[n:])
	if err == io.EOF || err == io.ErrUnexpectedEOF { // which afero's MemMapFs says
		err = nil
	}
	return n, err
}

// moveAside notes that a mount point has all of its new bytes.
func (sw *swap) moveAside(name rawString) error {
	if err := sw.dir.mkdir(path.Join(sw.Staging, "done")); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := sw.dir.syncDir(sw.Staging); err != nil {
		return err
	}
	if err := sw.dir.rename(sw.staged(name), sw.done(name)); err != nil {
		return err
	}
	return sw.dir.syncDir(path.Join(sw.Staging, "done"))
}

// hasOtherBytes reports whether a mount point that had all of its new bytes has
// others by now. Its file system may keep times less exactly than that of what
// was staged.
func (sw *swap) hasOtherBytes(ctx context.Context, name rawString) (bool, error) {
	want, err := sw.hashOf(ctx, sw.done(name))
	if err != nil {
		return true, ignoreNotExist(err)
	}
	got, err := sw.hashOf(ctx, string(name))
	return got != want, err
}

// writeBack gives a mount point its old bytes back, unless it has them. If it
// may not be written to, that is fine as long as it never had others. If it may,
// it is also fine that its mode and times are not ours to set.
func (sw *swap) writeBack(ctx context.Context, name rawString) error {
	needed, err := sw.dir.exists(sw.copied(name))
	if err != nil || !needed {
		return err
	}
	if err := sw.takeAsHalfDone(name); err != nil {
		return err
	}
	setErr, err := sw.overwrite(ctx, sw.copied(name), string(name))
	if errors.Is(err, errNotWritten) {
		untouched, lookErr := sw.mayStay(ctx, name)
		if untouched {
			return nil
		}
		err = errors.Join(err, lookErr)
	}
	if !errors.Is(setErr, fs.ErrPermission) {
		err = errors.Join(err, setErr)
	}
	if err != nil {
		return err
	}
	return errors.Join(sw.dir.remove(sw.copied(name)), sw.dir.syncDir(path.Join(sw.Staging, "copy")))
}

// takeAsHalfDone takes back that a mount point has all of the new bytes: it is
// about to have some of them.
func (sw *swap) takeAsHalfDone(name rawString) error {
	done, err := sw.dir.exists(sw.done(name))
	if err != nil || !done {
		return err
	}
	if err := sw.dir.rename(sw.done(name), sw.staged(name)); err != nil {
		return err
	}
	return errors.Join(sw.dir.syncDir(path.Join(sw.Staging, "new")), sw.dir.syncDir(path.Join(sw.Staging, "done")))
}

// mayStay reports whether a mount point looks as it did before the exchange,
// and has the bytes that were saved of it. That it reads like them is not enough:
// what is read need not be what is on the disk, if a sync has failed.
func (sw *swap) mayStay(ctx context.Context, name rawString) (bool, error) {
	i := slices.Index(sw.Old, name)
	if i < 0 || i >= len(sw.OldSeen) || sw.OldSeen[i] == "" {
		return false, nil
	}
	if changed, err := sw.hasChanged(ctx, name, sw.OldSeen[i]); err != nil || changed {
		return false, err
	}
	want, err := sw.hashOf(ctx, sw.copied(name))
	if err != nil {
		return false, err
	}
	got, err := sw.hashOf(ctx, string(name))
	return got == want, err
}

// hashOf returns the SHA-256 of a file.
func (sw *swap) hashOf(ctx context.Context, name string) (string, error) {
	f, _, err := sw.dir.open(ctx, name)
	if err != nil {
		return "", err
	}
	defer f.Close() // nothing was written
	return hashOf(ctx, f, unreported)
}

// copyFile returns what the file looked like that it has copied.
func (sw *swap) copyFile(ctx context.Context, from, to string) (fileInfo, error) {
	src, info, err := sw.dir.open(ctx, from)
	if err != nil {
		return info, err
	}
	defer src.Close() // nothing was written
	err = sw.dir.createFile(to, func(f afero.File) error {
		if _, err := copyBytes(ctx, f, src, unreported); err != nil {
			return err
		}
		return sw.dir.setAttributes(to, info.mode, info.mtime) // to be synced, too
	})
	if err != nil {
		return info, err
	}
	return info, sw.dir.setAttributes(to, info.mode, info.mtime) // see stageFile
}

// errNotWritten: a file may not be written to, and was not.
var errNotWritten = errors.New("cannot be overwritten")

// overwrite gives the file to the bytes, mode and time of from, durably, in the
// same inode. setErr is for mode and time.
func (sw *swap) overwrite(ctx context.Context, from, to string) (setErr, err error) {
	src, info, err := sw.dir.open(ctx, from)
	if err != nil {
		return nil, err
	}
	defer src.Close() // nothing was written
	dst, err := sw.openToOverwrite(ctx, to)
	if err != nil {
		return nil, notWritten(err)
	}
	n, err := copyBytes(ctx, dst, src, unreported)
	if err != nil && n == 0 {
		return nil, errors.Join(notWritten(err), dst.Close())
	}
	if err == nil {
		err = dst.Truncate(info.size)
	}
	setErr = sw.dir.setAttributes(to, info.mode, info.mtime)
	if err = errors.Join(err, dst.Sync(), dst.Close()); err != nil {
		return setErr, err
	}
	return sw.dir.setAttributes(to, info.mode, info.mtime), nil // see stageFile
}

// openToOverwrite opens a mount point, also if we have overwritten it before with
// what nobody may write to.
func (sw *swap) openToOverwrite(ctx context.Context, name string) (afero.File, error) {
	f, _, err := sw.dir.openRegular(ctx, name, os.O_WRONLY)
	if !errors.Is(err, fs.ErrPermission) {
		return f, err
	}
	fi, statErr := sw.dir.lstat(name)
	if statErr != nil || sw.dir.setAttributes(name, fi.mode|0o200, fi.mtime) != nil {
		return nil, err // it is not ours
	}
	f, _, err = sw.dir.openRegular(ctx, name, os.O_WRONLY)
	return f, err
}

// notWritten marks an error of writing that says that it is not permitted.
func notWritten(err error) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("%w: %w", errNotWritten, err)
	}
	return err
}

// isMountError reports whether a rename failed because one of its ends is a
// mount point, or they are not of one file system: see rename(2).
func isMountError(err error) bool {
	return errors.Is(err, syscall.EXDEV) || errors.Is(err, syscall.EBUSY)
}
