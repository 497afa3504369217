package backup_test

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/afero"

	"github.com/atocore/backup"
)

// An error on the way to a restore that was not carried out does not say that
// it was, and still tells what the file system said.
func TestFailedRestoreKeepsTheCause(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.small(t)
	stamp := w.create(t, w.store(t)).Stamp
	renamed := false
	s := w.faulty(t, func(op, p string) error {
		renamed = renamed || op == "rename" && p == w.path(journalFile+".tmp")
		if renamed && op == "sync" && p == w.path("backups") {
			return syscall.EIO
		}
		return nil
	})
	r, err := s.Restore(t.Context(), stamp, confirmed)
	if r != nil || err == nil || errors.Is(err, backup.ErrDurabilityUnknown) {
		t.Errorf("%+v, %v", r, err)
	}
	if !errors.Is(err, syscall.EIO) {
		t.Errorf("%v does not match EIO", err)
	}
}

// trial is a store with a snapshot, and a state that differs from it in
// everything, to be copied for each of many attempts.
type trial struct {
	w          *world
	stamp      string
	opts       *backup.RestoreOptions
	old, new   map[string]string // the state before and after a restore
	recoveries map[backup.Outcome]int
}

func newTrial(t *testing.T, opts *backup.RestoreOptions, prepare ...func(w *world)) *trial {
	t.Helper()
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	f := &trial{w: w, stamp: w.create(t, w.small(t)).Stamp, opts: opts, recoveries: make(map[backup.Outcome]int)}
	w.change(t)
	for _, p := range prepare {
		p(w)
	}
	f.old = w.liveState(t)
	done := f.world(t)
	if _, err := done.store(t).Restore(t.Context(), f.stamp, opts); err != nil {
		t.Fatal(err)
	}
	f.new = done.liveState(t)
	if cmp.Equal(f.old, f.new) {
		t.Fatal("the restore changes nothing")
	}
	return f
}

// world returns a copy of the trial's world.
func (f *trial) world(t *testing.T) *world {
	t.Helper()
	w := &world{fs: afero.NewMemMapFs(), root: f.w.root, now: f.w.now}
	copyTree(t, f.w.fs, f.w.root, w.fs, w.root)
	return w
}

// state names the state that w is in, which must be wholly the old one or
// the new one.
func (f *trial) state(t *testing.T, w *world) string {
	t.Helper()
	live := w.liveState(t)
	switch {
	case cmp.Equal(live, f.old):
		return "old"
	case cmp.Equal(live, f.new):
		return "new"
	}
	t.Errorf("neither old nor new: (-got +old):\n%s(-got +new):\n%s", cmp.Diff(live, f.old), cmp.Diff(live, f.new))
	return "torn"
}

// settled checks what must hold after an attempt that returned err, and
// recovers from it if that is due.
func (f *trial) settled(t *testing.T, w *world, r *backup.Restoration, err error) {
	t.Helper()
	switch {
	case errors.Is(err, backup.ErrRecoveryPending):
		f.recover(t, w)
		return
	case err == nil, errors.Is(err, backup.ErrDurabilityUnknown):
		if state := f.state(t, w); state != "new" || r == nil {
			t.Errorf("%s state and %+v after %v", state, r, err)
		}
	default:
		if state := f.state(t, w); state != "old" || r != nil {
			t.Errorf("%s state and %+v after %v", state, r, err)
		}
	}
	if w.pending(t) {
		t.Errorf("a restore is pending after %v", err)
	}
	f.sound(t, w)
}

// sound checks that every snapshot that passes for whole is.
func (f *trial) sound(t *testing.T, w *world) {
	t.Helper()
	s := w.store(t)
	for _, snap := range w.list(t, s) {
		if snap.Validated && !w.validate(t, s, snap.Stamp, quick).Valid {
			t.Errorf("%s passes for whole", snap.Stamp)
		}
	}
	if snap := w.listed(t, s, f.stamp); !snap.Validated {
		t.Errorf("the snapshot itself: %+v", snap)
	}
}

