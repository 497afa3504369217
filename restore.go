package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// RestoreOptions are the options of [Store.Restore].
type RestoreOptions struct {
	// ConfirmServiceStopped says that nobody has the state open. Restore
	// sees most services that run all the same, but not all: who has opened a
	// database and not read it yet holds no lock, and may begin a log when
	// another has taken its place, which damages that.
	ConfirmServiceStopped bool

	// Sources names what to put back. If empty, every source that the
	// snapshot captured.
	Sources []string

	// SkipSafetySnapshot leaves out the safety snapshot: what is replaced
	// is gone.
	SkipSafetySnapshot bool

	// DryRun validates the snapshot and says what would be restored. It
	// needs no confirmation.
	DryRun bool

	// Accept lists codes of problems that are not to stand in the way, where
	// they were found, in the same file, when the snapshot was taken too:
	// CodeFileChanged, CodeFileVanished, CodeRawCopy; CodeDatabaseCorrupt,
	// which may be said of a sound database (see there); CodeCheckFailed.
	// What was not recorded then is not accepted, and the bytes must be as
	// they were copied all the same. For safety snapshots all that went
	// wrong while they were copied is accepted.
	Accept []Code
}

// lockMode is how to hold the state lock.
func (o *RestoreOptions) lockMode() lockMode {
	if o.DryRun {
		return shared
	}
	return exclusive
}

// A Restoration is what [Store.Restore] did, or would do.
type Restoration struct {
	Stamp       string
	Restored    []string // names of sources
	SafetyStamp string   // of the safety snapshot; "" if it was skipped
	IntegrityOK bool     // reports whether the bytes of all restored databases passed SQLite's checks
	Bytes       int64
	DryRun      bool

	// SafetyProblems are those of the safety snapshot. If there are any, to
	// restore it does not bring back all of what there was. Nor does it bring
	// back sockets, pipes and device nodes, which are no problem: see
	// [SourceState].Skipped of the safety snapshot.
	SafetyProblems []Problem
}

// MarshalJSON uses the names of the Python module: an empty SafetyStamp is
// null.
func (r Restoration) MarshalJSON() ([]byte, error) {
	var safety *string
	if r.SafetyStamp != "" {
		safety = &r.SafetyStamp
	}
	return json.Marshal(struct {
		Stamp          string    `json:"stamp"`
		Restored       []string  `json:"restored"`
		SafetyStamp    *string   `json:"pre_restore_snapshot"`
		SafetyProblems []Problem `json:"pre_restore_problems,omitempty"`
		IntegrityOK    bool      `json:"restored_integrity_ok"`
		Bytes          int64     `json:"bytes"`
		DryRun         bool      `json:"dry_run"`
	}{r.Stamp, r.Restored, safety, r.SafetyProblems, r.IntegrityOK, r.Bytes, r.DryRun})
}

// Restore replaces the live state by a snapshot's: all of its sources or, if
// anything fails, none. The service must be stopped.
//
// The snapshot is validated in full. Then a safety snapshot is taken of what
// is about to be replaced, which can itself be restored to undo it all. The
// new files are written beside the old ones, read back and compared with the
// snapshot, and exchanged for the old ones by renames. What is in place in the
// end must be the very files that were read, by their identity, size, time and
// mode; where there is no telling, and of what is a mount point, the bytes in
// place are read.
//
// An error means that the old state is in place, also when ctx is cancelled.
// The exceptions:
//
//   - [ErrRecoveryPending] without a Restoration, when the old state could not
//     be put back, or what was staged not be removed, or somebody has begun to
//     work with the new state; or when all went well but for the note of that in
//     the journal, with which Recover finishes.
//   - [ErrRecoveryPending] with the Restoration, when the new state is in place
//     and verified, for good, and the old files could not be removed: they may be
//     immutable, belong to another user, or be a subvolume. The error says where
//     they are. Remove them by hand, or mend the permission, and then call
//     [Store.Recover].
//   - [ErrDurabilityUnknown], with which the Restoration is returned too.
//
// After a crash, [Store.Recover] finishes or undoes what was begun; all other
// operations that change anything are refused until then.
func (s *Store) Restore(ctx context.Context, stamp string, opts *RestoreOptions) (*Restoration, error) {
	if opts == nil {
		opts = &RestoreOptions{}
	}
	result, err := s.restore(ctx, stamp, opts)
	if err != nil {
		return result, fmt.Errorf("backup: restore %s: %w", stamp, err)
	}
	return result, nil
}

