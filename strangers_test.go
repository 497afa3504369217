package backup_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atocore/backup"
)

// What becomes of what a service does while its state is exchanged, or between a
// crash and Recover.

const oldLog = "the log of the old database, which is open somewhere"

// A service opens the old database after the last look at it, and begins a log
// while that makes room. The new database must not meet it, and it goes with the
// old one.
func TestRestoreNoticesALogOfTheOldDatabase(t *testing.T) {
	for name, kind := range map[string]backup.Kind{"data/app.db": backup.Database, "tree/app.db": backup.Tree} {
		t.Run(string(kind), func(t *testing.T) {
			memoryAndOs(t, func(t *testing.T, w *world) {
				w.exec(t, name, "CREATE TABLE t (x); INSERT INTO t VALUES ('snapshot')")
				source := w.database(name)
				if kind == backup.Tree {
					source = w.treeSource("tree")
				}
				stamp := mustCreate(t, w.store(t, withSources(source))).Stamp
				w.exec(t, name, "UPDATE t SET x = 'since'")
				before := w.liveState(t)
				started := false
				s := w.faulty(t, func(op, p string) error {
					if op == "rename" && p == w.path(name) && !started {
						started = true
						w.write(t, name+"-wal", oldLog)
					}
					return nil
				}, withSources(source))
				r, err := s.Restore(t.Context(), stamp, quickly)
				if !errors.Is(err, backup.ErrServiceRunning) || w.pending(t) {
					t.Errorf("%+v, %v", r, err)
				}
				if got := w.read(t, name+"-wal"); got != oldLog {
					t.Errorf("the log: %q", got)
				}
				w.drop(t, name+"-wal")
				mustBeSame(t, w.liveState(t), before)
			})
		})
	}
}

// The databases in trees of the Python module's snapshots are not marked as such.
func TestRestoreNoticesALogInATreeOfThePythonModule(t *testing.T) {
	memoryAndOs(t, func(t *testing.T, w *world) {
		w.python(t)
		w.seed(t)
		const log = "chroma/chroma.sqlite3-wal"
		s := w.faulty(t, func(op, p string) error {
			if op == "rename" && isStaged(p, "chroma.sqlite3") {
				w.write(t, log, oldLog) // there was none a moment ago
			}
			return nil
		})
		if r, err := s.Restore(t.Context(), pythonSnapshot, quickly); !errors.Is(err, backup.ErrRecoveryPending) || !errors.Is(err, backup.ErrServiceRunning) {
			t.Errorf("%+v, %v", r, err)
		}
		w.mustBePending(t, nil)
	})
}

// A service commits to a new database, and then the restore of another source
// fails. The old database must not meet the log, and what was committed must not
// go with the new one.
func TestRestoreTakesNoCommitsBack(t *testing.T) {
	const rollback = "INSERT INTO t VALUES (zeroblob(20000))" // the size tells in memory, too
	for _, tc := range []struct{ name, db, sql, away string }{
		{"log", "data/app.db", "", "data/app.db-wal"},
		{"rollback", "data/app.db", rollback, "data/app.db"},
		{"log_in_a_tree", "tree/dir/app.db", "", "tree/dir"},
		{"rollback_in_a_tree", "tree/dir/app.db", rollback, "tree/dir"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			memoryAndOs(t, func(t *testing.T, w *world) {
				w.exec(t, tc.db, "CREATE TABLE t (x); INSERT INTO t VALUES ('snapshot')")
				w.write(t, "z/f", "snapshot")
				source := w.database(tc.db)
				if strings.HasPrefix(tc.db, "tree/") {
					source = w.treeSource("tree")
				}
				sources := withSources(source, w.file("z/f"))
				stamp := mustCreate(t, w.store(t, sources)).Stamp
				w.exec(t, tc.db, "UPDATE t SET x = 'since'")
				s := w.faulty(t, at("rename", func(p string) bool { return isStaged(p, "f") }, func(string) error {
					if tc.sql == "" {
						w.write(t, tc.db+"-wal", "the log of the new database")
					} else {
						w.exec(t, tc.db, tc.sql)
					}
					return syscall.EIO
				}), sources)
				r, err := s.Restore(t.Context(), stamp, quickly)
				if !errors.Is(err, backup.ErrRecoveryPending) || !errors.Is(err, backup.ErrServiceRunning) || !errors.Is(err, syscall.EIO) {
					t.Errorf("%+v, %v", r, err)
				}
				s = w.store(t, sources)
				if r, err := s.Recover(t.Context()); !errors.Is(err, backup.ErrRecoveryPending) {
					t.Errorf("%+v, %v", r, err)
				}
				w.rename(t, tc.away, "away") // as the error says
				if r, err := s.Recover(t.Context()); err != nil || r.Outcome != backup.RestoreUndone {
					t.Errorf("%+v, %v", r, err)
				}
				if got := w.query(t, tc.db, "SELECT x FROM t"); got != "since" {
					t.Errorf("got %q", got)
				}
			})
		})
	}
}