// recover settles what is pending, twice.
func (f *trial) recover(t *testing.T, w *world) {
	t.Helper()
	s := w.store(t)
	if w.pending(t) {
		refusesChanges(t, s, f.stamp)
	}
	got, err := s.Recover(t.Context())
	if err != nil {
		t.Errorf("recover: %v", err)
		return
	}
	f.recoveries[got.Outcome]++
	state := f.state(t, w)
	if got.Outcome == backup.RestoreFinished && state != "new" || got.Outcome == backup.RestoreUndone && state != "old" {
		t.Errorf("%s state after %s", state, got.Outcome)
	}
	again, err := s.Recover(t.Context())
	if err != nil || again.Outcome != backup.NothingPending || w.pending(t) {
		t.Errorf("recover again: %+v, %v", again, err)
	}
	if got := f.state(t, w); got != state {
		t.Errorf("%s state after a second recover, %s after the first", got, state)
	}
	f.sound(t, w)
}

func refusesChanges(t *testing.T, s *backup.Store, stamp string) {
	t.Helper()
	_, createErr := s.Create(t.Context(), nil)
	_, restoreErr := s.Restore(t.Context(), stamp, confirmed)
	_, cleanupErr := s.Cleanup(t.Context(), confirmedCleanup)
	deleteErr := s.Delete(t.Context(), stamp)
	for op, err := range map[string]error{"create": createErr, "restore": restoreErr, "cleanup": cleanupErr, "delete": deleteErr} {
		if !errors.Is(err, backup.ErrRecoveryPending) {
			t.Errorf("%s while a restore is pending: %v", op, err)
		}
	}
}

// failing are the operations that TestRestoreFaults has fail: all but close,
// stat and readdir.
var failing = []string{"rename", "create", "write", "sync", "chmod", "chtimes", "remove", "mkdir", "truncate", "open", "read"}

// mutations are those of them that change anything.
var mutations = []string{"rename", "create", "write", "chmod", "chtimes", "remove", "mkdir", "truncate"}

// Whichever call fails, once or from then on, the old state or the new one
// is there, or Recover brings it.
func TestRestoreFaults(t *testing.T) {
	for _, persistent := range []bool{false, true} {
		f := newTrial(t, confirmed)
		for _, op := range failing {
			t.Run(fmt.Sprintf("%s_persistent_%v", op, persistent), func(t *testing.T) {
				for n := 1; ; n++ {
					w := f.world(t)
					calls, failed := 0, ""
					s := w.faulty(t, func(o, p string) error {
						if o != op {
							return nil
						}
						if calls++; calls == n || persistent && calls > n {
							failed = p
							return syscall.EIO
						}
						return nil
					})
					r, err := s.Restore(t.Context(), f.stamp, confirmed)
					if failed == "" {
						if err != nil {
							t.Fatal(err)
						}
						t.Logf("%d calls", calls)
						return
					}
					f.settled(t, w, r, err)
					if t.Failed() {
						t.Fatalf("call %d, on %s; error %v", n, failed, err)
					}
				}
			})
		}
	}
}

// stopping returns a store on w for which nothing works any more from the
// operation on that at says, be it one that changes anything or a sync; and a
// function that tells whether that came.
func (w *world) stopping(t *testing.T, at func(op, path string) bool, changes ...func(*backup.Config)) (s *backup.Store, stopped func() bool) {
	stop := false
	s = w.faulty(t, func(op, p string) error {
		if !stop && (slices.Contains(mutations, op) || op == "sync") {
			stop = at(op, p)
		}
		if stop {
			return syscall.ENODEV
		}
		return nil
	}, changes...)
	return s, func() bool { return stop }
}

// stoppingAt stops before the n-th of those operations.
func (w *world) stoppingAt(t *testing.T, n int) (s *backup.Store, stopped func() bool) {
	calls := 0
	return w.stopping(t, func(string, string) bool {
		calls++
		return calls == n
	})
}

