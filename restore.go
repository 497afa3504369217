package backup

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/afero"
)

// RestoreOptions are the options of [Store.Restore].
type RestoreOptions struct {
	// ConfirmServiceStopped says that nobody has the state open. Restore
	// sees most services that run all the same, but not all.
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

	// Accept lists codes of problems that were recorded when the snapshot
	// was taken and that are not to stand in the way: CodeFileChanged,
	// CodeFileVanished, CodeRawCopy. The bytes must be as they were copied
	// all the same. For safety snapshots all three are accepted.
	Accept []Code
}

// A Restoration is what [Store.Restore] did, or would do.
type Restoration struct {
	Stamp       string
	Restored    []string // names of sources
	SafetyStamp string   // of the safety snapshot; "" if it was skipped
	IntegrityOK bool     // reports whether all restored databases passed SQLite's checks in their place
	Bytes       int64
	DryRun      bool
}

// MarshalJSON uses the names of the Python module: an empty SafetyStamp is
// null.
func (r *Restoration) MarshalJSON() ([]byte, error) {
	var safety *string
	if r.SafetyStamp != "" {
		safety = &r.SafetyStamp
	}
	return json.Marshal(struct {
		Stamp       string   `json:"stamp"`
		Restored    []string `json:"restored"`
		SafetyStamp *string  `json:"pre_restore_snapshot"`
		IntegrityOK bool     `json:"restored_integrity_ok"`
		Bytes       int64    `json:"bytes"`
		DryRun      bool     `json:"dry_run"`
	}{r.Stamp, r.Restored, safety, r.IntegrityOK, r.Bytes, r.DryRun})
}

// stagingPrefix begins the names of the directories that a restore makes
// beside, or for trees in, its targets.
const stagingPrefix = ".atobackup-"

// Restore replaces the live state by a snapshot's: all of its sources or, if
// anything fails, none. The service must be stopped.
//
// The snapshot is validated in full. Then a safety snapshot is taken of what
// is about to be replaced, which can itself be restored to undo it all. The
// new files are written beside the old ones, verified, and exchanged for
// them by renames; then they are read back and checked once more.
//
// An error means that the old state is in place, also when ctx is cancelled.
// The exceptions: [ErrRecoveryPending], when the old state could not be put
// back, and [ErrDurabilityUnknown], with which the Restoration is returned
// too. After a crash, [Store.Recover] finishes or undoes what was begun; all
// other operations that change anything are refused until then.
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
	d, err := openDirOrNone(s.cfg.Fs, s.cfg.Dir)
	if err != nil {
		return nil, err
	}
	if d == nil {
		return nil, invalidSnapshot(missingReport(stamp, ValidateFull).Problems)
	}
	d.close()
	ss, err := s.write(ctx, !opts.DryRun)
	if err != nil {
		return nil, err
	}
	defer ss.close()
	r := &restorer{session: ss, journal: &journal{Format: journalFormat, Stamp: stamp, Phase: phaseDiscard}}
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
	done     int64 // bytes, for Progress
	verified bool  // all databases passed
}