// The same as for a Database goes for one at the top of a tree: it has a log that
// nobody knows of, and did not change itself.
func TestRecoverFindsALogInATree(t *testing.T) {
	for name, undo := range map[string]bool{"finish": false, "undo": true} {
		t.Run(name, func(t *testing.T) {
			memoryAndOs(t, func(t *testing.T, w *world) {
				w.exec(t, "tree/app.db", "CREATE TABLE t (x); INSERT INTO t VALUES ('snapshot')")
				w.write(t, "tree/z", "snapshot")
				sources := withSources(w.treeSource("tree"))
				stamp := mustCreate(t, w.store(t, sources)).Stamp
				w.exec(t, "tree/app.db", "UPDATE t SET x = 'since'")
				s, stopped := w.stopping(t, func(op, p string) bool {
					return op == "rename" && (p == w.path("tree/app.db") || undo && isStaged(p, "z")) && (!undo || isStaged(p, "z"))
				}, sources)
				if _, err := s.Restore(t.Context(), stamp, confirmed); err == nil || !stopped() {
					t.Fatalf("not interrupted: %v", err)
				}
				if undo {
					w.toUndo(t)
				}
				w.write(t, "tree/app.db-wal", "committed, and not in the database yet")
				before := w.tree(t, ".")
				if r, err := w.store(t, sources).Recover(t.Context()); !errors.Is(err, backup.ErrRecoveryPending) {
					t.Errorf("%+v, %v", r, err)
				}
				mustBeSame(t, w.tree(t, "."), before)
			})
		})
	}
}

// A look at a database in WAL mode may leave empty files beside it, if it is
// killed; and a power cut may bring those back that it has removed.
func TestRecoverPassesOverWhatALookLeft(t *testing.T) {
	for _, db := range []string{"tree/sub/x.db", "tree/x.db"} {
		for name, undo := range map[string]bool{"finish": false, "undo": true} {
			t.Run(strings.ReplaceAll(db, "/", "_")+"_"+name, func(t *testing.T) {
				memoryAndOs(t, func(t *testing.T, w *world) {
					w.exec(t, db, "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; CREATE TABLE t (x); INSERT INTO t VALUES ('snapshot')")
					w.write(t, "z/f", "snapshot")
					sources := withSources(w.treeSource("tree"), w.file("z/f"))
					stamp := mustCreate(t, w.store(t, sources)).Stamp
					w.exec(t, db, "PRAGMA locking_mode=EXCLUSIVE; UPDATE t SET x = 'since'")
					s, stopped := w.stopping(t, func(op, p string) bool { return op == "rename" && isStaged(p, "f") }, sources)
					if _, err := s.Restore(t.Context(), stamp, confirmed); err == nil || !stopped() {
						t.Fatalf("not interrupted: %v", err)
					}
					if undo {
						w.toUndo(t)
					}
					w.write(t, db+"-wal", "")
					w.write(t, db+"-shm", "an index")
					if r, err := w.store(t, sources).Recover(t.Context()); err != nil {
						t.Errorf("%+v, %v", r, err)
					}
					want := map[bool]string{false: "snapshot", true: "since"}[undo]
					if got := w.query(t, db, "SELECT x FROM t"); got != want {
						t.Errorf("got %q, want %q", got, want)
					}
				})
			})
		}
	}
}