// A restore that fails and cannot be undone says where everything is.
func TestRestoreThatCannotBeUndone(t *testing.T) {
	f := newTrial(t, confirmed)
	w := f.world(t)
	broken := false
	s := w.faulty(t, func(op, p string) error {
		if op == "rename" && strings.Contains(p, "/new/") {
			broken = true
		}
		if broken && slices.Contains(mutations, op) {
			return syscall.EIO
		}
		return nil
	})
	_, err := s.Restore(t.Context(), f.stamp, confirmed)
	if !errors.Is(err, backup.ErrRecoveryPending) || !errors.Is(err, syscall.EIO) {
		t.Fatalf("error %v", err)
	}
	for _, name := range []string{"data", "config", "chroma"} {
		for _, dir := range []string{"old", "new"} {
			found, globErr := afero.Glob(w.fs, w.path(name+"/.atobackup-*/"+dir))
			if globErr != nil || len(found) != 1 || !strings.Contains(err.Error(), found[0]) {
				t.Errorf("%v does not name %v, %v", err, found, globErr)
			}
		}
	}
	f.recover(t, w)
}

// A journal that cannot be written before the exchange, for want of space say,
// leaves what was staged to be removed: what is on the disk says so already.
func TestFullStoreBeforeTheExchangeLeavesNothingPending(t *testing.T) {
	for _, full := range []string{"create", "write", "sync", "rename"} {
		t.Run(full, func(t *testing.T) {
			f := newTrial(t, confirmed)
			w := f.world(t)
			s := w.faulty(t, func(op, p string) error {
				if op == full && p == w.path(journalFile+".tmp") && w.pending(t) {
					return syscall.ENOSPC
				}
				return nil
			})
			r, err := s.Restore(t.Context(), f.stamp, confirmed)
			if !errors.Is(err, syscall.ENOSPC) || errors.Is(err, backup.ErrRecoveryPending) {
				t.Errorf("error %v", err)
			}
			f.settled(t, w, r, err)
		})
	}
}

// If it may have been written after all, what was staged is not removed before
// the journal says that it is to be: Recover would miss it.
func TestJournalThatMayHaveBeenWrittenIsTakenBack(t *testing.T) {
	f := newTrial(t, confirmed)
	w := f.world(t)
	renames, removed := 0, 0
	s := w.faulty(t, func(op, p string) error {
		switch {
		case op == "rename" && p == w.path(journalFile+".tmp"):
			renames++
		case op == "sync" && p == w.path("backups") && renames == 2:
			return syscall.EIO
		case op == "remove" && strings.Contains(p, ".atobackup-"):
			removed++
			if journal := w.read(t, journalFile); !strings.Contains(journal, `"phase": "discard"`) {
				t.Errorf("removed %s, while the journal has\n%s", p, journal)
			}
		}
		return nil
	})
	r, err := s.Restore(t.Context(), f.stamp, confirmed)
	if !errors.Is(err, syscall.EIO) || errors.Is(err, backup.ErrRecoveryPending) || removed == 0 {
		t.Errorf("error %v; %d removed", err, removed)
	}
	f.settled(t, w, r, err)
}

// A mount point that turns out not to be writable in the middle of the exchange
// has its old bytes: that does not keep the others from getting theirs.
func TestUndoPassesOverAMountPointThatWasNotOverwritten(t *testing.T) {
	f := newTrial(t, confirmed)
	for _, name := range []string{"data/atocore.db", "config/project-registry.json", "chroma/a"} {
		for _, errno := range []syscall.Errno{syscall.EROFS, syscall.EPERM} {
			t.Run(fmt.Sprint(filepath.Base(name), " ", errno), func(t *testing.T) {
				w := f.world(t)
				s := w.faulty(t, onMountPoint(w.path(name), func(op string) error {
					if op == "write" {
						return errno
					}
					return nil
				}))
				r, err := s.Restore(t.Context(), f.stamp, confirmed)
				if !errors.Is(err, errno) || errors.Is(err, backup.ErrRecoveryPending) {
					t.Errorf("error %v", err)
				}
				f.settled(t, w, r, err)
			})
		}
	}
}

