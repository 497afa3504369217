package backup_test

import (
	"errors"
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
