package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
)

// How a swap finds out that somebody works, or has worked, with the files: before
// Recover was called, or while a restore makes its exchange.

// errStranger: somebody has worked with the files of an interrupted restore.
var errStranger = errors.New("has come to be, or has changed, since the restore had it in its hands: did the service run in the middle of it, or before Recover? Keep what is needed of it, move it away, and call Recover again")

func (sw *swap) stranger(name rawString) error {
	return fmt.Errorf("%s %w", sw.dir.full(string(name)), errStranger)
}

// findStrangers returns errStranger for what lies where the swap, finished or
// undone to whatever extent, has put nothing.
func (sw *swap) findStrangers(ctx context.Context, to direction, complete bool) error {
	if len(sw.NewSeen) != len(sw.New) || len(sw.OldSeen) != len(sw.Old) {
		return errors.New("the journal does not say what the files looked like")
	}
	isNew := sw.isNew()
	if err := sw.findOldStrangers(ctx, isNew); err != nil {
		return err
	}
	worked, err := sw.findWorkedWith(ctx, complete)
	if err != nil {
		return err
	}
	if worked != "" && !complete {
		return sw.stranger(worked)
	}
	return sw.findStrangeSidecars(ctx, isNew, to)
}

func (sw *swap) isNew() map[rawString]bool {
	isNew := make(map[rawString]bool, len(sw.New))
	for _, name := range sw.New {
		isNew[name] = true
	}
	return isNew
}

// findOldStrangers looks at the names of old entries: who is there may only be
// the old one itself, or the new one.
func (sw *swap) findOldStrangers(ctx context.Context, isNew map[rawString]bool) error {
	for i, name := range sw.Old {
		w, err := sw.whereIs(name)
		if err != nil {
			return err
		}
		if !w.inPlace || isNew[name] && !w.staged || sw.isHarmless(ctx, name, w) {
			continue
		}
		if slices.Contains(sw.InPlace, name) {
			if err := sw.checkHalfWritten(ctx, name, sw.OldSeen[i]); err != nil {
				return err
			}
			continue
		}
		changed, err := sw.hasChanged(ctx, name, sw.OldSeen[i])
		if err != nil {
			return err
		}
		if w.saved || changed {
			return sw.stranger(name)
		}
	}
	return nil
}

