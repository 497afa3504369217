package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"
)

// CleanupOptions are the options of [Store.Cleanup].
type CleanupOptions struct {
	Retention *Retention // if nil, Config.Retention
	Confirm   bool       // delete; else only say what would be deleted
}

// A Cleanup is what [Store.Cleanup] did, or would do.
type Cleanup struct {
	DryRun      bool       `json:"dry_run"`
	Kept        int        `json:"kept"`
	WouldDelete int        `json:"would_delete"` // in a dry run
	Deleted     int        `json:"deleted"`
	Unparseable []string   `json:"unparseable"` // names under Dir/snapshots that are not snapshots'; never touched
	Decisions   []Decision `json:"decisions"`   // newest first
}

// Cleanup removes the snapshots that the retention does not keep: see
// [Retention.Plan]. It is a dry run unless confirmed.
//
// A dry run goes by what was recorded when the snapshots were taken. Before
// anything is removed, the newest good one, that of each source, and as many as
// MinKeep demands are validated at [ValidateStructure], and held until Cleanup
// ends; one that fails is an invalid one, and the next older takes its place.
// That takes a look at each name in them, but reads no more of the files than the
// headers of databases.
//
// When it is cancelled, or a removal fails, the snapshots that it had
// removed by then stay removed; the Cleanup that it returns beside the error
// counts them. A snapshot that somebody else has removed meanwhile counts as
// neither kept nor deleted: its Decision says that it is gone already.
func (s *Store) Cleanup(ctx context.Context, opts *CleanupOptions) (*Cleanup, error) {
	if opts == nil {
		opts = &CleanupOptions{}
	}
	result, err := s.cleanup(ctx, opts)
	if err != nil {
		return result, fmt.Errorf("backup: cleanup: %w", err)
	}
	return result, nil
}

func (s *Store) cleanup(ctx context.Context, opts *CleanupOptions) (*Cleanup, error) {
	retention := s.cfg.Retention
	if opts.Retention != nil {
		retention = *opts.Retention
	}
	if err := retention.validate(); err != nil {
		return nil, err
	}
	ss, err := s.cleanupSession(ctx, opts)
	if err != nil {
		return nil, err
	}
	defer ss.close()
	snapshots, others, err := ss.list(ctx)
	if err != nil {
		return nil, err
	}
	now := s.cfg.Now()
	if opts.Confirm && len(snapshots) > 0 {
		if err := ss.lookAgain(ctx, retention, snapshots, now); err != nil {
			return nil, err
		}
	}
	result := &Cleanup{
		DryRun:      !opts.Confirm,
		Unparseable: append([]string{}, others...),
		Decisions:   retention.Plan(snapshots, now, s.cfg.Location),
	}
	return result, ss.apply(ctx, result, snapshots)
}

// lookAgain examines the snapshots on which a plan rests, and notes with each
// what is wrong, until the plan rests on whole ones or removes nothing: the
// metadata of one that has lost its database still call it good, and all that
// are older might go for its sake. The whole ones are held until the session
// ends, so that nobody else removes them meanwhile.
func (ss *session) lookAgain(ctx context.Context, r Retention, snapshots []Snapshot, now time.Time) error {
	looked := make(map[string]bool)
	for {
		plan := r.judge(snapshots, now, ss.cfg.Location)
		if !slices.ContainsFunc(plan, func(c candidate) bool { return len(c.keep) == 0 }) {
			return nil
		}
		flawed, err := ss.lookAtSupports(ctx, plan, looked)
		if err != nil || !flawed {
			return err
		}
	}
}

// lookAtSupports examines what a plan rests on and was not looked at yet, until
// it has found a flaw: another plan is needed then, and only then.
func (ss *session) lookAtSupports(ctx context.Context, plan []candidate, looked map[string]bool) (flawed bool, err error) {
	for _, c := range plan {
		if !c.support || looked[c.Stamp] {
			continue
		}
		looked[c.Stamp] = true
		if err := ss.examineAgain(ctx, c.Snapshot); err != nil {
			return false, err
		}
		if flaw := c.Snapshot.flaw(); flaw != "" {
			ss.cfg.Logger.WarnContext(ctx, "snapshot is no longer good", "stamp", c.Stamp, "flaw", flaw)
			return true, nil
		}
	}
	return false, nil
}

// examineAgain adds to a good snapshot what is wrong with it now, or holds it. Its
// error is that of ctx: what cannot be examined is as good as unread.
func (ss *session) examineAgain(ctx context.Context, snap *Snapshot) error {
	unlock, err := ss.holdJudged(ctx, snap)
	if err == nil {
		var report *Report
		report, err = ss.validate(ctx, snap.Stamp, ValidateStructure)
		if err == nil {
			snap.Problems = report.Problems
		}
	}
	if err != nil {
		snap.Problems = []Problem{{Code: CodeUnreadable, Detail: err.Error()}}
	}
	switch {
	case unlock == nil:
	case snap.flaw() == "":
		ss.unlocks = append(ss.unlocks, unlock)
	default:
		unlock() // it may be removed
	}
	return ctx.Err()
}

