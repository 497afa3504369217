package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// A Recovery is what [Store.Recover] did.
type Recovery struct {
	Stamp       string   `json:"stamp"`                // of the snapshot that was being restored; "" if none was
	SafetyStamp string   `json:"pre_restore_snapshot"` // of the safety snapshot, or ""
	Outcome     Outcome  `json:"outcome"`
	Sources     []string `json:"sources"` // whose state was, or would have been, replaced

	// Verified reports whether a state that is RestoreFinished was read back
	// and compared with the snapshot. It is not if that is gone.
	Verified bool `json:"verified"`
}

// An Outcome says which state is in place after [Store.Recover].
type Outcome string

const (
	NothingPending  Outcome = "nothing_pending"  // no restore was interrupted
	RestoreFinished Outcome = "restore_finished" // the state of the snapshot
	RestoreUndone   Outcome = "restore_undone"   // the state before the restore
	Discarded       Outcome = "discarded"        // either, as it was; what was staged has been removed
)

// Recover finishes or undoes a restore that was interrupted, by a crash or
// by an error that could not be undone. Call it before the service opens its
// databases: it does nothing if there is nothing to do. It may be
// interrupted itself, and called again.
//
// If it can do neither, the error matches [ErrRecoveryPending] and says what
// lies where: if the files are not there, as their file system is not
// mounted; if somebody has worked with them since; if a service is seen to
// have them open, which matches [ErrServiceRunning] too; or if there are
// files of an interrupted restore, and Dir has no journal of it. So does the
// error if what is of no use any more cannot be removed: then the state is in
// place all the same, and [Store.Restore] says what to do.
func (s *Store) Recover(ctx context.Context) (*Recovery, error) {
	r, err := s.recover(ctx)
	if err != nil {
		return nil, fmt.Errorf("backup: recover: %w", err)
	}
	return r, nil
}

func (s *Store) recover(ctx context.Context) (*Recovery, error) {
	ss, err := s.read()
	if err != nil {
		return nil, err
	}
	defer ss.close()
	none := &Recovery{Outcome: NothingPending, Sources: []string{}}
	if ss == nil {
		return none, s.checkOrphans()
	}
	pending, err := ss.root.exists(journalName)
	if err != nil {
		return nil, err
	}
	if !pending && s.checkOrphans() == nil {
		return none, nil
	}
	if err := ss.lockState(ctx, exclusive); err != nil { // of a restore that has begun meanwhile
		return nil, err
	}
	j, err := ss.readJournal(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecoveryPending, err)
	}
	if j == nil {
		return none, s.checkOrphans()
	}
	defer j.close()
	r := &Recovery{Stamp: j.Stamp, SafetyStamp: j.Safety, Sources: j.sources()}
	if err := ss.settle(ctx, j, r); err != nil {
		return nil, err
	}
	s.cfg.Logger.InfoContext(ctx, "interrupted restore settled", "stamp", j.Stamp, "outcome", r.Outcome)
	return r, nil
}

// settle does what the journal says and removes it.
func (ss *session) settle(ctx context.Context, j *journal, r *Recovery) error {
	var err error
	switch j.Phase {
	case phaseDiscard:
		r.Outcome = Discarded
	case phaseSwap:
		err = ss.finishOrUndo(ctx, j, r)
	case phaseUndo:
		r.Outcome = RestoreUndone
		err = ss.finishUndo(ctx, j)
	}
	if err != nil {
		return j.pending(err)
	}
	if r.Outcome == RestoreFinished {
		j.keepMade(ss.cfg.Fs)
	}
	return ss.discard(j)
}

