package backup_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ncruces/go-sqlite3"
	"github.com/spf13/afero"

	"github.com/atocore/backup"
)

// The gates come in order, and none of them changes anything.
func TestRestoreGates(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		s := w.store(t)
		good := w.create(t, s).Stamp
		bad := w.create(t, s).Stamp
		w.drop(t, in(bad, "config"))
		c := w.open(t, "data/atocore.db", "PRAGMA locking_mode=EXCLUSIVE; BEGIN IMMEDIATE")
		before := w.stat(t, "config")
		snapshots := w.stamps(t, s)
		for _, tc := range []struct {
			name  string
			stamp string
			opts  *backup.RestoreOptions
			want  error
		}{
			{"stamp_before_confirmation", "../x", nil, backup.ErrInvalidStamp},
			{"confirmation_before_validation", bad, nil, backup.ErrNotConfirmed},
			{"confirmation_before_existence", missingStamp, nil, backup.ErrNotConfirmed},
			{"validation_before_selection", bad, &backup.RestoreOptions{ConfirmServiceStopped: true, Sources: []string{"none"}}, backup.ErrInvalidSnapshot},
			{"validation_before_connections", bad, confirmed, backup.ErrInvalidSnapshot},
			{"connections_before_safety_snapshot", good, confirmed, backup.ErrServiceRunning},
		} {
			t.Run(tc.name, func(t *testing.T) {
				if r, err := s.Restore(t.Context(), tc.stamp, tc.opts); r != nil || !errors.Is(err, tc.want) {
					t.Errorf("%+v, %v; want %v", r, err, tc.want)
				}
			})
		}
		for _, stamp := range badStamps {
			if _, err := s.Restore(t.Context(), stamp, confirmed); !errors.Is(err, backup.ErrInvalidStamp) {
				t.Errorf("stamp %q: %v", stamp, err)
			}
		}
		if diff := cmp.Diff(w.stamps(t, s), snapshots); diff != "" {
			t.Errorf("snapshots (-after +before):\n%s", diff)
		}
		if diff := cmp.Diff(w.stat(t, "config"), before); diff != "" {
			t.Errorf("registry (-after +before):\n%s", diff)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		w.restore(t, s, good)
	})
}

func TestRestoreRefusesWhileTheServiceRuns(t *testing.T) {
	for _, tc := range []struct {
		name, mode, sql string
		native          bool // needs shared memory
	}{
		{"wal_connection_that_has_read", "WAL", "SELECT * FROM memories", true},
		{"wal_connection_that_has_written", "WAL", "INSERT INTO memories (body) VALUES ('x')", true},
		{"wal_connection_in_exclusive_mode", "WAL", "PRAGMA locking_mode=EXCLUSIVE; SELECT * FROM memories", false},
		{"wal_transaction", "WAL", "PRAGMA locking_mode=EXCLUSIVE; BEGIN IMMEDIATE", false},
		{"rollback_write_transaction", "DELETE", "BEGIN; INSERT INTO memories (body) VALUES ('x')", false},
		{"rollback_read_transaction", "DELETE", "BEGIN; SELECT * FROM memories", false},
		{"rollback_connection_in_exclusive_mode", "DELETE", "PRAGMA locking_mode=EXCLUSIVE; SELECT * FROM memories", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			memoryAndOs(t, func(t *testing.T, w *world) {
				if _, memory := w.fs.(*afero.MemMapFs); memory && tc.native {
					return
				}
				w.seed(t)
				w.exec(t, "data/atocore.db", "PRAGMA journal_mode="+tc.mode)
				s := w.store(t)
				stamp := w.create(t, s).Stamp
				w.write(t, "config/project-registry.json", "live")
				c := w.open(t, "data/atocore.db", tc.sql)
				r, err := s.Restore(t.Context(), stamp, confirmed)
				if r != nil || !errors.Is(err, backup.ErrServiceRunning) || !strings.Contains(err.Error(), w.path("data/atocore.db")) {
					t.Errorf("%+v, %v", r, err)
				}
				if got := w.read(t, "config/project-registry.json"); got != "live" || len(w.stamps(t, s)) != 1 {
					t.Errorf("registry %q, snapshots %q", got, w.stamps(t, s))
				}
				if _, err := s.Restore(t.Context(), stamp, &backup.RestoreOptions{ConfirmServiceStopped: true, Sources: []string{"config"}}); err != nil {
					t.Errorf("of what the connection does not have: %v", err)
				}
				if err := c.Exec("SELECT count(*) FROM memories"); err != nil {
					t.Errorf("the service's connection: %v", err)
				}
				if err := c.Close(); err != nil {
					t.Fatal(err)
				}
				w.restore(t, s, stamp)
			})
		})
	}
}