// holdJudged keeps others from removing a snapshot, if it still is the one that
// was listed.
func (ss *session) holdJudged(ctx context.Context, listed *Snapshot) (unlock func(), err error) {
	t, err := parseStamp(listed.Stamp)
	if err != nil {
		return nil, err
	}
	unlock, err = ss.locks.tryLock(ss.root, snapshotLock(t), shared)
	if err != nil {
		return nil, err // somebody removes it, or has, and makes another of its name
	}
	if err := ss.checkJudged(ctx, listed); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// errOther: what has the name of a snapshot is not what was judged.
var errOther = errors.New("has changed since it was listed")

// checkJudged returns errOther unless a snapshot, which the caller holds, is the
// one that was listed: whoever has removed that may have taken its stamp for
// another.
func (ss *session) checkJudged(ctx context.Context, listed *Snapshot) error {
	now := ss.lookAt(ctx, listed.Stamp)
	if now.gone {
		return &fs.PathError{Op: "open", Path: ss.snapshots.full(listed.Stamp), Err: fs.ErrNotExist}
	}
	if now.HasMetadata != listed.HasMetadata || !now.CreatedAt.Equal(listed.CreatedAt) || now.Pinned != listed.Pinned {
		return errOther
	}
	return nil
}

// cleanupSession begins a session that only reads, or one that may remove.
func (s *Store) cleanupSession(ctx context.Context, opts *CleanupOptions) (*session, error) {
	if !opts.Confirm {
		return s.read()
	}
	there, err := s.hasStore()
	if err != nil {
		return nil, err
	}
	if there {
		return s.write(ctx, shared)
	}
	return s.read()
}

// apply removes what was decided of the snapshots that were listed, oldest first,
// so that what is left at any instant is what a retention of more would have left.
func (ss *session) apply(ctx context.Context, result *Cleanup, snapshots []Snapshot) error {
	listed := make(map[string]*Snapshot, len(snapshots))
	for i := range snapshots {
		listed[snapshots[i].Stamp] = &snapshots[i]
	}
	var errs []error
	for i := len(result.Decisions) - 1; i >= 0; i-- {
		d := &result.Decisions[i]
		if d.Keep {
			result.Kept++
			continue
		}
		if result.DryRun {
			result.WouldDelete++
			continue
		}
		err := ctx.Err()
		if err == nil {
			err = ss.delete(d.Stamp, func() error { return ss.checkJudged(ctx, listed[d.Stamp]) })
		}
		switch {
		case errors.Is(err, errOther):
			d.Keep, d.Reasons = true, []string{errOther.Error()}
			result.Kept++
		case errors.Is(err, ErrBusy): // since the list was made
			d.Keep, d.Reasons = true, []string{"in use"}
			result.Kept++
		case errors.Is(err, fs.ErrNotExist): // likewise, by somebody else
			d.Reasons = append(d.Reasons, "gone already")
		case err != nil:
			d.Keep, d.Reasons = true, []string{"not removed: " + err.Error()}
			result.Kept++
			errs = append(errs, fmt.Errorf("%s: %w", d.Stamp, err))
		default:
			result.Deleted++
			ss.cfg.Logger.InfoContext(ctx, "snapshot removed", "stamp", d.Stamp, "reasons", d.Reasons)
		}
	}
	return errors.Join(errs...)
}

// Delete removes one snapshot, whatever the retention says. It answers ErrBusy
// at once if somebody is using it, or a Cleanup is removing others for its sake,
// and [CodeSnapshotMissing], which matches [fs.ErrNotExist], if there is none.
func (s *Store) Delete(ctx context.Context, stamp string) error {
	if _, err := parseStamp(stamp); err != nil {
		return fmt.Errorf("backup: delete: %w", err)
	}
	err := ctx.Err()
	if err == nil {
		err = s.deleteOne(ctx, stamp)
	}
	if err != nil {
		return fmt.Errorf("backup: delete %s: %w", stamp, err)
	}
	return nil
}

func (s *Store) deleteOne(ctx context.Context, stamp string) error {
	there, err := s.hasStore()
	if err == nil && !there {
		err = Problem{Code: CodeSnapshotMissing, Detail: "there is no store in " + s.cfg.Dir}
	}
	if err != nil {
		return err
	}
	ss, err := s.write(ctx, shared)
	if err != nil {
		return err
	}
	defer ss.close()
	return ss.delete(stamp, func() error { return nil })
}

// delete removes a snapshot that nobody is using, unless check, which is called
// when nobody can begin to, returns an error.
func (ss *session) delete(stamp string, check func() error) error {
	t, err := parseStamp(stamp)
	if err != nil {
		return err
	}
	unlock, err := ss.locks.tryLock(ss.root, snapshotLock(t), exclusive)
	if errors.Is(err, ErrBusy) {
		return fmt.Errorf("it is being created, validated, restored or shared with, or a cleanup rests on it: %w", err)
	}
	if err != nil {
		return err
	}
	defer unlock()
	fi, err := ss.snapshots.lstat(stamp)
	if errors.Is(err, fs.ErrNotExist) {
		return Problem{Code: CodeSnapshotMissing, Detail: err.Error()}
	}
	if err != nil {
		return err
	}
	if !fi.isDir() {
		return &fs.PathError{Op: "delete", Path: ss.snapshots.full(stamp), Err: errors.New("not a snapshot's directory")}
	}
	if err := check(); err != nil {
		return err
	}
	return ss.remove(stamp)
}

// remove removes the directory of a snapshot that the caller holds. The
// metadata goes first, durably: what a crash leaves never looks whole. But it
// does not go at all if the rest is going to be refused.
func (ss *session) remove(stamp string) error {
	if err := ss.snapshots.checkNoMounts(stamp); err != nil {
		return err
	}
	d, err := ss.snapshots.sub(stamp)
	if err != nil {
		return ignoreNotExist(err)
	}
	err = d.remove(metadataName)
	if fi, lstatErr := d.lstat(metadataName); lstatErr == nil && fi.isDir() {
		err = d.removeAll(metadataName) // somebody has made it
	}
	if err == nil {
		err = d.syncDir(".")
	}
	d.close()
	if err := ignoreNotExist(err); err != nil {
		return err
	}
	if err := ss.snapshots.removeAll(stamp); err != nil {
		return err
	}
	return ss.snapshots.syncDir(".")
}