func (s *Store) restore(ctx context.Context, stamp string, opts *RestoreOptions) (*Restoration, error) {
	if _, err := parseStamp(stamp); err != nil {
		return nil, err
	}
	if !opts.ConfirmServiceStopped && !opts.DryRun {
		return nil, ErrNotConfirmed
	}
	there, err := s.hasStore()
	if err != nil {
		return nil, err
	}
	if !there {
		return nil, invalidSnapshot(missingReport(stamp, ValidateFull).Problems)
	}
	ss, err := s.write(ctx, opts.lockMode())
	if err != nil {
		return nil, err
	}
	defer ss.close()
	r := &restorer{
		session: ss, meter: s.newMeter("restore"), verified: true,
		journal: &journal{Format: journalFormat, Stamp: stamp, Phase: phaseDiscard},
	}
	defer r.journal.close()
	return r.run(ctx, stamp, opts)
}

// A restorer carries out one restore.
type restorer struct {
	*session
	from     *loaded
	sources  []*Source
	journal  *journal
	bytes    int64
	meter    *meter
	verified bool // all databases passed SQLite's checks, with the bytes that were staged
	replaced bool // the new state is in place for good
}

// run is a restore: gates, safety snapshot, staging, swap, verification.
func (r *restorer) run(ctx context.Context, stamp string, opts *RestoreOptions) (*Restoration, error) {
	report, err := r.admit(ctx, stamp, opts)
	if err != nil {
		return nil, err
	}
	result := &Restoration{Stamp: stamp, Restored: []string{}, Bytes: r.bytes, DryRun: opts.DryRun}
	for _, src := range r.sources {
		result.Restored = append(result.Restored, src.Name)
	}
	if opts.DryRun {
		result.IntegrityOK = report.DBOK
		return result, nil
	}
	seen, err := r.prepareSwaps(ctx)
	if err != nil {
		return nil, err
	}
	if !opts.SkipSafetySnapshot {
		safety, err := r.takeSafetySnapshot(ctx)
		if err != nil {
			return nil, fmt.Errorf("safety snapshot, which SkipSafetySnapshot does without: %w", err)
		}
		result.SafetyStamp, result.SafetyProblems = safety.Stamp, safety.Problems
		r.journal.Safety = result.SafetyStamp
	}
	err = r.replace(ctx, seen)
	return r.conclude(ctx, result, err)
}

// admit refuses a snapshot that is not to be restored, and decides what is put
// back of one that is.
func (r *restorer) admit(ctx context.Context, stamp string, opts *RestoreOptions) (*Report, error) {
	report, from, err := r.examine(ctx, stamp, ValidateFull)
	if err != nil {
		return nil, err
	}
	if from == nil {
		return nil, invalidSnapshot(report.Problems)
	}
	if refused := unacceptable(report, opts.Accept); len(refused) > 0 {
		return nil, invalidSnapshot(refused)
	}
	r.from = from
	if err := r.selectSources(opts.Sources); err != nil {
		return nil, err
	}
	return report, r.checkApart(r.sources)
}