// A database within a tree may be open too.
func TestRestoreRefusesWhileADatabaseOfATreeIsOpen(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		s := w.store(t)
		stamp := w.create(t, s).Stamp
		c := w.open(t, "chroma/chroma.sqlite3", "BEGIN; SELECT * FROM e")
		defer c.Close()
		if r, err := s.Restore(t.Context(), stamp, confirmed); !errors.Is(err, backup.ErrServiceRunning) {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// One that the snapshot does not have is to go, too.
func TestRestoreRefusesWhileANewDatabaseOfATreeIsOpen(t *testing.T) {
	memoryAndOs(t, func(t *testing.T, w *world) {
		s := w.small(t)
		stamp := w.create(t, s).Stamp
		w.mkdir(t, "chroma/dir")
		c := w.open(t, "chroma/dir/new.sqlite3", "CREATE TABLE t (x); BEGIN IMMEDIATE; INSERT INTO t VALUES (1)")
		r, err := s.Restore(t.Context(), stamp, confirmed)
		if r != nil || !errors.Is(err, backup.ErrServiceRunning) {
			t.Errorf("%+v, %v", r, err)
		}
		if err := errors.Join(c.Exec("COMMIT"), c.Close()); err != nil {
			t.Fatal(err)
		}
	})
}

// What is written once the safety snapshot is taken would be in neither.
func TestRestoreNoticesAWriteAfterTheSafetySnapshot(t *testing.T) {
	for name, write := range map[string]func(w *world){
		"database":      func(w *world) { w.exec(t, "data/atocore.db", "CREATE TABLE late (x)") },
		"file":          func(w *world) { w.write(t, "config/project-registry.json", "late") },
		"tree":          func(w *world) { w.write(t, "chroma/late", "late") },
		"new_directory": func(w *world) { w.mkdir(t, "chroma/late") },
		// These are named like what SQLite makes, and are not.
		"journal":       func(w *world) { w.write(t, "chroma/travel-journal", "late") },
		"shm":           func(w *world) { w.write(t, "chroma/a-shm", "late") },
		"empty_wal":     func(w *world) { w.write(t, "chroma/a-wal", "") },
		"file_replaced": func(w *world) { w.drop(t, "config/project-registry.json") },
	} {
		t.Run(name, func(t *testing.T) {
			memoryAndOs(t, func(t *testing.T, w *world) {
				w.small(t)
				stamp := w.create(t, w.store(t)).Stamp
				w.change(t)
				once := false
				s := w.store(t, func(cfg *backup.Config) {
					cfg.Progress = func(p backup.Progress) {
						if p.Op == "restore" && !once {
							once = true
							write(w)
						}
					}
				})
				r, err := s.Restore(t.Context(), stamp, confirmed)
				if r != nil || !errors.Is(err, backup.ErrServiceRunning) || w.pending(t) {
					t.Errorf("%+v, %v", r, err)
				}
				w.restore(t, w.store(t), stamp)
			})
		})
	}
}

// What the restore itself makes in a tree is no write of others: directories
// for what another source has there, and what SQLite leaves beside a database
// that is read.
func TestRestoreDoesNotNoticeItself(t *testing.T) {
	eachNativeFs(t, func(t *testing.T, w *world) {
		w.write(t, "tree/a", "a")
		w.write(t, "tree/sub/deep/f", "f")
		w.exec(t, "tree/app.db", "PRAGMA journal_mode=WAL; CREATE TABLE t (x)")
		s := w.store(t, withSources(w.treeSource("tree"), w.file("tree/sub/deep/f")))
		stamp := mustCreate(t, s).Stamp
		if err := w.fs.RemoveAll(w.path("tree/sub")); err != nil {
			t.Fatal(err)
		}
		w.restore(t, s, stamp)
		if got := w.read(t, "tree/sub/deep/f"); got != "f" {
			t.Errorf("got %q", got)
		}
		if err := w.fs.RemoveAll(w.path("tree")); err != nil {
			t.Fatal(err)
		}
		w.restore(t, s, stamp)
	})
}

// A service that is started while the restore is being prepared is seen.
func TestRestoreNoticesAServiceThatStarts(t *testing.T) {
	memoryAndOs(t, func(t *testing.T, w *world) {
		w.small(t)
		stamp := w.create(t, w.store(t)).Stamp
		w.change(t)
		before := w.liveState(t)
		var c *sqlite3.Conn
		s := w.store(t, func(cfg *backup.Config) {
			cfg.Progress = func(p backup.Progress) {
				if p.Op == "restore" && c == nil {
					c = w.open(t, "data/atocore.db", "BEGIN; SELECT * FROM t")
				}
			}
		})
		r, err := s.Restore(t.Context(), stamp, confirmed)
		if r != nil || !errors.Is(err, backup.ErrServiceRunning) {
			t.Errorf("%+v, %v", r, err)
		}
		if diff := cmp.Diff(w.liveState(t), before); diff != "" || w.pending(t) {
			t.Errorf("(-after +before):\n%s", diff)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		w.restore(t, w.store(t), stamp)
	})
}

const childEnv = "ATOBACKUP_TEST_CHILD"

// A service in another process is seen too.
func TestRestoreRefusesWhileAnotherProcessHasTheDatabase(t *testing.T) {
	if path := os.Getenv(childEnv); path != "" { // the other process
		w := &world{fs: afero.NewOsFs(), root: filepath.Dir(path)}
		c := w.open(t, filepath.Base(path), os.Getenv(childEnv+"_SQL"))
		fmt.Println("child: ready")
		io.Copy(io.Discard, os.Stdin) // until the parent closes it
		c.Close()
		return
	}
	for _, tc := range []struct{ name, mode, sql string }{
		{"wal", "WAL", "SELECT * FROM memories"},
		{"rollback", "DELETE", "BEGIN; INSERT INTO memories (body) VALUES ('x')"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := osWorld(t)
			w.seed(t)
			w.exec(t, "data/atocore.db", "PRAGMA journal_mode="+tc.mode)
			s := w.store(t)
			stamp := w.create(t, s).Stamp
			stop := startChild(t, "TestRestoreRefusesWhileAnotherProcessHasTheDatabase", w.path("data/atocore.db"), tc.sql)
			if r, err := s.Restore(t.Context(), stamp, confirmed); !errors.Is(err, backup.ErrServiceRunning) {
				t.Errorf("%+v, %v", r, err)
			}
			stop()
			w.restore(t, s, stamp)
		})
	}
}

// startChild runs a test of this binary in another process, and returns when
// that is ready.
func startChild(t *testing.T, test, path, sql string) (stop func()) {
	t.Helper()
	cmd := rerun(t, test, childEnv+"="+path, childEnv+"_SQL="+sql)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		in.Close()
		if _, err := io.Copy(io.Discard, out); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("child: %v", err)
		}
	})
	t.Cleanup(stop)
	for lines := bufio.NewScanner(out); ; {
		if !lines.Scan() {
			t.Fatal("the child ended before it was ready")
		}
		if lines.Text() == "child: ready" {
			return stop
		}
	}
}