// Nor does one whose mode and time are somebody else's to set.
func TestUndoPassesOverAMountPointThatIsNotOurs(t *testing.T) {
	f := newTrial(t, confirmed)
	w := f.world(t)
	s := w.faulty(t, onMountPoint(w.path("config/project-registry.json"), func(op string) error {
		if op == "chmod" || op == "chtimes" {
			return syscall.EPERM
		}
		return nil
	}))
	r, err := s.Restore(t.Context(), f.stamp, confirmed)
	if !errors.Is(err, syscall.EPERM) || errors.Is(err, backup.ErrRecoveryPending) {
		t.Errorf("error %v", err)
	}
	f.settled(t, w, r, err)
}

// One that was written to, and whose sync failed since, reads as it should, and
// may have anything on the disk.
func TestUndoPassesOverNoMountPointThatWasWrittenTo(t *testing.T) {
	f := newTrial(t, confirmed)
	w := f.world(t)
	overwritten := false
	s := w.faulty(t, onMountPoint(w.path("config/project-registry.json"), func(op string) error {
		switch {
		case op == "chmod":
			overwritten = true
			return syscall.EIO
		case op == "sync" && overwritten:
			return syscall.EROFS
		}
		return nil
	}))
	if _, err := s.Restore(t.Context(), f.stamp, confirmed); !errors.Is(err, backup.ErrRecoveryPending) || !w.pending(t) {
		t.Fatalf("error %v", err)
	}
	f.recover(t, w)
}

// What cannot be put back does not keep anything else from it, but for the log
// that would lie beside it.
func TestUndoPutsBackAllThatItCan(t *testing.T) {
	for _, name := range []string{"config/project-registry.json", "chroma/a"} {
		t.Run(filepath.Base(name), func(t *testing.T) {
			f := newTrial(t, confirmed, func(w *world) { w.write(t, "chroma/a-wal", "a log of the old one") })
			w := f.world(t)
			overwritten := false
			s := w.faulty(t, onMountPoint(w.path(name), func(op string) error {
				switch {
				case op == "chmod":
					overwritten = true
					return syscall.EIO
				case op == "write" && overwritten:
					return syscall.EROFS
				}
				return nil
			}))
			_, err := s.Restore(t.Context(), f.stamp, confirmed)
			if !errors.Is(err, backup.ErrRecoveryPending) || !errors.Is(err, syscall.EROFS) || !w.pending(t) {
				t.Fatalf("error %v", err)
			}
			live := w.liveState(t)
			for other, want := range f.old {
				switch {
				case other == name+"-wal":
					want = ""
				case other == name:
					want = f.new[name]
				}
				if live[other] != want {
					t.Errorf("%s: %q, want %q", other, live[other], want)
				}
			}
			f.recover(t, w)
			if state := f.state(t, w); state != "old" {
				t.Errorf("%s state", state)
			}
		})
	}
}

// onMountPoint is what fails where a file is a mount point, and with fail for
// what else is done to it.
func onMountPoint(mount string, fail func(op string) error) func(op, p string) error {
	return func(op, p string) error {
		switch {
		case p != mount:
			return nil
		case op == "rename":
			return syscall.EBUSY
		}
		return fail(op)
	}
}

// When the new state is in place for good, and the old files cannot be removed,
// both is said.
func TestRestoreThatCannotRemoveTheOldFiles(t *testing.T) {
	f := newTrial(t, confirmed)
	w := f.world(t)
	stuck := func(op, p string) error {
		if op == "remove" && strings.Contains(p, "/old/") {
			return syscall.EPERM
		}
		return nil
	}
	r, err := w.faulty(t, stuck).Restore(t.Context(), f.stamp, confirmed)
	if !errors.Is(err, backup.ErrRecoveryPending) || !errors.Is(err, syscall.EPERM) || !strings.Contains(err.Error(), "remains to be removed") {
		t.Errorf("error %v", err)
	}
	if r == nil || !r.IntegrityOK || len(r.Restored) != 3 || r.SafetyStamp == "" {
		t.Errorf("got %+v", r)
	}
	live := w.liveState(t)
	for name, want := range f.new {
		if live[name] != want {
			t.Errorf("%s: %q, want %q", name, live[name], want)
		}
	}
	if _, err := w.faulty(t, stuck).Recover(t.Context()); !errors.Is(err, backup.ErrRecoveryPending) || !strings.Contains(err.Error(), "remains to be removed") {
		t.Errorf("recover: %v", err)
	}
	f.recover(t, w)
	if state := f.state(t, w); state != "new" || f.recoveries[backup.Discarded] != 1 {
		t.Errorf("%s state, outcomes %v", state, f.recoveries)
	}
}