// prepareSwaps plans the exchange, if the service is not seen to run, and
// returns what the sources look like now. (That is last, as to open a mount point
// for writing may change how it looks: an overlay copies the file up.)
func (r *restorer) prepareSwaps(ctx context.Context) (seen map[string]string, err error) {
	if err := r.probe(ctx); err != nil {
		return nil, err
	}
	if err := r.plan(); err != nil {
		return nil, err
	}
	if err := r.checkSpace(); err != nil {
		return nil, err
	}
	if err := r.listOld(); err != nil {
		return nil, err
	}
	if err := r.checkAlone(); err != nil {
		return nil, err
	}
	if err := r.checkJournal(); err != nil {
		return nil, err
	}
	if err := r.checkMountPoints(ctx); err != nil {
		return nil, err
	}
	return r.fingerprint(ctx)
}

// conclude says what came of a restore, given how its exchange ended.
func (r *restorer) conclude(ctx context.Context, result *Restoration, err error) (*Restoration, error) {
	if err != nil && !r.replaced {
		if result.SafetyStamp != "" {
			err = fmt.Errorf("%w (the safety snapshot %s stays)", err, result.SafetyStamp)
		}
		return nil, notCarriedOut(err)
	}
	result.IntegrityOK = r.verified
	if err == nil {
		r.cfg.Logger.InfoContext(ctx, "snapshot restored", "stamp", result.Stamp, "sources", result.Restored, "safety", result.SafetyStamp)
	}
	return result, err
}

// notCarriedOut keeps an error on the way to a restore from matching
// ErrDurabilityUnknown, which would say that it was carried out.
func notCarriedOut(err error) error {
	if !errors.Is(err, ErrDurabilityUnknown) {
		return err
	}
	return undoneError{err.Error(), without(err, ErrDurabilityUnknown)}
}

// An undoneError says what another error says, and matches what that does but
// for one.
type undoneError struct {
	text   string
	causes []error
}

func (e undoneError) Error() string   { return e.text }
func (e undoneError) Unwrap() []error { return e.causes }

// without returns the errors that err wraps, itself if possible, but none
// that matches target.
func without(err, target error) []error {
	if !errors.Is(err, target) {
		return []error{err}
	}
	var rest []error
	switch err := err.(type) {
	case interface{ Unwrap() []error }:
		for _, e := range err.Unwrap() {
			rest = append(rest, without(e, target)...)
		}
	case interface{ Unwrap() error }:
		rest = without(err.Unwrap(), target)
	}
	return rest
}

func invalidSnapshot(problems []Problem) error {
	return fmt.Errorf("%w: %w", ErrInvalidSnapshot, joinProblems(problems))
}

// unacceptable returns the problems that forbid a restore of a snapshot with
// metadata. A safety snapshot is what there was, in whatever state, and may
// always be put back.
func unacceptable(report *Report, accept []Code) []Problem {
	return slices.DeleteFunc(slices.Clone(report.Problems), func(p Problem) bool {
		if !report.Snapshot.recorded(p) {
			return false
		}
		safety := report.Snapshot.Origin == OriginPreRestore && slices.Contains(captureCodes, p.Code)
		return safety || slices.Contains(accept, p.Code)
	})
}

// selectSources decides what is put back, and where: the metadata have no
// say in that.
func (r *restorer) selectSources(names []string) error {
	var mistakes []error
	for _, name := range names {
		if _, ok := r.source(name); !ok {
			mistakes = append(mistakes, fmt.Errorf("source %q, which is not configured: %w", name, ErrUnknownSource))
		} else if state, ok := r.from.snapshot.Source(name); !ok || !state.Captured {
			mistakes = append(mistakes, fmt.Errorf("source %q, which the snapshot did not capture: %w", name, ErrUnknownSource))
		}
	}
	for _, state := range r.from.snapshot.Sources {
		if !state.Captured || len(names) > 0 && !slices.Contains(names, state.Name) {
			continue
		}
		src, ok := r.source(state.Name)
		switch {
		case !ok:
			mistakes = append(mistakes, fmt.Errorf("source %q is in the snapshot, but not configured: configure it, or name the Sources to restore", state.Name))
		case src.Kind != state.Kind:
			mistakes = append(mistakes, fmt.Errorf("source %q is a %s in the snapshot, and configured as a %s", state.Name, state.Kind, src.Kind))
		default:
			r.sources = append(r.sources, src)
			r.bytes += state.Bytes
			_, r.meter.total[src.Name] = r.from.entries.sum(src.Name)
		}
	}
	if len(mistakes) == 0 && len(r.sources) == 0 {
		mistakes = append(mistakes, errors.New("the snapshot captured nothing"))
	}
	return errors.Join(mistakes...)
}

