package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/afero"
)

// journalName is the intent journal of a restore, under Dir. While it is
// there, a restore is pending.
const journalName = "restore-journal.json"

const (
	journalFormat   = "atocore-restore/1"
	maxJournalBytes = 64 << 20
)

// A phase says what Recover has to do.
type phase string

const (
	phaseSwap    phase = "swap"    // put the new state in place: all of it is staged
	phaseUndo    phase = "undo"    // put the old state back
	phaseDiscard phase = "discard" // the state is as it should be: remove what was staged
)

// A journal says what a restore is about to do. It is sealed: see seal.
type journal struct {
	Format string  `json:"format"`
	Stamp  string  `json:"stamp"`        // of what is restored
	Safety string  `json:"safety_stamp"` // of the safety snapshot, or ""
	Phase  phase   `json:"phase"`
	Swaps  []*swap `json:"swaps"`
}

// writeJournal makes the journal durable.
func (ss *session) writeJournal(j *journal) error {
	data, err := j.encode(maxJournalBytes)
	if err != nil {
		return err
	}
	return ss.root.replaceFile(journalName, data)
}

// encode seals the journal, if it has no more than limit bytes.
func (j *journal) encode(limit int) ([]byte, error) {
	data, err := seal(j)
	if err == nil && len(data) > limit {
		err = fmt.Errorf("journal of %d bytes, of which %d are allowed: too many names at the top of the trees: restore fewer Sources at a time, move what is in the trees away before, or restore by hand", len(data), limit)
	}
	return data, err
}

// checkJournal refuses an exchange of more names than a journal may hold, which
// would else be found out when all is staged. There has to be room for mount
// points that are not known before they are met with.
func (r *restorer) checkJournal() error {
	const room = 1 << 20 // bytes
	unseen := func(names []rawString) []string { return slices.Repeat([]string{"0123456789abcdef"}, len(names)) }
	draft := *r.journal
	draft.Safety, draft.Swaps = draft.Stamp, nil
	for _, sw := range r.journal.Swaps {
		full := *sw
		full.NewSeen, full.OldSeen = unseen(sw.New), unseen(sw.Old)
		draft.Swaps = append(draft.Swaps, &full)
	}
	_, err := draft.encode(maxJournalBytes - room)
	return err
}

// beginSwap says in the journal that the exchange begins. If that fails, the
// journal has the phase that it has on the disk: what could not be replaced, for
// want of space, need not be.
func (r *restorer) beginSwap(ctx context.Context) error {
	r.journal.Phase = phaseSwap
	err := r.writeJournal(r.journal)
	if err == nil {
		return nil
	}
	there, readErr := r.readJournal(context.WithoutCancel(ctx))
	if readErr == nil && there != nil {
		r.journal.Phase = there.Phase
	}
	return err
}

// removeJournal ends a restore.
func (ss *session) removeJournal() error {
	if err := ss.root.remove(journalName); err != nil {
		return err
	}
	if err := ss.root.syncDir("."); err != nil {
		return fmt.Errorf("%w: %w", ErrDurabilityUnknown, err)
	}
	return nil
}