// A restore that the journal does not have as carried out may still be undone.
func TestRestoreWhoseEndIsNotInTheJournal(t *testing.T) {
	f := newTrial(t, confirmed)
	w := f.world(t)
	s := w.faulty(t, func(op, p string) error {
		if op == "write" && p == w.path(journalFile+".tmp") && len(w.matches(t, "chroma/.atobackup-*/old/*")) > 0 {
			return syscall.ENOSPC
		}
		return nil
	})
	r, err := s.Restore(t.Context(), f.stamp, confirmed)
	if r != nil || !errors.Is(err, backup.ErrRecoveryPending) || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), `phase "swap"`) {
		t.Errorf("%+v, %v", r, err)
	}
	f.recover(t, w)
	if state := f.state(t, w); state != "new" {
		t.Errorf("%s state", state)
	}
}

func TestRestoreCancelled(t *testing.T) {
	t.Run("before", func(t *testing.T) {
		f := newTrial(t, confirmed)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		w := f.world(t)
		r, err := w.store(t).Restore(ctx, f.stamp, confirmed)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		f.settled(t, w, r, err)
	})
	t.Run("at_any_step_of_progress", func(t *testing.T) {
		f := newTrial(t, confirmed)
		for n := 1; ; n++ {
			ctx, cancel := context.WithCancel(t.Context())
			w := f.world(t)
			steps, ops := 0, make(map[string]bool)
			s := w.store(t, func(cfg *backup.Config) {
				cfg.Progress = func(p backup.Progress) {
					ops[p.Op] = true
					if steps++; steps == n {
						cancel()
					}
				}
			})
			r, err := s.Restore(ctx, f.stamp, confirmed)
			cancel()
			if steps < n {
				if want := map[string]bool{"validate": true, "create": true, "restore": true}; !cmp.Equal(ops, want) {
					t.Errorf("cancelled in %v only", ops)
				}
				return
			}
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("step %d: %v", n, err)
			}
			f.settled(t, w, r, err)
		}
	})
	t.Run("while_what_is_in_place_is_verified", func(t *testing.T) {
		f := newTrial(t, confirmed)
		w := f.world(t)
		ctx, cancel := context.WithCancel(t.Context())
		s := w.faulty(t, func(op, p string) error {
			if op == "rename" && strings.Contains(p, "/new/") {
				cancel()
			}
			return nil
		})
		r, err := s.Restore(ctx, f.stamp, confirmed)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		f.settled(t, w, r, err)
	})
}

// What is in place in the end is read back.
func TestRestoreVerifiesWhatIsInPlace(t *testing.T) {
	for _, name := range []string{"data/atocore.db", "config/project-registry.json", "chroma/b"} {
		t.Run(filepath.Base(name), func(t *testing.T) {
			f := newTrial(t, confirmed)
			w := f.world(t)
			moved := false
			s := w.faulty(t, func(op, p string) error {
				if op == "rename" && strings.Contains(p, "/new/") {
					moved = true
				}
				if moved && (op == "open" || op == "read") && p == w.path(name) {
					w.edit(t, name, flip(3)) // the disk says something else than was written
					moved = false
				}
				return nil
			})
			r, err := s.Restore(t.Context(), f.stamp, confirmed)
			if !errors.Is(err, backup.CodeChecksumMismatch) {
				t.Errorf("error %v", err)
			}
			f.settled(t, w, r, err)
		})
	}
}