// finish puts the new state in place, and reads it back. With one that was in
// place wholly the service may have worked since: that is no damage.
func (ss *session) finish(ctx context.Context, j *journal, r *Recovery) error {
	complete, err := ss.openSwaps(ctx, j, toNew)
	if err == nil {
		err = ss.probeSettled(ctx, j)
	}
	if err == nil {
		err = ss.forward(ctx, j)
	}
	if err == nil && (!complete || !ss.isWorkedWith(ctx, j)) {
		err = j.checkMovedOut(ctx)
	}
	if err != nil {
		return err
	}
	report, from, err := ss.examine(ctx, j.Stamp, ValidateStructure)
	if err != nil {
		return err
	}
	if from == nil || len(unacceptable(report, captureCodes)) > 0 {
		ss.cfg.Logger.WarnContext(ctx, "what was restored cannot be verified: the snapshot is gone or damaged", "stamp", j.Stamp)
		return nil
	}
	v := &restorer{session: ss, from: from, journal: j, meter: silentMeter()}
	if err := v.assign(); err != nil {
		return err
	}
	if err := v.fillHashes(ctx); err != nil {
		ss.cfg.Logger.WarnContext(ctx, "what was restored cannot be verified", "stamp", j.Stamp, "error", err)
		return ctx.Err()
	}
	err = v.verify(ctx)
	if err == nil {
		err = v.closeDirs()
	}
	r.Verified = err == nil
	if err != nil && complete && ss.isWorkedWith(ctx, j) {
		ss.cfg.Logger.WarnContext(ctx, "somebody has worked with what was restored", "stamp", j.Stamp)
		return nil
	}
	return err
}

// isWorkedWith reports whether somebody has written to what was put in place,
// as opposed to its having rotted. Other file systems than the operating
// system's do not rot.
func (ss *session) isWorkedWith(ctx context.Context, j *journal) bool {
	return slices.ContainsFunc(j.Swaps, func(sw *swap) bool {
		name, err := sw.findWorkedWith(ctx, true)
		return err == nil && name != "" || !sw.dir.native
	})
}

// finishOrUndo puts the new state in place or, if that cannot be done and nobody
// is at work, the old one back. A shortage says nothing about either: the next try
// has what is needed.
func (ss *session) finishOrUndo(ctx context.Context, j *journal, r *Recovery) error {
	r.Outcome = RestoreFinished
	err := ss.finish(ctx, j, r)
	if err == nil || ctx.Err() != nil || isShortage(err) || errors.Is(err, errStranger) || errors.Is(err, ErrServiceRunning) {
		return err
	}
	ss.cfg.Logger.ErrorContext(ctx, "interrupted restore cannot be finished", "stamp", j.Stamp, "error", err)
	r.Outcome = RestoreUndone
	_, undoErr := ss.openSwaps(ctx, j, toOld)
	if undoErr == nil {
		undoErr = ss.undo(ctx, j)
	}
	if undoErr != nil {
		return errors.Join(err, undoErr)
	}
	return nil
}

// finishUndo puts the old state back, unless it is there: then only the note of
// that may be missing, and the service may have worked since.
func (ss *session) finishUndo(ctx context.Context, j *journal) error {
	undone, err := ss.openSwaps(ctx, j, toOld)
	if err != nil {
		return err
	}
	if undone {
		return j.sync()
	}
	if err := ss.probeSettled(ctx, j); err != nil {
		return err
	}
	return ss.undo(ctx, j)
}

// checkOrphans looks for what an interrupted restore has left beside the
// sources, when Dir has no journal of it.
func (s *Store) checkOrphans() error {
	for i := range s.cfg.Sources {
		src := &s.cfg.Sources[i]
		root, _, err := s.swapRoot(src)
		var d *dir
		if err == nil {
			d, err = openDirOrNone(s.cfg.Fs, root)
		}
		if isShortage(err) {
			return err
		}
		if err != nil || d == nil {
			continue // to be told by who needs it
		}
		name, err := d.findStaged(src.Name)
		d.close()
		if err != nil {
			return err
		}
		if name != "" {
			return fmt.Errorf("%w: %s was left by a restore whose journal is not in %s: is that the right directory, and mounted?",
				ErrRecoveryPending, d.full(name), s.cfg.Dir)
		}
	}
	return nil
}