// A directory of somebody's beside a database is in no snapshot of it: it is not to go
// with the log that it is named like, unless nothing is to be saved.
func TestRestoreKeepsADirectoryThatIsNamedLikeASidecar(t *testing.T) {
	for _, suffix := range []string{"-wal", "-shm", "-journal"} {
		memoryAndOs(t, func(t *testing.T, w *world) {
			s := w.small(t)
			stamp := w.create(t, s).Stamp
			w.write(t, "data/atocore.db"+suffix+"/file", "precious")
			before := w.tree(t, "data")
			if _, err := s.Restore(t.Context(), stamp, confirmed); err == nil || !strings.Contains(err.Error(), "atocore.db"+suffix) {
				t.Errorf("%s: %v", suffix, err)
			}
			mustBeSame(t, w.tree(t, "data"), before)
			w.rename(t, "data/atocore.db"+suffix, "away") // as the error says
			w.restore(t, s, stamp)
			if got := w.read(t, "away/file"); got != "precious" {
				t.Errorf("%s: %q", suffix, got)
			}
		})
	}
}

// Whatever lies where a source was is put aside, and in the way of nothing.
func TestRestoreOverWhatIsNoFile(t *testing.T) {
	for _, name := range []string{"data/atocore.db", "config/project-registry.json"} {
		t.Run(filepath.Base(name), func(t *testing.T) {
			memoryAndOs(t, func(t *testing.T, w *world) {
				s := w.small(t)
				stamp := w.create(t, s).Stamp
				w.restore(t, s, stamp)
				want := w.liveState(t)
				w.drop(t, name)
				w.write(t, name+"/file", "in a directory where a file was")
				if _, err := s.Restore(t.Context(), stamp, &backup.RestoreOptions{ConfirmServiceStopped: true, SkipSafetySnapshot: true}); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(w.liveState(t), want); diff != "" {
					t.Errorf("(-got +want):\n%s", diff)
				}
			})
		})
	}
}