// run is a restore: gates, safety snapshot, staging, swap, verification.
func (r *restorer) run(ctx context.Context, stamp string, opts *RestoreOptions) (*Restoration, error) {
	report, from, err := r.examine(ctx, stamp, ValidateFull)
	if err != nil {
		return nil, err
	}
	if refused := unacceptable(report, opts.Accept); len(refused) > 0 {
		return nil, invalidSnapshot(refused)
	}
	r.from = from
	if err := r.selectSources(opts.Sources); err != nil {
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
	if err := r.probe(ctx); err != nil {
		return nil, err
	}
	if !opts.SkipSafetySnapshot {
		if result.SafetyStamp, err = r.takeSafetySnapshot(ctx); err != nil {
			return nil, fmt.Errorf("safety snapshot: %w", err)
		}
		r.journal.Safety = result.SafetyStamp
	}
	err = r.replace(ctx)
	if err != nil && !errors.Is(err, ErrDurabilityUnknown) {
		return nil, err
	}
	result.IntegrityOK = r.verified
	r.cfg.Logger.InfoContext(ctx, "snapshot restored", "stamp", stamp, "sources", result.Restored, "safety", result.SafetyStamp)
	return result, err
}

func invalidSnapshot(problems []Problem) error {
	return fmt.Errorf("%w: %w", ErrInvalidSnapshot, joinProblems(problems))
}

// unacceptable returns the problems that forbid a restore. A safety snapshot
// is what there was, in whatever state, and may always be put back.
func unacceptable(report *Report, accept []Code) []Problem {
	return slices.DeleteFunc(slices.Clone(report.Problems), func(p Problem) bool {
		if !slices.Contains(captureCodes, p.Code) || report.Snapshot == nil {
			return false
		}
		return report.Snapshot.Origin == OriginPreRestore || slices.Contains(accept, p.Code)
	})
}

// selectSources decides what is put back, and where: the metadata have no
// say in that.
func (r *restorer) selectSources(names []string) error {
	var mistakes []error
	for _, name := range names {
		if state, ok := r.from.snapshot.Source(name); !ok || !state.Captured {
			mistakes = append(mistakes, fmt.Errorf("source %q: the snapshot did not capture it", name))
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
		}
	}
	if len(mistakes) == 0 && len(r.sources) == 0 {
		mistakes = append(mistakes, errors.New("the snapshot captured nothing"))
	}
	return errors.Join(mistakes...)
}

// probe refuses to go on if a database is seen to be open.
func (r *restorer) probe(ctx context.Context) error {
	for _, src := range r.sources {
		if src.Kind != Database {
			continue
		}
		d, name, err := locate(r.cfg.Fs, src.Path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("source %q: %w", src.Name, err)
		}
		err = probeRunning(ctx, d, name)
		d.close()
		if err != nil {
			return fmt.Errorf("source %q: %w", src.Name, err)
		}
	}
	return nil
}

// takeSafetySnapshot copies what is about to be replaced, in whatever state
// it is.
func (r *restorer) takeSafetySnapshot(ctx context.Context) (string, error) {
	req := createRequest{CreateOptions: CreateOptions{Origin: OriginPreRestore}, lenient: true}
	for _, src := range r.sources {
		safe := *src
		safe.DB, safe.Quiesce, safe.Check = nil, nil, nil // the service that they reach is stopped
		req.sources = append(req.sources, safe)
	}
	snap, err := r.create(ctx, req)
	if err != nil {
		return "", err
	}
	return snap.Stamp, nil
}

// replace stages, swaps and verifies. Whatever fails, it leaves the old
// state in place or a journal that says how to get back to it.
func (r *restorer) replace(ctx context.Context) error {
	err := r.stage(ctx)
	if err == nil {
		err = r.probe(ctx) // staging took its time
	}
	if err != nil {
		return errors.Join(err, r.discardStaged())
	}
	r.journal.Phase = phaseSwap
	if err := r.writeJournal(r.journal); err != nil {
		return r.journal.pending(err)
	}
	// From here on there is no giving up halfway.
	uncancelled := context.WithoutCancel(ctx)
	err = r.forward(uncancelled, r.journal)
	if err == nil {
		err = r.verify(ctx)
	}
	if err != nil {
		if undoErr := r.undo(uncancelled, r.journal); undoErr != nil {
			return r.journal.pending(errors.Join(err, undoErr))
		}
		return errors.Join(err, r.discard(r.journal))
	}
	for _, sw := range r.journal.Swaps {
		sw.Made = nil // they are in use now, be they empty
	}
	return r.discard(r.journal)
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

// stage writes the new files beside the old ones, durably, having said in
// the journal where.
func (r *restorer) stage(ctx context.Context) error {
	id := make([]byte, 8)
	rand.Read(id) // never fails: see crypto/rand
	for _, src := range r.sources {
		swaps, err := r.plan(src, stagingPrefix+hex.EncodeToString(id)+"-"+src.Name)
		if err != nil {
			return fmt.Errorf("source %q: %w", src.Name, err)
		}
		r.journal.Swaps = append(r.journal.Swaps, swaps...)
	}
	if err := r.writeJournal(r.journal); err != nil {
		return err
	}
	for _, sw := range r.journal.Swaps {
		if err := r.stageSwap(ctx, sw); err != nil {
			return fmt.Errorf("stage source %q: %w", sw.Source, err)
		}
	}
	return nil
}

// swapRoot returns the directory in which the entries of a source lie, and
// the name that they have or, with something appended, share.
func (s *Store) swapRoot(src *Source) (root, base string, err error) {
	if src.Kind == Tree {
		return src.Path, "", nil
	}
	p, err := followLinks(s.cfg.Fs, src.Path)
	return filepath.Dir(p), filepath.Base(p), err
}

// plan says what is to be exchanged for a source.
func (r *restorer) plan(src *Source, staging string) ([]*swap, error) {
	root, base, err := r.swapRoot(src)
	if err != nil {
		return nil, err
	}
	sw := &swap{Source: src.Name, Root: rawString(root), Staging: staging, New: []rawString{}, Old: []rawString{}}
	if sw.Made, err = missingDirs(r.cfg.Fs, root); err != nil {
		return nil, err
	}
	for i := range r.from.entries {
		e := &r.from.entries[i]
		name := r.liveName(src, base, e)
		if name != "." && !strings.Contains(name, "/") {
			sw.New = append(sw.New, rawString(name))
		}
	}
	if src.Kind != Tree {
		sw.Old = append(sw.Old, rawString(base))
	}
	if src.Kind == Database {
		for _, suffix := range sidecars {
			sw.Old = append(sw.Old, rawString(base+suffix))
		}
	}
	if err := sw.open(r.cfg.Fs); err != nil || sw.dir == nil || src.Kind != Tree {
		return []*swap{sw}, err
	}
	found, err := sw.dir.readDir(".")
	for _, fi := range found {
		sw.Old = append(sw.Old, rawString(fi.name))
	}
	return []*swap{sw}, err
}

// liveName returns where an entry of the snapshot belongs below the root of
// its source's swap, or "." if it is none of the source's.
func (r *restorer) liveName(src *Source, base string, e *entry) string {
	rest, ok := strings.CutPrefix(string(e.Path), src.Name+"/")
	if !ok {
		return "."
	}
	if src.Kind == Tree {
		return rest
	}
	// The base name is the configured one; what a raw copy has appended to
	// the recorded one stays.
	state, _ := r.from.snapshot.Source(src.Name)
	return base + strings.TrimPrefix(rest, path.Base(state.Path))
}

// stageSwap copies the new entries of a swap to its staging directory.
func (r *restorer) stageSwap(ctx context.Context, sw *swap) (err error) {
	if sw.dir == nil {
		if sw.dir, err = makeDir(r.cfg.Fs, string(sw.Root)); err != nil {
			return err
		}
	}
	if free, ok := sw.dir.free(); ok && free < r.bytes {
		return fmt.Errorf("%w in %s: %d bytes are needed, %d are free", ErrNoSpace, sw.Root, r.bytes, free)
	}
	for _, name := range []string{"", "new", "old"} {
		if err := sw.dir.mkdir(path.Join(sw.Staging, name)); err != nil {
			return err
		}
	}
	src, _ := r.source(sw.Source)
	_, base, err := r.swapRoot(src)
	if err != nil {
		return err
	}
	owner, err := sw.owner(base)
	if err != nil {
		return err
	}
	var dirs []*entry
	for i := range r.from.entries {
		e := &r.from.entries[i]
		name := r.liveName(src, base, e)
		if name == "." {
			continue
		}
		to := sw.staged(rawString(name))
		if err := r.stageEntry(ctx, sw, e, to); err != nil {
			return err
		}
		if err := sw.dir.chown(to, owner); err != nil {
			return err
		}
		if e.Type == typeDir {
			dirs = append(dirs, e)
		}
	}
	for _, e := range slices.Backward(dirs) { // writing into one changes its time
		to := sw.staged(rawString(r.liveName(src, base, e)))
		if err := errors.Join(sw.dir.syncDir(to), sw.dir.setAttributes(to, e.perm(), e.MTime)); err != nil {
			return err
		}
	}
	return errors.Join(sw.dir.syncDir(path.Join(sw.Staging, "new")), sw.dir.syncDir(sw.Staging), sw.dir.syncDir("."))
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

// stageEntry copies one entry, and compares what was written with the
// manifest by reading it back.
func (r *restorer) stageEntry(ctx context.Context, sw *swap, e *entry, to string) error {
	switch e.Type {
	case typeDir:
		return sw.dir.mkdir(to)
	case typeLink:
		return sw.dir.symlink(string(e.Target), to)
	}
	src, _, err := r.from.open(string(e.Path))
	if err != nil {
		return err
	}
	defer src.Close() // nothing was written
	hash := sha256.New()
	err = sw.dir.createFile(to, func(f afero.File) error {
		_, err := copyBytes(ctx, io.MultiWriter(f, hash), src, r.moved(sw))
		return err
	})
	if err != nil {
		return err
	}
	if e.SHA256 == "" { // the Python module's have none: what was read now must do
		e.SHA256 = hex.EncodeToString(hash.Sum(nil))
	}
	if err := compareHash(ctx, sw.dir, to, e); err != nil {
		return err
	}
	return sw.dir.setAttributes(to, e.perm(), e.MTime)
}

func compareHash(ctx context.Context, d *dir, name string, e *entry) error {
	f, _, err := d.open(name)
	if err != nil {
		return err
	}
	defer f.Close() // nothing was written
	sum, err := hashOf(ctx, f)
	if err == nil && sum != e.SHA256 {
		err = fmt.Errorf("%s: %w", d.full(name), Problem{Code: CodeChecksumMismatch, Source: e.source(), Path: string(e.Path)})
	}
	return err
}

func (r *restorer) moved(sw *swap) func(int64) {
	return func(n int64) {
		r.done += n
		r.cfg.Progress(Progress{Op: "restore", Source: sw.Source, Done: min(r.done, r.bytes), Total: r.bytes})
	}
}

// verify reads back what is in place now.
func (r *restorer) verify(ctx context.Context) error {
	r.verified = true
	for _, sw := range r.journal.Swaps {
		src, _ := r.source(sw.Source)
		_, base, err := r.swapRoot(src)
		if err != nil {
			return err
		}
		for i := range r.from.entries {
			e := &r.from.entries[i]
			name := r.liveName(src, base, e)
			if name == "." || !e.Type.holdsBytes() {
				continue
			}
			if err := r.verifyEntry(ctx, sw.dir, name, e); err != nil {
				return fmt.Errorf("verify source %q: %w", sw.Source, err)
			}
		}
	}
	return nil
}

func (r *restorer) verifyEntry(ctx context.Context, d *dir, name string, e *entry) error {
	if err := compareHash(ctx, d, name, e); err != nil {
		return err
	}
	if e.Type == typeRaw {
		r.verified = false
	}
	if e.Type != typeDatabase {
		return nil
	}
	f, info, err := d.open(name)
	if err != nil {
		return err
	}
	defer f.Close() // nothing was written
	problems, err := checkCopy(ctx, f, info.size, ValidateFull, nil)
	return errors.Join(err, joinProblems(problems))
}