// findStrangeSidecars looks beside what is, or was, or will be at the names of the
// swap.
func (sw *swap) findStrangeSidecars(ctx context.Context, isNew map[rawString]bool, to direction) error {
	mains := slices.Concat(sw.New, sw.Old)
	if sw.Database != "" {
		mains = append(mains, sw.Database)
	}
	slices.Sort(mains)
	for _, main := range slices.Compact(mains) {
		log, err := sw.findLog(ctx, main, func(log rawString) (bool, error) {
			ours, err := sw.isOwnLog(log, main, isNew, to)
			return !ours, err
		})
		if err == nil && log != "" {
			err = sw.stranger(log)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// isOwnLog reports whether what lies beside a database belongs to that one, old
// or new.
func (sw *swap) isOwnLog(name, main rawString, isNew map[rawString]bool, to direction) (bool, error) {
	log, err := sw.whereIs(name)
	if err != nil || isNew[name] && !log.staged {
		return true, err
	}
	db, err := sw.whereIs(main)
	if isNew[main] && !db.staged && db.inPlace { // the old ones are out of the way
		return to == toNew, err // the new database is in use
	}
	return slices.Contains(sw.Old, name), err
}

// findWorkedWith returns the name of a new entry that was put in place and has
// changed since, or is gone, if all of them were put there; or "".
func (sw *swap) findWorkedWith(ctx context.Context, complete bool) (rawString, error) {
	for i, name := range sw.New {
		w, err := sw.whereIs(name)
		if err != nil {
			return "", err
		}
		if complete && !w.inPlace {
			return name, nil
		}
		if !w.inPlace || w.staged {
			continue
		}
		changed, err := sw.hasChanged(ctx, name, sw.NewSeen[i])
		if err == nil && changed && slices.Contains(sw.InPlace, name) {
			changed, err = sw.hasOtherBytes(ctx, name)
		}
		if err != nil || changed {
			return name, err
		}
	}
	return "", nil
}

// findNewcomer returns what somebody has put into a directory of a tree since the
// old entries were listed, or "". Some of those may still be there if the exchange
// is not over. (What is named like a log beside a database is for findLog.)
func (sw *swap) findNewcomer(ctx context.Context, over bool) (rawString, error) {
	if sw.Stay == nil { // it is no tree
		return "", nil
	}
	known := sw.isNew()
	for _, name := range slices.Concat(sw.Stay, sw.InPlace) {
		known[name] = true
	}
	for _, name := range sw.Old {
		known[name] = known[name] || !over
	}
	found, err := sw.dir.readDir(".")
	if err != nil {
		return "", err
	}
	for _, fi := range found {
		name, main := rawString(fi.name), rawString(mainOf(fi.name))
		if !known[name] && !fi.isStaging() && (main == "" || !sw.isDatabase(ctx, main)) {
			return name, nil
		}
	}
	return "", nil
}

// hasChanged compares what is at a name with what was seen there before, if
// that is known.
func (sw *swap) hasChanged(ctx context.Context, name rawString, seen string) (bool, error) {
	if seen == "" {
		return false, nil
	}
	now, err := sw.dir.fingerprint(ctx, string(name))
	return now != seen, err
}

// errAtWork: somebody works with the old files, as they make room. All can be
// undone.
var errAtWork = errors.New("somebody is at work with what is replaced")

func (sw *swap) writtenTo(name rawString) error {
	return fmt.Errorf("%w: %s was written to", errAtWork, sw.dir.full(string(name)))
}

func (sw *swap) inTheWay(name rawString) error {
	return fmt.Errorf("%w: %s is in the way", errAtWork, sw.dir.full(string(name)))
}

func (sw *swap) cameToBe(name rawString) error {
	return fmt.Errorf("%w: %s has come to be", errAtWork, sw.dir.full(string(name)))
}

// checkClear returns errAtWork for what lies where a new entry is to be put, and
// for what would be its log and can only be that of the old one. That joins the
// old files, so that an undo takes it for theirs.
func (sw *swap) checkClear(ctx context.Context, name rawString) error {
	w, err := sw.whereIs(name)
	if err != nil || !w.staged {
		return err
	}
	if w.inPlace && !slices.Contains(sw.InPlace, name) && !sw.isHarmless(ctx, name, w) {
		return sw.inTheWay(name)
	}
	log, err := sw.findLog(ctx, name, func(log rawString) (bool, error) { return !slices.Contains(sw.New, log), nil })
	if err == nil && log != "" {
		sw.Old, sw.OldSeen = append(sw.Old, log), append(sw.OldSeen, "")
		err = sw.inTheWay(log)
	}
	return err
}

// checkMovedOut returns errAtWork if what has made room was written to
// after it was looked at, right before the exchange: by who had it open, or came
// in between.
func (sw *swap) checkMovedOut(ctx context.Context) error {
	for i, name := range sw.Old {
		w, err := sw.whereIs(name)
		if err != nil {
			return err
		}
		isIndex := name == sw.Database+"-shm" // which a look at the database writes to
		if !w.saved || sw.OldSeen[i] == "" || isIndex {
			continue
		}
		now, err := sw.dir.fingerprint(ctx, sw.saved(name))
		if err == nil && now != sw.OldSeen[i] {
			err = sw.writtenTo(name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// findLog returns the name of a file beside what is called name that is, or
// would be, the log of a database; or "".
func (sw *swap) findLog(ctx context.Context, name rawString, fits func(log rawString) (bool, error)) (rawString, error) {
	for _, suffix := range sidecars {
		log := name + rawString(suffix)
		fi, err := sw.dir.lstat(string(log))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENAMETOOLONG) {
			continue
		}
		if err != nil {
			return "", err
		}
		if !fi.isRegular() || fi.isHarmlessSidecar(suffix) || !sw.isDatabase(ctx, name) {
			continue
		}
		if found, err := fits(log); err != nil || found {
			return log, err
		}
	}
	return "", nil
}

// isDatabase reports whether what is called name, old or new, is a database.
func (sw *swap) isDatabase(ctx context.Context, name rawString) bool {
	if sw.Database != "" {
		return name == sw.Database
	}
	return slices.ContainsFunc([]string{string(name), sw.saved(name), sw.staged(name)}, func(at string) bool {
		return place{sw.dir, at}.isDatabase(ctx)
	})
}

// isHarmless reports whether what is at a name is a sidecar without meaning.
func (sw *swap) isHarmless(ctx context.Context, name rawString, w whereabouts) bool {
	main := mainOf(string(name))
	return main != "" && w.info.isHarmlessSidecar(strings.TrimPrefix(string(name), main)) && sw.isDatabase(ctx, rawString(main))
}

// isHarmlessSidecar reports whether a sidecar may be what a look at the database
// has left: an empty one, or the index of a write-ahead log, which is made anew.
func (fi fileInfo) isHarmlessSidecar(suffix string) bool {
	return fi.isRegular() && (fi.size == 0 || suffix == "-shm")
}