// Who has a file open goes on to write to it when it has made room.
func TestRecoverKeepsWhatIsWrittenToTheOldFiles(t *testing.T) {
	w := osWorld(t)
	w.write(t, "a/f", "snapshot")
	w.write(t, "b/g", "snapshot")
	a, b := w.file("a/f"), w.file("b/g")
	a.Name = "a"
	sources := withSources(a, b)
	stamp := mustCreate(t, w.store(t, sources)).Stamp
	w.write(t, "a/f", "since")
	w.write(t, "b/g", "since")
	f, err := os.OpenFile(w.path("a/f"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, stopped := w.stopping(t, func(op, p string) bool { return op == "rename" && isStaged(p, "g") }, sources)
	if _, err := s.Restore(t.Context(), stamp, confirmed); err == nil || !stopped() {
		t.Fatalf("not interrupted: %v", err)
	}
	if _, err := f.WriteString(", acknowledged"); err != nil {
		t.Fatal(err)
	}
	if r, err := w.store(t, sources).Recover(t.Context()); err != nil || r.Outcome != backup.RestoreUndone {
		t.Errorf("%+v, %v", r, err)
	}
	got := []string{w.read(t, "a/f"), w.read(t, "b/g")}
	if diff := cmp.Diff(got, []string{"since, acknowledged", "since"}); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
}

// What comes to be at the top of a tree during the exchange is neither old nor new.
func TestRestoreNoticesWhatComesToBeInATree(t *testing.T) {
	for name, newcomer := range map[string]string{"new_name": "tree/session.lock", "old_name": "tree/gone"} {
		t.Run(name, func(t *testing.T) {
			memoryAndOs(t, func(t *testing.T, w *world) {
				w.write(t, "tree/f", "snapshot")
				w.write(t, "tree/own/app.json", "another source's")
				sources := withSources(w.treeSource("tree"), backup.Source{Name: "own", Kind: backup.File, Path: w.path("tree/own.json"), Optional: true})
				stamp := mustCreate(t, w.store(t, sources)).Stamp
				w.write(t, "tree/f", "since")
				w.write(t, "tree/gone", "is not in the snapshot")
				want := w.liveState(t)
				s := w.faulty(t, func(op, p string) error {
					if op == "rename" && isStaged(p, "f") { // the old ones are out of the way
						w.write(t, newcomer, "by a service")
						w.write(t, "tree/own.json", "is none of the tree's")
					}
					return nil
				}, sources)
				r, err := s.Restore(t.Context(), stamp, quickly)
				if !errors.Is(err, backup.ErrServiceRunning) {
					t.Errorf("%+v, %v", r, err)
				}
				if got := w.read(t, newcomer); got != "by a service" {
					t.Errorf("what the service wrote: %q", got)
				}
				if name == "old_name" { // which is in the way of the old one
					w.mustBePending(t, nil)
					w.drop(t, newcomer) // as the error says
					if r, err := w.store(t, sources).Recover(t.Context()); err != nil || r.Outcome != backup.RestoreUndone {
						t.Errorf("%+v, %v", r, err)
					}
				} else {
					w.drop(t, newcomer)
				}
				w.drop(t, "tree/own.json")
				mustBeSame(t, w.liveState(t), want)
			})
		})
	}
}

// The same goes for what has come to be between a crash and Recover.
func TestRecoverFindsWhatHasComeToBeInATree(t *testing.T) {
	memoryAndOs(t, func(t *testing.T, w *world) {
		w.write(t, "tree/a", "snapshot")
		w.write(t, "tree/b", "snapshot")
		sources := withSources(w.treeSource("tree"))
		stamp := mustCreate(t, w.store(t, sources)).Stamp
		w.write(t, "tree/a", "since")
		w.write(t, "tree/gone", "is not in the snapshot")
		s, stopped := w.stopping(t, func(op, p string) bool { return op == "rename" && isStaged(p, "b") }, sources)
		if _, err := s.Restore(t.Context(), stamp, confirmed); err == nil || !stopped() {
			t.Fatalf("not interrupted: %v", err)
		}
		w.write(t, "tree/new", "by a service")
		before := w.tree(t, ".")
		if r, err := w.store(t, sources).Recover(t.Context()); !errors.Is(err, backup.ErrRecoveryPending) || !strings.Contains(err.Error(), w.path("tree/new")) {
			t.Errorf("%+v, %v", r, err)
		}
		mustBeSame(t, w.tree(t, "."), before)
		w.rename(t, "tree/new", "away") // as the error says
		if r, err := w.store(t, sources).Recover(t.Context()); err != nil || r.Outcome != backup.RestoreFinished || !r.Verified {
			t.Errorf("%+v, %v", r, err)
		}
		if got := w.names(t, "tree"); !slices.Equal(got, []string{".", "a", "b"}) {
			t.Errorf("there is %v", got)
		}
	})
}

// A restore of another store has staged the same files: one of the two has to go
// first.
func TestRestoreSeesThatOfAnotherStore(t *testing.T) {
	memoryAndOs(t, func(t *testing.T, w *world) {
		w.seed(t)
		s := w.store(t)
		stamp := w.create(t, s).Stamp
		const id = ".atobackup-0123456789abcdef-"
		for name, rivals := range map[string]bool{
			"chroma/" + id + "vectors/new/x":           true,
			"data/" + id + "main/new/atocore.db":       true,
			"data/" + id + "other/new/other.db":        false,
			"config/" + id + "x/new/a/registry.json":   false,
			"config/" + id + "x/old/project.json":      false,
			"chroma/.atobackup-0123-of-somebody/new/x": false, // it is no such directory
		} {
			w.write(t, name, "staged")
			before, snapshots := w.liveState(t), len(w.list(t, s))
			_, err := s.Restore(t.Context(), stamp, confirmed)
			if rivals && len(w.list(t, s)) != snapshots {
				t.Errorf("beside %s: there is a safety snapshot of what was not tried", name)
			}
			if rivals != errors.Is(err, backup.ErrBusy) || !rivals && err != nil {
				t.Errorf("beside %s: %v", name, err)
			}
			if rivals {
				mustBeSame(t, w.liveState(t), before)
			}
			dir, _, _ := strings.Cut(name, "/new/")
			dir, _, _ = strings.Cut(dir, "/old/")
			w.drop(t, dir)
		}
		w.restore(t, s, stamp)
	})
}