// readJournal returns the journal, or nil if there is none. One that is
// damaged, or that speaks of other paths than the sources', is an error:
// nothing is to be touched on its word.
func (ss *session) readJournal(ctx context.Context) (*journal, error) {
	data, err := ss.root.readFile(ctx, journalName, maxJournalBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var j *journal
	if err == nil {
		j, err = ss.parseJournal(data)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: nothing was touched: %w", ss.root.full(journalName), err)
	}
	return j, nil
}

func (ss *session) parseJournal(data []byte) (*journal, error) {
	var j journal
	if err := unseal(data, &j); err != nil {
		return nil, err
	}
	if j.Format != journalFormat {
		return nil, fmt.Errorf("format %q: want %q", j.Format, journalFormat)
	}
	if !slices.Contains([]phase{phaseSwap, phaseUndo, phaseDiscard}, j.Phase) {
		return nil, fmt.Errorf("phase %q: no such phase", j.Phase)
	}
	for _, sw := range j.Swaps {
		if sw == nil {
			return nil, errors.New("a swap of nothing")
		}
		if err := ss.checkSwap(sw); err != nil {
			return nil, err
		}
	}
	return &j, ss.checkTrees(&j)
}

// checkSwap refuses a swap that no restore of these sources could have
// written.
func (ss *session) checkSwap(sw *swap) error {
	src, ok := ss.source(sw.Source)
	if !ok {
		return fmt.Errorf("source %q is not configured", sw.Source)
	}
	if stagedFor(sw.Staging) != sw.Source || !isBaseName(sw.Staging) {
		return fmt.Errorf("source %q: staging directory %q", src.Name, sw.Staging)
	}
	root, base, err := ss.swapRoot(src)
	if err != nil {
		return err
	}
	inside := string(sw.Root) == root
	if src.Kind == Tree {
		inside = within(string(sw.Root), root) && ss.leadsStraight(root, string(sw.Root))
	}
	if !inside {
		return fmt.Errorf("source %q: its path is %s now, and not in %s", src.Name, src.Path, sw.Root)
	}
	if src.Kind == Database && string(sw.Database) != base || src.Kind != Database && sw.Database != "" {
		return fmt.Errorf("source %q: database %q", src.Name, sw.Database)
	}
	for _, name := range slices.Concat(sw.New, sw.Old, sw.InPlace) {
		suffix, ok := strings.CutPrefix(string(name), base)
		sidecar := src.Kind == Database && slices.Contains(sidecars, suffix)
		if !isBaseName(string(name)) || src.Kind != Tree && (!ok || suffix != "" && !sidecar) {
			return fmt.Errorf("source %q: entry %q", src.Name, name)
		}
	}
	if sw.InPlaceInodes == nil { // written before they were noted
		sw.InPlaceInodes = make([]uint64, len(sw.InPlace))
	}
	if len(sw.InPlaceInodes) != len(sw.InPlace) {
		return fmt.Errorf("source %q: %d mount points, and %d inodes", src.Name, len(sw.InPlace), len(sw.InPlaceInodes))
	}
	for _, made := range sw.Made {
		if !within(string(sw.Root), string(made)) {
			return fmt.Errorf("source %q: directory %q", src.Name, made)
		}
	}
	return nil
}

// checkTrees refuses a journal of a tree that was another directory then, in
// the one that it is now.
func (ss *session) checkTrees(j *journal) error {
	for _, name := range j.sources() {
		src, _ := ss.source(name)
		isRoot := func(sw *swap) bool { return sw.Source == name && string(sw.Root) == src.Path }
		if src.Kind == Tree && !slices.ContainsFunc(j.Swaps, isRoot) {
			return fmt.Errorf("source %q: its path is %s now, and was another", name, src.Path)
		}
	}
	return nil
}

// leadsStraight reports whether there is no symbolic link on the way from a
// directory to one within it: the restore of a tree follows none.
func (s *Store) leadsStraight(from, to string) bool {
	rel, err := filepath.Rel(from, to)
	return err == nil && realPath(s.cfg.Fs, to) == filepath.Join(realPath(s.cfg.Fs, from), rel)
}

func isBaseName(name string) bool {
	return localName(name) && !strings.ContainsAny(name, "/"+string(filepath.Separator))
}

func (j *journal) close() {
	for _, sw := range j.Swaps {
		sw.close()
	}
}

// keepMade has the directories that were made stay: they are in use now, be
// they empty.
func (j *journal) keepMade(fsys afero.Fs) {
	for _, sw := range j.Swaps {
		if len(sw.Made) == 0 {
			continue
		}
		sw.Made, sw.Inode = nil, 0
		if here, err := sw.anchor(fsys); err == nil {
			sw.Inode = here.inode
		}
	}
}

func (j *journal) sources() []string {
	names := []string{}
	for _, sw := range j.Swaps {
		if !slices.Contains(names, sw.Source) {
			names = append(names, sw.Source)
		}
	}
	return names
}

// checkMovedOut returns errAtWork for the first of the old files that was written
// to after it had made room.
func (j *journal) checkMovedOut(ctx context.Context) error {
	for _, sw := range j.Swaps {
		if err := sw.checkMovedOut(ctx); err != nil {
			return fmt.Errorf("source %q: %w", sw.Source, err)
		}
	}
	return nil
}

// sync makes all moves durable.
func (j *journal) sync() error {
	var errs []error
	for _, sw := range j.Swaps {
		errs = append(errs, sw.sync("new"), sw.sync("old"))
	}
	return errors.Join(errs...)
}

// forward puts the new state in place.
func (ss *session) forward(ctx context.Context, j *journal) error {
	for _, sw := range j.Swaps {
		if err := sw.forward(ctx, func() error { return ss.writeJournal(j) }); err != nil {
			return fmt.Errorf("source %q: %w", sw.Source, err)
		}
	}
	return nil
}

// undo puts the old state back, having said so in the journal. One source that cannot
// be put back does not keep the others from it.
func (ss *session) undo(ctx context.Context, j *journal) error {
	if err := ss.beginUndo(j); err != nil {
		return err
	}
	var failed []error
	for _, sw := range slices.Backward(j.Swaps) {
		if err := sw.undo(ctx); err != nil {
			failed = append(failed, fmt.Errorf("source %q: %w", sw.Source, err))
		}
	}
	return errors.Join(failed...)
}

// beginUndo says in the journal that the old state is to be put back: there is no
// going forward any more.
func (ss *session) beginUndo(j *journal) error {
	if j.Phase == phaseUndo {
		return nil
	}
	j.Phase = phaseUndo
	return ss.writeJournal(j)
}

// openSwaps finds all roots, and nothing of strangers in them, before any of
// them is touched. It reports whether all is done: the new entries are in place
// or, to undo, the old ones. With those the service may work.
func (ss *session) openSwaps(ctx context.Context, j *journal, to direction) (done bool, err error) {
	done = true
	for _, sw := range j.Swaps {
		var isDone bool
		err := sw.mustOpen(ss.cfg.Fs)
		if err == nil && to == toOld {
			isDone, err = sw.isUndone()
		} else if err == nil {
			isDone, err = sw.isComplete()
		}
		if err == nil && !isDone {
			err = sw.checkMounted()
		}
		if err != nil {
			return false, fmt.Errorf("source %q: %w", sw.Source, err)
		}
		done = done && isDone
	}
	if to == toOld && done {
		return true, nil
	}
	for _, sw := range j.Swaps {
		err := sw.findStrangers(ctx, to, done)
		if err == nil && to == toNew && !done {
			var name rawString
			if name, err = sw.findNewcomer(ctx, false); err == nil && name != "" {
				err = sw.stranger(name)
			}
		}
		if err != nil {
			return false, fmt.Errorf("source %q: %w", sw.Source, err)
		}
	}
	return done, nil
}

// discard removes what was staged, and then the journal.
func (ss *session) discard(j *journal) error {
	if err := ss.beginDiscard(j); err != nil {
		return err
	}
	return ss.removeStaged(j)
}

// beginDiscard says in the journal that the state is as it should be.
func (ss *session) beginDiscard(j *journal) error {
	was := j.Phase
	if was == phaseDiscard {
		return nil
	}
	j.Phase = phaseDiscard
	if err := ss.writeJournal(j); err != nil {
		j.Phase = was
		return j.pending(err)
	}
	return nil
}

// removeStaged removes what was staged, or has made room, and then the journal.
func (ss *session) removeStaged(j *journal) error {
	for _, sw := range j.Swaps {
		if err := sw.discard(ss.cfg.Fs); err != nil {
			return j.pending(fmt.Errorf("source %q: %w", sw.Source, err))
		}
	}
	err := ss.removeJournal()
	if err != nil && !errors.Is(err, ErrDurabilityUnknown) {
		err = j.pending(err)
	}
	return err
}

// pending says what lies where, for somebody who has to go on by hand.
func (j *journal) pending(err error) error {
	var b strings.Builder
	for _, sw := range j.Swaps {
		if j.Phase == phaseDiscard {
			if sw.dir != nil {
				if there, err := sw.dir.exists(sw.Staging); err == nil && !there {
					continue
				}
			}
			fmt.Fprintf(&b, "; source %q: its state is in place, and %s remains to be removed", sw.Source, filepath.Join(string(sw.Root), sw.Staging))
			continue
		}
		staging := filepath.Join(string(sw.Root), sw.Staging)
		fmt.Fprintf(&b, "; source %q: old files in %s, new ones that are not in place yet in %s",
			sw.Source, filepath.Join(staging, "old"), filepath.Join(staging, "new"))
		if len(sw.InPlace) > 0 {
			fmt.Fprintf(&b, ", what mount points had, unless they have it again, in %s", filepath.Join(staging, "copy"))
		}
	}
	return fmt.Errorf("%w (phase %q%s): %w", ErrRecoveryPending, j.Phase, b.String(), err)
}