// checkHeld refuses to go on if this process itself has a database open
// through a driver whose locks the probe would drop.
func (r *restorer) checkHeld(ctx context.Context) error {
	held := findHeldFiles()
	if held.none() {
		return nil
	}
	for _, src := range r.sources {
		c := &capture{Store: r.Store, lenient: true, depth: scanNames, held: held}
		safe := *src
		safe.DB = nil
		err := c.locateSources(ctx, []Source{safe})
		c.close()
		if errors.Is(err, ErrForeignDriver) {
			return fmt.Errorf("%w: %w", ErrServiceRunning, err)
		}
		if isShortage(err) {
			return err
		}
	}
	return nil // the rest is for others to tell
}

// probe refuses to go on if a database is seen to be open.
func (r *restorer) probe(ctx context.Context) error {
	if err := r.checkHeld(ctx); err != nil {
		return err
	}
	for _, src := range r.sources {
		if err := r.probeSource(ctx, src); err != nil {
			return fmt.Errorf("source %q: %w", src.Name, err)
		}
	}
	return nil
}

// takeSafetySnapshot copies what is about to be replaced, in whatever state
// it is.
func (r *restorer) takeSafetySnapshot(ctx context.Context) (*Snapshot, error) {
	req := createRequest{CreateOptions: CreateOptions{Origin: OriginPreRestore}, lenient: true}
	for _, src := range r.sources {
		if err := r.checkSavable(src); err != nil {
			return nil, notCarriedOut(fmt.Errorf("source %q: %w", src.Name, err))
		}
		safe := *src
		safe.DB, safe.Quiesce, safe.Check = nil, nil, nil // the service that they reach is stopped
		req.sources = append(req.sources, safe)
	}
	snap, err := r.create(ctx, req)
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w: run it as a user who may read all that is to be replaced", err)
	}
	if err != nil {
		return nil, notCarriedOut(err)
	}
	return snap, r.checkSaved(snap.Problems)
}

// checkSavable refuses to go on if a directory of somebody's has the name of a
// sidecar, and so would make room for a log: no snapshot of a Database has it.
func (r *restorer) checkSavable(src *Source) error {
	if src.Kind != Database {
		return nil
	}
	root, base, err := r.swapRoot(src)
	if err != nil {
		return err
	}
	d, err := openDirOrNone(r.cfg.Fs, root)
	if err != nil || d == nil {
		return err
	}
	defer d.close()
	for _, suffix := range sidecars {
		fi, err := d.lstat(base + suffix)
		if err != nil || !fi.isDir() {
			continue // what cannot be looked at stops who moves it
		}
		if names, err := d.readNames(base + suffix); err != nil || len(names) > 0 {
			return errors.Join(fmt.Errorf("%w: it cannot be saved, move it away", d.notRegular(base+suffix)), err)
		}
	}
	return nil
}

// checkSaved refuses to go on if something is there that the safety snapshot has
// taken for gone, or could not copy as it was at one instant: it would be in
// neither.
func (r *restorer) checkSaved(problems []Problem) error {
	for _, p := range problems {
		src, ok := r.source(p.Source)
		if !ok || p.Code != CodeFileVanished && p.Code != CodeFileChanged {
			continue
		}
		live := src.Path
		if src.Kind == Tree {
			live = filepath.Join(live, filepath.FromSlash(strings.TrimPrefix(p.Path, src.Name)))
		}
		fi, err := lstatPath(r.cfg.Fs, live)
		if !isGone(err) && !fi.isStaging() {
			return errors.Join(fmt.Errorf("%w: %s changed while it was saved", ErrServiceRunning, live), err)
		}
	}
	return nil
}

