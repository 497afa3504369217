package backup_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/afero"

	"github.com/atocore/backup"
)

// What Recover does when more has happened than a crash: file systems that
// are not mounted, services that were started without it, disks that rot.

// mustBePending fails unless Recover refuses, for a reason, and has left
// everything as it was.
func (w *world) mustBePending(t *testing.T, reason error) {
	t.Helper()
	before := w.tree(t, ".")
	r, err := w.store(t).Recover(t.Context())
	if r != nil || !errors.Is(err, backup.ErrRecoveryPending) || reason != nil && !errors.Is(err, reason) {
		t.Errorf("got %+v, %v, want ErrRecoveryPending and %v", r, err, reason)
	}
	mustBeSame(t, w.tree(t, "."), before)
}

// mustBeSame fails if two states differ, but for what a lock may make.
func mustBeSame(t *testing.T, after, before map[string]string) {
	t.Helper()
	delete(before, "backups/lock")
	delete(after, "backups/lock")
	if diff := cmp.Diff(after, before); diff != "" {
		t.Errorf("not as it was (-after +before):\n%s", diff)
	}
}

// recovers runs Recover, and returns what it did.
func (w *world) recovers(t *testing.T) *backup.Recovery {
	t.Helper()
	r, err := w.store(t).Recover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// unmount takes a directory away, and returns what brings it back.
func (w *world) unmount(t *testing.T, name string) (mount func()) {
	t.Helper()
	w.rename(t, name, "unmounted")
	return func() {
		if w.exists(t, name) {
			w.drop(t, name)
		}
		w.rename(t, "unmounted", name)
	}
}

func TestRecoverWaitsForFileSystemsToBeMounted(t *testing.T) {
	for _, phase := range []string{"swap", "discard"} {
		for _, volume := range []string{"data", "config", "chroma"} {
			t.Run(phase+"_"+volume, func(t *testing.T) {
				f := newTrial(t, confirmed)
				w := f.interrupted(t, phase)
				mount := w.unmount(t, volume)
				if phase == "swap" {
					w.mustBePending(t, fs.ErrNotExist)
				} else if _, err := w.store(t).Recover(t.Context()); !errors.Is(err, backup.ErrRecoveryPending) {
					t.Errorf("got %v, want ErrRecoveryPending", err)
				}
				mount()
				w.recovers(t)
				if state := f.state(t, w); state != "new" {
					t.Errorf("%s state, want the new one", state)
				}
				if left := w.matches(t, "*/.atobackup-*"); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
			})
		}
	}
}

// matches returns the paths that a pattern fits.
func (w *world) matches(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := afero.Glob(w.fs, w.path(pattern))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// A journal that is on a file system that is not mounted is not one that was
// never written.
func TestRecoverMissesTheJournal(t *testing.T) {
	for name, cover := range map[string]func(w *world){
		"dir_missing": func(*world) {},
		"dir_empty":   func(w *world) { w.mkdir(t, "backups") },
	} {
		t.Run(name, func(t *testing.T) {
			f := newTrial(t, confirmed)
			w := f.interrupted(t, "swap")
			mount := w.unmount(t, "backups")
			cover(w)
			w.mustBePending(t, nil)
			for op, err := range w.changingOperations(t, f.stamp) {
				if !errors.Is(err, backup.ErrRecoveryPending) && !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: %v", op, err)
				}
			}
			mount()
			w.recovers(t)
			if state := f.state(t, w); state != "new" {
				t.Errorf("%s state, want the new one", state)
			}
		})
	}
}

// A restore that is pending is, also if the snapshots have gone.
func TestPendingRestoreWithoutSnapshots(t *testing.T) {
	f := newTrial(t, confirmed)
	w := f.interrupted(t, "swap")
	w.drop(t, "backups/snapshots")
	for op, err := range w.changingOperations(t, f.stamp) {
		if !errors.Is(err, backup.ErrRecoveryPending) {
			t.Errorf("%s: %v", op, err)
		}
	}
}

// A file may have the name of a staging directory. It is none, and a part of its
// tree like any other.
func TestFileNamedLikeAStagingDirectoryIsAFile(t *testing.T) {
	const name = "chroma/.atobackup-0123456789abcdef-chroma"
	eachFs(t, func(t *testing.T, w *world) {
		w.small(t)
		w.write(t, name, "uploaded")
		s := w.store(t)
		stamp := w.create(t, s).Stamp
		w.write(t, name, "mutated")
		r := w.restore(t, s, stamp)
		if got := w.read(t, name); got != "uploaded" {
			t.Errorf("restored %q", got)
		}
		w.restore(t, s, r.SafetyStamp)
		if got := w.read(t, name); got != "mutated" {
			t.Errorf("after undo: %q", got)
		}
		if _, err := s.Cleanup(t.Context(), nil); err != nil {
			t.Errorf("cleanup: %v", err)
		}
		if r := w.recovers(t); r.Outcome != backup.NothingPending {
			t.Errorf("recover: %+v", r)
		}
	})
}

// changingOperations tries all of them.
func (w *world) changingOperations(t *testing.T, stamp string) map[string]error {
	s := w.store(t)
	results := make(map[string]error)
	_, results["create"] = s.Create(t.Context(), nil)
	results["delete"] = s.Delete(t.Context(), stamp)
	if w.exists(t, "backups") {
		_, results["cleanup"] = s.Cleanup(t.Context(), &backup.CleanupOptions{Confirm: true})
		_, results["restore"] = s.Restore(t.Context(), stamp, confirmed)
	}
	return results
}

// toUndo has the journal say that the restore is to be undone, as one that
// failed and was cut short does.
func (w *world) toUndo(t *testing.T) {
	t.Helper()
	w.edit(t, journalFile, func(data []byte) []byte { return []byte(reseal(replace(t, `"swap"`, `"undo"`)(string(data)))) })
}

// withService returns a world in which the service was started, without a
// call of Recover, on what an interrupted restore had left of its database.
func withService(t *testing.T, f *trial, undo bool, service func(w *world)) *world {
	t.Helper()
	w := f.interrupted(t, "swap")
	if undo {
		w.toUndo(t)
	}
	service(w)
	return w
}

// The one copy of the old database must not make room for one that a service
// made, for want of it, nor the other way round: that is for people to sort
// out.
func TestRecoverKeepsWhatAServiceMade(t *testing.T) {
	for name, undo := range map[string]bool{"finish": false, "undo": true} {
		t.Run(name, func(t *testing.T) {
			f := newTrial(t, confirmed)
			w := withService(t, f, undo, func(w *world) {
				if w.exists(t, "data/atocore.db") {
					t.Fatal("the database is in place")
				}
				w.exec(t, "data/atocore.db", "CREATE TABLE fresh (x)")
			})
			w.mustBePending(t, nil)
			if got := w.query(t, "data/atocore.db", "SELECT name FROM sqlite_schema"); got != "fresh" {
				t.Errorf("the service's database: %q", got)
			}
			w.rename(t, "data/atocore.db", "away.db") // as the error says
			r := w.recovers(t)
			want := map[bool]string{false: "new", true: "old"}[undo]
			if state := f.state(t, w); state != want {
				t.Errorf("%s state after %+v, want the %s one", state, r, want)
			}
		})
	}
}

// What was not exchanged yet, and was written to since, is not exchanged.
func TestRecoverRefusesWhatWasWrittenToSince(t *testing.T) {
	for name, write := range map[string]func(t *testing.T, w *world){
		"database": func(t *testing.T, w *world) { w.exec(t, "z/last.db", "INSERT INTO t VALUES ('acknowledged')") },
		"tree":     func(t *testing.T, w *world) { w.write(t, "tree/d/file", "acknowledged") },
	} {
		for phase, undo := range map[string]bool{"finish": false, "undo": true} {
			t.Run(name+"_"+phase, func(t *testing.T) {
				w := osWorld(t)
				w.write(t, "first.json", "old")
				w.write(t, "tree/d/file", "old")
				w.exec(t, "z/last.db", "CREATE TABLE t (x)")
				first, tree, last := w.file("first.json"), w.treeSource("tree"), w.database("z/last.db")
				sources := withSources(first, tree, last)
				stamp := mustCreate(t, w.store(t, sources)).Stamp
				w.write(t, "first.json", "newer")
				w.write(t, "tree/d/file", "newer")
				s, stopped := w.stopping(t, func(op, p string) bool { return op == "rename" && strings.Contains(p, "/tree/") }, sources)
				if _, err := s.Restore(t.Context(), stamp, confirmed); err == nil || !stopped() {
					t.Fatalf("not interrupted: %v", err)
				}
				if undo {
					w.toUndo(t)
				}
				write(t, w)
				before := w.tree(t, ".")
				s = w.store(t, sources)
				if r, err := s.Recover(t.Context()); r != nil || !errors.Is(err, backup.ErrRecoveryPending) {
					t.Errorf("%+v, %v", r, err)
				}
				mustBeSame(t, w.tree(t, "."), before)
			})
		}
	}
}

// A database is never in place without its log: somebody might open it.
func TestUndoPutsADatabaseBackAfterItsLog(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.seed(t)
	stamp := w.create(t, w.store(t)).Stamp
	w.leaveLog(t, "data/atocore.db")
	var back []string
	s := w.faulty(t, func(op, p string) error {
		switch {
		case op == "rename" && strings.Contains(p, "config/") && strings.Contains(p, "/new/"):
			return syscall.EIO // so that all is undone
		case op == "rename" && strings.Contains(p, "/old/atocore.db"):
			back = append(back, path.Base(p))
			if journal := w.read(t, journalFile); !strings.Contains(journal, `"phase": "undo"`) {
				t.Errorf("undone, while the journal has\n%s", journal)
			}
		}
		return nil
	})
	if r, err := s.Restore(t.Context(), stamp, confirmed); r != nil || !errors.Is(err, syscall.EIO) || w.pending(t) {
		t.Fatalf("%+v, %v", r, err)
	}
	if diff := cmp.Diff(back, []string{"atocore.db-wal", "atocore.db"}); diff != "" {
		t.Errorf("moved back (-got +want):\n%s", diff)
	}
}

// Bytes that are not what was to be staged are noticed before anything is
// exchanged.
func TestStagedBytesAreVerifiedBeforeTheExchange(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.small(t)
	stamp := w.create(t, w.store(t)).Stamp
	w.change(t)
	before := w.liveState(t)
	var moved []string
	s := w.faulty(t, func(op, p string) error {
		switch {
		case op == "sync" && strings.HasSuffix(p, "/new/project-registry.json"):
			return afero.WriteFile(w.fs, p, []byte("what a disk did!"), 0o600)
		case op == "rename" && strings.Contains(p, ".atobackup-"), op == "rename" && path.Dir(p) != w.path("backups") && !strings.Contains(p, "snapshots"):
			moved = append(moved, p)
		}
		return nil
	})
	r, err := s.Restore(t.Context(), stamp, confirmed)
	if r != nil || !errors.Is(err, backup.CodeChecksumMismatch) || w.pending(t) {
		t.Errorf("%+v, %v", r, err)
	}
	if len(moved) > 0 {
		t.Errorf("moved: %v", moved)
	}
	if diff := cmp.Diff(w.liveState(t), before); diff != "" {
		t.Errorf("(-after +before):\n%s", diff)
	}
}

// A log of the new database would be replayed over the old one.
func TestUndoRefusesTheLogOfTheNewDatabase(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.seed(t)
	stamp := w.create(t, w.store(t)).Stamp
	w.exec(t, "data/atocore.db", "INSERT INTO memories (body) VALUES ('old')")
	s, stopped := w.stopping(t, func(op, p string) bool {
		return op == "rename" && strings.Contains(p, "config/") && strings.Contains(p, "/new/")
	})
	if _, err := s.Restore(t.Context(), stamp, confirmed); err == nil || !stopped() {
		t.Fatalf("not interrupted: %v", err)
	}
	w.leaveLog(t, "data/atocore.db")
	w.toUndo(t)
	w.mustBePending(t, nil)
	w.drop(t, "data/atocore.db-wal")
	w.recovers(t)
	if got := w.query(t, "data/atocore.db", "SELECT body FROM memories"); got != "baseline\nold" {
		t.Errorf("got %q, want the old rows", got)
	}
}

// What a service has written since is not taken for rot, and taken back.
func TestRecoverLeavesTheServiceWhatItWrote(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.seed(t)
	stamp := w.create(t, w.store(t)).Stamp
	s, stopped := w.stopping(t, func(op, p string) bool { // when all is in place
		return len(w.matches(t, "*/.atobackup-*/old/*")) > 0 && len(w.matches(t, "*/.atobackup-*/new/*")) == 0
	})
	if _, err := s.Restore(t.Context(), stamp, confirmed); err == nil || !stopped() {
		t.Fatalf("not interrupted: %v", err)
	}
	w.exec(t, "data/atocore.db", "PRAGMA locking_mode=EXCLUSIVE; INSERT INTO memories (body) VALUES ('acknowledged')")
	if r := w.recovers(t); r.Outcome != backup.RestoreFinished || r.Verified {
		t.Errorf("%+v", r)
	}
	if got := w.query(t, "data/atocore.db", "SELECT body FROM memories"); got != "baseline\nacknowledged" {
		t.Errorf("got %q", got)
	}
}

func TestRecoverRefusesUnderARunningService(t *testing.T) {
	memoryAndOs(t, func(t *testing.T, w *world) {
		w.seed(t)
		stamp := w.create(t, w.store(t)).Stamp
		s, stopped := w.stopping(t, func(op, p string) bool {
			return op == "rename" && strings.Contains(p, "config/") && strings.Contains(p, "/new/")
		})
		if _, err := s.Restore(t.Context(), stamp, confirmed); err == nil || !stopped() {
			t.Fatalf("not interrupted: %v", err)
		}
		c := w.open(t, "data/atocore.db", "PRAGMA locking_mode=EXCLUSIVE; BEGIN IMMEDIATE")
		refused := func() {
			if r, err := w.store(t).Recover(t.Context()); !errors.Is(err, backup.ErrServiceRunning) || !errors.Is(err, backup.ErrRecoveryPending) {
				t.Errorf("%+v, %v", r, err)
			}
		}
		refused()
		journal := w.read(t, journalFile)
		w.toUndo(t)
		refused()
		w.write(t, journalFile, journal)
		if err := errors.Join(c.Exec("COMMIT"), c.Close()); err != nil {
			t.Fatal(err)
		}
		if r := w.recovers(t); r.Outcome != backup.RestoreFinished || !r.Verified {
			t.Errorf("%+v", r)
		}
	})
}

// What has rotted while it waited is not put in place: the old state is.
func TestRecoverVerifiesWhatItPutsInPlace(t *testing.T) {
	f := newTrial(t, confirmed)
	w := f.interrupted(t, "swap")
	staged := w.matches(t, "chroma/.atobackup-*/new/a")
	if len(staged) != 1 {
		t.Fatalf("staged: %v", staged)
	}
	fi, err := w.fs.Stat(staged[0])
	if err != nil {
		t.Fatal(err)
	}
	mtime := fi.ModTime()
	if err := afero.WriteFile(w.fs, staged[0], []byte("rot!"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.fs.Chtimes(staged[0], mtime, mtime); err != nil { // a disk that rots leaves it
		t.Fatal(err)
	}
	if r := w.recovers(t); r.Outcome != backup.RestoreUndone || r.Verified {
		t.Errorf("%+v", r)
	}
	if state := f.state(t, w); state != "old" {
		t.Errorf("%s state, want the old one", state)
	}
}

func TestRecoverWithoutTheSnapshotVerifiesNothing(t *testing.T) {
	f := newTrial(t, confirmed)
	w := f.interrupted(t, "swap")
	w.drop(t, path.Join("backups/snapshots", f.stamp))
	if r := w.recovers(t); r.Outcome != backup.RestoreFinished || r.Verified {
		t.Errorf("%+v", r)
	}
	if state := f.state(t, w); state != "new" {
		t.Errorf("%s state, want the new one", state)
	}
}

func TestRecoverAfterACrashAnywhere(t *testing.T) {
	for _, tc := range []struct {
		name    string
		opts    *backup.RestoreOptions
		prepare func(w *world)
	}{
		{"with_safety_snapshot", confirmed, func(*world) {}},
		{"onto_nothing", &backup.RestoreOptions{ConfirmServiceStopped: true, SkipSafetySnapshot: true}, func(w *world) {
			for _, name := range []string{"data", "config", "chroma"} {
				if err := w.fs.RemoveAll(w.path(name)); err != nil {
					t.Fatal(err)
				}
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newTrial(t, tc.opts, tc.prepare)
			for n := 1; ; n++ {
				w := f.world(t)
				s, stopped := w.stoppingAt(t, n)
				_, err := s.Restore(t.Context(), f.stamp, tc.opts)
				if !stopped() {
					if err != nil {
						t.Fatal(err)
					}
					t.Logf("%d operations; outcomes %v", n-1, f.recoveries)
					break
				}
				f.recover(t, w)
				if t.Failed() {
					t.Fatalf("crash before operation %d", n)
				}
			}
			for _, outcome := range []backup.Outcome{backup.NothingPending, backup.Discarded, backup.RestoreFinished} {
				if f.recoveries[outcome] == 0 {
					t.Errorf("no crash had the outcome %s", outcome)
				}
			}
		})
	}
}

// Recover may be interrupted itself, at any operation.
func TestRecoverAfterACrashOfRecover(t *testing.T) {
	opts := &backup.RestoreOptions{ConfirmServiceStopped: true, SkipSafetySnapshot: true}
	f := newTrial(t, opts)
	points := 0
	for n := 1; ; n += 3 { // neighbours differ little
		w := f.world(t)
		s, stopped := w.stoppingAt(t, n)
		if _, err := s.Restore(t.Context(), f.stamp, opts); !stopped() {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		if !w.pending(t) {
			continue
		}
		after := &trial{w: w}
		for m := 1; ; m++ {
			again := after.world(t)
			s, stopped := again.stoppingAt(t, m)
			_, err := s.Recover(t.Context())
			if !stopped() {
				if err != nil {
					t.Fatalf("crash before operation %d: recover: %v", n, err)
				}
				break
			}
			points++
			f.recover(t, again)
			if t.Failed() {
				t.Fatalf("crash before operation %d, and before %d of recover", n, m)
			}
		}
	}
	t.Logf("%d points; outcomes %v", points, f.recoveries)
	if points == 0 {
		t.Error("nothing was tried")
	}
}

func TestRecoverOfNothing(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s := w.store(t)
		want := &backup.Recovery{Outcome: backup.NothingPending, Sources: []string{}}
		got, err := s.Recover(t.Context())
		if diff := cmp.Diff(got, want); err != nil || diff != "" || w.exists(t, "backups") {
			t.Errorf("of no store: %v (-got +want):\n%s", err, diff)
		}
		w.seed(t)
		w.create(t, s)
		before := w.stat(t, ".")
		got, err = s.Recover(t.Context())
		if diff := cmp.Diff(got, want); err != nil || diff != "" {
			t.Errorf("%v (-got +want):\n%s", err, diff)
		}
		if diff := cmp.Diff(w.stat(t, "."), before); diff != "" {
			t.Errorf("(-after +before):\n%s", diff)
		}
	})
}

// interrupted returns a world in which a restore stopped in a phase.
func (f *trial) interrupted(t *testing.T, phase string) *world {
	t.Helper()
	w := f.world(t)
	s, stopped := w.stopping(t, func(op, p string) bool {
		switch phase {
		case "swap": // as soon as something is in place
			return op == "rename" && strings.Contains(p, "/new/") || op == "remove" && p == w.path(journalFile)
		default: // as soon as something is removed
			return op == "remove" && strings.Contains(p, ".atobackup-")
		}
	})
	if _, err := s.Restore(t.Context(), f.stamp, f.opts); !stopped() || !w.pending(t) {
		t.Fatalf("not interrupted: %v", err)
	}
	if !strings.Contains(w.read(t, journalFile), fmt.Sprintf("%q: %q", "phase", phase)) {
		t.Fatalf("not in phase %s: %s", phase, w.read(t, journalFile))
	}
	return w
}

func TestRecoverSaysWhatItDid(t *testing.T) {
	f := newTrial(t, confirmed)
	for _, tc := range []struct {
		phase, from string
		outcome     backup.Outcome
		state       string
	}{
		{"swap", "swap", backup.RestoreFinished, "new"},
		{"undo", "swap", backup.RestoreUndone, "old"},
		{"discard", "discard", backup.Discarded, "new"},
	} {
		t.Run(tc.phase, func(t *testing.T) {
			w := f.interrupted(t, tc.from)
			if tc.phase == "undo" {
				w.edit(t, journalFile, func(data []byte) []byte { return []byte(reseal(replace(t, `"swap"`, `"undo"`)(string(data)))) })
			}
			s := w.store(t)
			safety := w.stamps(t, s)[0]
			got, err := s.Recover(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			want := &backup.Recovery{Stamp: f.stamp, SafetyStamp: safety, Outcome: tc.outcome, Sources: []string{"db", "config", "chroma"}, Verified: tc.phase == "swap"}
			if diff := cmp.Diff(got, want); diff != "" {
				t.Errorf("(-got +want):\n%s", diff)
			}
			if state := f.state(t, w); state != tc.state {
				t.Errorf("%s state, want the %s one", state, tc.state)
			}
		})
	}
}

// A journal that is not to be believed is not acted upon.
func TestRecoverRefusesJournal(t *testing.T) {
	f := newTrial(t, confirmed)
	interrupted := f.interrupted(t, "swap")
	sealed := func(old, new string) func(*testing.T, string) string {
		return func(t *testing.T, text string) string { return reseal(replace(t, old, new)(text)) }
	}
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, text string) string
		config func(*backup.Config)
	}{
		{"empty", func(*testing.T, string) string { return "" }, nil},
		{"truncated", func(_ *testing.T, text string) string { return text[:len(text)/2] }, nil},
		{"bit_flipped", func(_ *testing.T, text string) string { return string(flip(40)([]byte(text))) }, nil},
		{"trailing", func(_ *testing.T, text string) string { return text + "{}" }, nil},
		{"unknown_key", sealed(`"phase": "swap"`, `"phase": "swap", "x": 1`), nil},
		{"other_format", sealed("atocore-restore/1", "atocore-restore/2"), nil},
		{"other_phase", sealed(`"phase": "swap"`, `"phase": "done"`), nil},
		{"swap_null", sealed(`"swaps": [`, "\"swaps\": [\n    null,"), nil},
		{"source_unknown", sealed(`"source": "config"`, `"source": "other"`), nil},
		{"root_elsewhere", sealed(`"root": "/srv/config"`, `"root": "/etc"`), nil},
		{"root_below", sealed(`"root": "/srv/config"`, `"root": "/srv/config/x"`), nil},
		{"tree_root_above", sealed(`"root": "/srv/chroma"`, `"root": "/srv"`), nil},
		{"staging_traverses", sealed(`"staging": ".atobackup-`, `"staging": ".atobackup-/../../`), nil},
		{"staging_is_somebodys", sealed(`"staging": ".atobackup-`, `"staging": "a`), nil},
		{"new_traverses", sealed(`"project-registry.json"`, `"../data/atocore.db"`), nil},
		{"new_is_somebodys", sealed(`"project-registry.json"`, `"passwd"`), nil},
		{"new_is_its_sidecar", sealed(`"project-registry.json"`, `"project-registry.json-wal"`), nil},
		{"old_traverses", sealed(`"dir"`, `"../config"`), nil},
		{"made_above", sealed(`"in_place"`, `"in_place"`), nil},
		{"source_moved_since", func(_ *testing.T, text string) string { return text }, func(cfg *backup.Config) {
			cfg.Sources[0].Path = "/srv/elsewhere/atocore.db"
		}},
		{"source_renamed_since", func(_ *testing.T, text string) string { return text }, func(cfg *backup.Config) {
			cfg.Sources[0].Path = "/srv/data/other.db"
		}},
		{"source_removed_since", func(_ *testing.T, text string) string { return text }, func(cfg *backup.Config) {
			cfg.Sources = cfg.Sources[:2]
		}},
	} {
		if tc.name == "made_above" { // the key is not in this journal
			tc.change = sealed("\n      \"old\": [\n        \"project-registry.json\"\n      ]", "\n      \"old\": [\n        \"project-registry.json\"\n      ],\n      \"made\": [\n        \"/srv/data\"\n      ]")
		}
		t.Run(tc.name, func(t *testing.T) {
			w := (&trial{w: interrupted}).world(t)
			w.edit(t, journalFile, func(data []byte) []byte { return []byte(tc.change(t, string(data))) })
			before := w.stat(t, ".")
			var changes []func(*backup.Config)
			if tc.config != nil {
				changes = append(changes, tc.config)
			}
			s := w.store(t, changes...)
			defer func() {
				if r := recover(); r != nil {
					t.Errorf("panic: %v", r)
				}
			}()
			r, err := s.Recover(t.Context())
			if r != nil || !errors.Is(err, backup.ErrRecoveryPending) || !strings.Contains(err.Error(), w.path(journalFile)) {
				t.Errorf("%+v, %v", r, err)
			}
			refusesChanges(t, s, f.stamp)
			if diff := cmp.Diff(w.stat(t, "."), before); diff != "" {
				t.Errorf("touched (-after +before):\n%s", diff)
			}
		})
	}
}

// Looking is allowed while a restore is pending.
func TestPendingRestoreLetsLook(t *testing.T) {
	f := newTrial(t, confirmed)
	w := f.interrupted(t, "swap")
	s := w.store(t)
	before := w.stat(t, ".")
	if n := len(w.list(t, s)); n != 2 {
		t.Errorf("%d listed, want the snapshot and the safety snapshot", n)
	}
	if r := w.validate(t, s, f.stamp, nil); !r.Valid {
		t.Errorf("%+v", r)
	}
	w.cleanup(t, s, nil, backup.Cleanup{DryRun: true, Kept: 2})
	if diff := cmp.Diff(w.stat(t, "."), before); diff != "" {
		t.Errorf("(-after +before):\n%s", diff)
	}
}

func TestRecoverCancelled(t *testing.T) {
	f := newTrial(t, confirmed)
	w := f.interrupted(t, "swap")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.store(t).Recover(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	f.recover(t, w)
}

// A directory that was made for an empty tree is part of the new state.
func TestRecoverKeepsTheDirectoryOfAnEmptyTree(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.small(t)
	w.drop(t, "chroma")
	w.mkdir(t, "chroma")
	f := &trial{w: w, stamp: w.create(t, w.store(t)).Stamp, opts: confirmed}
	w.drop(t, "chroma")
	w = f.interrupted(t, "swap")
	r, err := w.store(t).Recover(t.Context())
	if err != nil || r.Outcome != backup.RestoreFinished {
		t.Fatalf("%+v, %v", r, err)
	}
	if !w.exists(t, "chroma") {
		t.Error("the tree is not there")
	}
}

// beforeTheNote is when all has been exchanged and verified, and the journal does
// not say so yet.
func (w *world) beforeTheNote(t *testing.T) func(op, p string) bool {
	return func(op, p string) bool {
		return op == "create" && p == w.path(journalFile)+".tmp" && w.pending(t) && len(w.staged(t)) == 0 &&
			strings.Contains(w.read(t, journalFile), `"phase": "swap"`)
	}
}

// With what a restore has put in place the service may do anything, also remove
// it: that is no reason to take all of it back.
func TestRecoverLeavesTheServiceWhatItRemoved(t *testing.T) {
	w := osWorld(t)
	w.write(t, "queue/job1", "snapshot")
	w.write(t, "queue/state", "snapshot")
	sources := withSources(w.treeSource("queue"))
	stamp := mustCreate(t, w.store(t, sources)).Stamp
	w.write(t, "queue/state", "before the restore")
	w.write(t, "queue/job0", "before the restore")
	s, stopped := w.stopping(t, w.beforeTheNote(t), sources)
	if _, err := s.Restore(t.Context(), stamp, confirmed); !stopped() {
		t.Fatalf("not interrupted: %v", err)
	}
	w.drop(t, "queue/job1")
	w.write(t, "queue/done1", "by the service")
	r, err := w.store(t, sources).Recover(t.Context())
	if err != nil || r.Outcome != backup.RestoreFinished || r.Verified {
		t.Errorf("%+v, %v", r, err)
	}
	want := []string{".", "done1", "state"}
	if diff := cmp.Diff(w.names(t, "queue"), want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
}

// When the old state is in place again, and the journal does not say so, the
// service may have worked with it.
func TestRecoverOfAWholeUndoLeavesTheServiceWhatItWrote(t *testing.T) {
	w := osWorld(t)
	w.exec(t, "data/app.db", "CREATE TABLE t (x); INSERT INTO t VALUES ('snapshot')")
	w.write(t, "tree/f", "snapshot")
	sources := withSources(w.database("data/app.db"), w.treeSource("tree"))
	stamp := mustCreate(t, w.store(t, sources)).Stamp
	w.exec(t, "data/app.db", "INSERT INTO t VALUES ('since')")
	w.write(t, "tree/f", "since")
	undone := func(op, p string) bool { // and about to be noted
		return op == "create" && p == w.path(journalFile)+".tmp" && w.pending(t) && strings.Contains(w.read(t, journalFile), `"phase": "undo"`)
	}
	fail := func(op, p string) error { // so that all is undone
		if op == "rename" && strings.Contains(p, "tree/.atobackup-") && strings.Contains(p, "/new/") {
			return syscall.EIO
		}
		return nil
	}
	stopped := false
	s := w.faulty(t, func(op, p string) error {
		if stopped = stopped || undone(op, p); stopped {
			return syscall.ENODEV
		}
		return fail(op, p)
	}, sources)
	if _, err := s.Restore(t.Context(), stamp, confirmed); !stopped {
		t.Fatalf("not interrupted: %v", err)
	}
	w.exec(t, "data/app.db", "INSERT INTO t VALUES ('committed')")
	w.drop(t, "tree/f")
	s = w.store(t, sources)
	if r, err := s.Recover(t.Context()); err != nil || r.Outcome != backup.RestoreUndone {
		t.Errorf("%+v, %v", r, err)
	}
	if got := w.query(t, "data/app.db", "SELECT x FROM t"); got != "snapshot\nsince\ncommitted" {
		t.Errorf("there are %q", got)
	}
	if w.exists(t, "tree/f") {
		t.Error("what the service removed is there again")
	}
}

// Snapshots may lie on another disk than the journal does.
func TestRecoverWithoutTheSnapshots(t *testing.T) {
	for _, phase := range []string{"swap", "discard"} {
		t.Run(phase, func(t *testing.T) {
			f := newTrial(t, confirmed)
			w := f.interrupted(t, phase)
			w.rename(t, "backups/snapshots", "elsewhere")
			if r := w.recovers(t); r.Verified {
				t.Errorf("%+v", r)
			}
			if state := f.state(t, w); state != "new" {
				t.Errorf("%s state", state)
			}
		})
	}
}

// The Python module's files have no checksum; those of its snapshot are there to
// be compared with.
func TestRecoverComparesThePythonModulesFiles(t *testing.T) {
	w := osWorld(t)
	w.python(t)
	w.seed(t)
	s, stopped := w.stopping(t, w.beforeTheNote(t))
	if _, err := s.Restore(t.Context(), pythonSnapshot, confirmed); !stopped() {
		t.Fatalf("not interrupted: %v", err)
	}
	const registry = "config/project-registry.json"
	fi, err := w.fs.Stat(w.path(registry))
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, registry, strings.Repeat("\x00", int(fi.Size())))
	w.attribute(t, registry, fi.Mode(), fi.ModTime()) // it has rotted
	if r, err := w.store(t).Recover(t.Context()); err != nil || r.Verified || r.Outcome != backup.RestoreUndone {
		t.Errorf("%+v, %v", r, err)
	}
}

// A tree whose path is that of a directory above it now is another one.
func TestRecoverRefusesATreeThatIsAnother(t *testing.T) {
	w := osWorld(t)
	w.write(t, "srv/tree/a", "old")
	inner, outer := withSources(w.treeSource("srv/tree")), withSources(w.treeSource("srv"))
	stamp := mustCreate(t, w.store(t, inner)).Stamp
	s, stopped := w.stopping(t, func(op, p string) bool { return op == "rename" && strings.Contains(p, "/new/") }, inner)
	if _, err := s.Restore(t.Context(), stamp, confirmed); !stopped() {
		t.Fatalf("not interrupted: %v", err)
	}
	before := w.tree(t, ".")
	if r, err := w.store(t, outer).Recover(t.Context()); !errors.Is(err, backup.ErrRecoveryPending) {
		t.Errorf("%+v, %v", r, err)
	}
	mustBeSame(t, w.tree(t, "."), before)
}

// That something could not be opened for want of descriptors does not tell whether
// the new state is good: it is not given up for that.
func TestRecoverWaitsOutAShortage(t *testing.T) {
	for _, file := range []string{metadataFile, manifestFile, "db/atocore.db"} {
		for _, complete := range []bool{false, true} {
			for _, shortage := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
				f := newTrial(t, confirmed)
				w := f.interrupted(t, "swap")
				if complete { // and to be verified
					s, _ := w.stopping(t, func(op, p string) bool { return op == "rename" && strings.HasPrefix(p, w.path(journalFile)) })
					if _, err := s.Recover(t.Context()); err == nil {
						t.Fatal("it was not stopped")
					}
				}
				met := false
				s := w.faulty(t, func(op, p string) error {
					if op != "open" || p != w.snapshot(f.stamp, file) {
						return nil
					}
					met = true
					return shortage
				})
				r, err := s.Recover(t.Context())
				if met && (r != nil || !errors.Is(err, shortage) || !errors.Is(err, backup.ErrRecoveryPending)) {
					t.Errorf("%s, complete %v: got %+v, %v, want %v", file, complete, r, err, shortage)
				}
				if !met {
					t.Errorf("%s, complete %v: was not opened: %+v, %v", file, complete, r, err)
				}
				if r := w.recovers(t); r.Outcome != backup.RestoreFinished || f.state(t, w) != "new" {
					t.Errorf("%s, complete %v: then %+v", file, complete, r)
				}
			}
		}
	}
}