// A fullFs has little room left.
type fullFs struct {
	afero.Fs
	free int64 // bytes
}

func (f *fullFs) Free(string) (int64, error) { return f.free, nil }

func TestRestoreWithoutSpace(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.small(t)
	stamp := w.create(t, w.store(t)).Stamp
	w.change(t)
	before := w.tree(t, ".")
	for name, opts := range map[string]*backup.RestoreOptions{
		"for_the_safety_snapshot": confirmed,
		"for_the_staged_files":    {ConfirmServiceStopped: true, SkipSafetySnapshot: true},
	} {
		s := w.store(t, func(cfg *backup.Config) { cfg.Fs = &fullFs{w.fs, 10} })
		if r, err := s.Restore(t.Context(), stamp, opts); r != nil || !errors.Is(err, backup.ErrNoSpace) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
		if diff := cmp.Diff(w.tree(t, "."), before); diff != "" || w.pending(t) {
			t.Errorf("%s (-after +before):\n%s", name, diff)
		}
	}
}

// A capture with recorded problems is not restored, unless they are
// accepted; a safety snapshot always is.
func TestRestoreAccepts(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.seed(t)
	w.write(t, "chroma/broken.sqlite3", "SQLite format 3\x00"+strings.Repeat("garbage ", 128))
	s := w.store(t)
	snap, err := s.Create(t.Context(), &backup.CreateOptions{Include: []string{"chroma"}})
	if err != nil {
		t.Fatal(err)
	}
	restore := func(accept ...backup.Code) (*backup.Restoration, error) {
		return s.Restore(t.Context(), snap.Stamp, &backup.RestoreOptions{ConfirmServiceStopped: true, Accept: accept})
	}
	for _, accept := range [][]backup.Code{nil, {backup.CodeFileChanged, backup.CodeFileVanished}} {
		if _, err := restore(accept...); !errors.Is(err, backup.ErrInvalidSnapshot) || !errors.Is(err, backup.CodeRawCopy) {
			t.Errorf("accepting %v: %v", accept, err)
		}
	}
	r, err := restore(backup.CodeRawCopy)
	if err != nil || r.IntegrityOK {
		t.Fatalf("%+v, %v", r, err)
	}
	w.restore(t, s, r.SafetyStamp) // has the same problem
	// The bytes must be as they were copied all the same.
	w.edit(t, in(snap.Stamp, "chroma/broken.sqlite3"), flip(100))
	if _, err := restore(backup.CodeRawCopy, backup.CodeChecksumMismatch); !errors.Is(err, backup.CodeChecksumMismatch) {
		t.Errorf("damaged since: %v", err)
	}
}

// A tree of more names than a journal can hold is refused before anything is
// copied.
func TestRestoreRefusesATreeOfTooManyNames(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 22,000 files")
	}
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.mkdir(t, "tree")
	for i := range 22_000 {
		if err := afero.WriteFile(w.fs, w.path(fmt.Sprintf("tree/%05d%s", i, strings.Repeat("\x01", 245))), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := w.store(t, withSources(w.treeSource("tree")))
	snap, err := s.Create(t.Context(), &backup.CreateOptions{Level: backup.ValidateStructure})
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Restore(t.Context(), snap.Stamp, confirmed)
	if err == nil || !strings.Contains(err.Error(), "too many names") || errors.Is(err, backup.ErrRecoveryPending) {
		t.Errorf("%+v, %v", r, err)
	}
	if got := w.stamps(t, s); len(got) != 1 || w.pending(t) {
		t.Errorf("snapshots %v, pending %v", got, w.pending(t))
	}
}