// Directories that were made for a restore go with it when it fails.
func TestFailedRestoreRemovesTheDirectoriesItMade(t *testing.T) {
	f := newTrial(t, confirmed, func(w *world) {
		for _, name := range []string{"data", "config", "chroma"} {
			if err := w.fs.RemoveAll(w.path(name)); err != nil {
				t.Fatal(err)
			}
		}
	})
	deeper := func(cfg *backup.Config) { cfg.Sources[0].Path = "/srv/data/made/deeper/atocore.db" }
	for _, op := range []string{"mkdir", "sync", "create"} {
		for n := 1; ; n++ {
			w := f.world(t)
			calls := 0
			s := w.store(t, deeper, func(cfg *backup.Config) {
				cfg.Fs = &faultFs{Fs: w.fs, fail: func(o, p string) error {
					if o == op && !strings.Contains(p, "backups") {
						if calls++; calls == n {
							return syscall.EIO
						}
					}
					return nil
				}}
			})
			r, err := s.Restore(t.Context(), f.stamp, confirmed)
			if calls < n {
				break
			}
			if errors.Is(err, backup.ErrRecoveryPending) {
				if _, err := w.store(t, deeper).Recover(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if r == nil && len(w.liveState(t)) > 0 && !w.exists(t, "data/made/deeper/atocore.db") {
				t.Errorf("%s %d: %v; left %v", op, n, err, w.names(t, "."))
			}
		}
	}
}

// What is written after the last look, while the exchange is under way, would be
// in neither the safety snapshot nor the new state: it is put back.
func TestRestoreKeepsWhatIsWrittenDuringTheExchange(t *testing.T) {
	write := map[string]func(t *testing.T, w *world, p string){
		"data/app.db": func(t *testing.T, w *world, p string) { w.exec(t, p, "INSERT INTO t VALUES ('late')") },
		"f.json":      func(t *testing.T, w *world, p string) { w.write(t, p, "late") },
		"tree/d/f":    func(t *testing.T, w *world, p string) { w.write(t, p, "late") },
	}
	for name, late := range write {
		for _, when := range []string{"before", "after"} {
			t.Run(path.Base(name)+"_"+when, func(t *testing.T) {
				w := osWorld(t)
				w.exec(t, "data/app.db", "CREATE TABLE t (x); INSERT INTO t VALUES ('snapshot')")
				w.write(t, "f.json", "snapshot")
				w.write(t, "tree/d/f", "snapshot")
				sources := withSources(w.database("data/app.db"), w.file("f.json"), w.treeSource("tree"))
				stamp := mustCreate(t, w.store(t, sources)).Stamp
				w.exec(t, "data/app.db", "INSERT INTO t VALUES ('since')")
				done := false
				s := w.faulty(t, func(op, p string) error {
					switch {
					case done:
					case when == "before" && op == "create" && p == w.path(journalFile)+".tmp" && len(w.staged(t)) == 3:
						done = true
						late(t, w, name)
					case when == "after" && op == "rename" && strings.Contains(p, "/new/"): // by who has it open
						if moved := w.moved(t, name); moved != "" {
							done = true
							late(t, w, moved)
						}
					}
					return nil
				}, sources)
				r, err := s.Restore(t.Context(), stamp, confirmed)
				if !done || !errors.Is(err, backup.ErrServiceRunning) || w.pending(t) {
					t.Errorf("%v: %+v, %v", done, r, err)
				}
				got := map[string]string{"data/app.db": w.query(t, "data/app.db", "SELECT max(x) FROM t WHERE x = 'late'"), "f.json": w.read(t, "f.json"), "tree/d/f": w.read(t, "tree/d/f")}[name]
				if got != "late" {
					t.Errorf("there is %q", got)
				}
			})
		}
	}
}

// staged returns what waits to be put in place.
func (w *world) staged(t *testing.T) []string {
	return slices.Concat(w.matches(t, ".ato*/new/*"), w.matches(t, "*/.ato*/new/*"), w.matches(t, "*/*/.ato*/new/*"))
}

// moved returns where an exchange has moved a file, or "".
func (w *world) moved(t *testing.T, name string) string {
	dir, rest := "", name
	if strings.Contains(name, "/") {
		dir, rest, _ = strings.Cut(name, "/")
	}
	for _, p := range w.matches(t, path.Join(dir, ".ato*/old", rest)) {
		return strings.TrimPrefix(p, w.root+"/")
	}
	return ""
}