// replace stages, swaps and verifies. Whatever fails, it leaves the old
// state in place or a journal that says how to get back to it.
func (r *restorer) replace(ctx context.Context, seen map[string]string) error {
	if err := r.makeReady(ctx, seen); err != nil {
		return errors.Join(err, r.discardStaged())
	}
	if err := r.beginSwap(ctx); err != nil {
		return errors.Join(err, r.discard(r.journal)) // nothing has been exchanged yet
	}
	// From here on there is no giving up halfway.
	if err := r.exchange(ctx); err != nil {
		return r.takeBack(context.WithoutCancel(ctx), err)
	}
	r.meter.finish()
	r.journal.keepMade(r.cfg.Fs)
	if err := r.beginDiscard(r.journal); err != nil {
		return err // Recover may yet find that it has to be undone
	}
	r.replaced = true
	return r.removeStaged(r.journal)
}

// makeReady stages, and sees to it that what was seen before is still what there
// is: staging took its time.
func (r *restorer) makeReady(ctx context.Context, seen map[string]string) error {
	if err := r.stage(ctx); err != nil {
		return err
	}
	if err := r.checkAlone(); err != nil {
		return err
	}
	if err := r.probe(ctx); err != nil {
		return err
	}
	if err := r.listOld(); err != nil {
		return err
	}
	if err := r.fingerprintOld(ctx); err != nil {
		return err
	}
	return r.checkUnchanged(ctx, seen)
}

// takeBack undoes an exchange that has failed, unless somebody has begun to work
// with it: what they have committed would be lost, and a log of the new database
// be replayed over the old one.
func (r *restorer) takeBack(ctx context.Context, failed error) error {
	if errors.Is(failed, errAtWork) {
		failed = fmt.Errorf("%w: %w", ErrServiceRunning, failed)
	}
	committed := r.findCommits(ctx)
	if errors.Is(failed, errStranger) || errors.Is(committed, errStranger) {
		failed = fmt.Errorf("%w: %w", ErrServiceRunning, errors.Join(failed, committed))
		return r.journal.pending(errors.Join(failed, r.beginUndo(r.journal)))
	}
	if err := r.undo(ctx, r.journal); err != nil {
		return r.journal.pending(errors.Join(failed, err))
	}
	return errors.Join(failed, r.discard(r.journal))
}

// exchange puts the new state in place, and verifies it.
func (r *restorer) exchange(ctx context.Context) error {
	if err := r.forward(context.WithoutCancel(ctx), r.journal); err != nil {
		return err
	}
	if err := r.verify(ctx); err != nil {
		return err
	}
	if err := r.journal.checkMovedOut(ctx); err != nil {
		return err
	}
	if err := r.checkNewcomers(ctx); err != nil {
		return err
	}
	return r.checkSidecars(ctx) // last: who has opened the old database may begin its log late
}

// checkNewcomers returns errAtWork for what has come to be in a tree meanwhile.
func (r *restorer) checkNewcomers(ctx context.Context) error {
	for _, sw := range r.journal.Swaps {
		name, err := sw.findNewcomer(ctx, true)
		if err == nil && name != "" {
			err = sw.cameToBe(name)
		}
		if err != nil {
			return fmt.Errorf("source %q: %w", sw.Source, err)
		}
	}
	return nil
}

// discardStaged removes what was staged before anything was exchanged.
func (r *restorer) discardStaged() error {
	if len(r.journal.Swaps) == 0 {
		return nil
	}
	pending, err := r.root.exists(journalName)
	if err != nil || !pending {
		return err
	}
	return r.discard(r.journal)
}
