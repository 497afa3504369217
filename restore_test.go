package backup_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ncruces/go-sqlite3"
	"github.com/spf13/afero"

	"github.com/atocore/backup"
)

// liveState is all of the sources, and what restores may leave beside them. It
// leaves out the shared memory of databases, which is made anew at need.
func (w *world) liveState(t *testing.T) map[string]string {
	t.Helper()
	live := make(map[string]string)
	for _, name := range []string{"data", "config", "chroma"} {
		if !w.exists(t, name) {
			continue
		}
		for rel, is := range w.tree(t, name) {
			if !strings.HasSuffix(rel, "-shm") {
				live[filepath.Join(name, rel)] = is
			}
		}
	}
	return live
}

// mutate changes every source.
func (w *world) change(t *testing.T) {
	t.Helper()
	w.exec(t, "data/atocore.db", "CREATE TABLE mutation (x)")
	w.write(t, "config/project-registry.json", "mutated")
	w.write(t, "chroma/a", "mutated")
	w.drop(t, "chroma/b")
	w.write(t, "chroma/dir/c", "new")
}

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

// open opens a database and runs SQL on it; the caller closes it.
func (w *world) open(t *testing.T, name, sql string) *sqlite3.Conn {
	t.Helper()
	c, err := backup.OpenDB(w.fs, w.path(name))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Exec(sql); err != nil {
		c.Close()
		t.Fatalf("%s: %v", sql, err)
	}
	return c
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
			stop := startChild(t, "^TestRestoreRefusesWhileAnotherProcessHasTheDatabase$", w.path("data/atocore.db"), tc.sql)
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
func startChild(t *testing.T, run, path, sql string) (stop func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run", run)
	cmd.Env = append(os.Environ(), childEnv+"="+path, childEnv+"_SQL="+sql)
	cmd.Stderr = os.Stderr
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

func TestRestoreDryRun(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		s := w.store(t)
		snap := w.create(t, s)
		w.write(t, "config/project-registry.json", "mutated")
		before := w.stat(t, ".")
		want := &backup.Restoration{
			Stamp: snap.Stamp, Restored: []string{"db", "config", "chroma"}, IntegrityOK: true, Bytes: snap.Bytes, DryRun: true,
		}
		for name, s := range map[string]*backup.Store{
			"as_it_is":  s,
			"read_only": w.store(t, func(cfg *backup.Config) { cfg.Fs = afero.NewReadOnlyFs(w.fs) }),
		} {
			got, err := s.Restore(t.Context(), snap.Stamp, &backup.RestoreOptions{DryRun: true})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if diff := cmp.Diff(got, want); diff != "" {
				t.Errorf("%s (-got +want):\n%s", name, diff)
			}
		}
		got, err := s.Restore(t.Context(), snap.Stamp, &backup.RestoreOptions{DryRun: true, ConfirmServiceStopped: true, Sources: []string{"config"}})
		if err != nil || !cmp.Equal(got.Restored, []string{"config"}) {
			t.Errorf("%+v, %v", got, err)
		}
		if r, err := s.Restore(t.Context(), missingStamp, &backup.RestoreOptions{DryRun: true}); !errors.Is(err, backup.ErrInvalidSnapshot) {
			t.Errorf("of none: %+v, %v", r, err)
		}
		if diff := cmp.Diff(w.stat(t, "."), before); diff != "" {
			t.Errorf("(-after +before):\n%s", diff)
		}
	})
}

func TestRestoreDryRunOfNoStoreMakesNone(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		s := w.store(t)
		for _, opts := range []*backup.RestoreOptions{{DryRun: true}, confirmed} {
			if r, err := s.Restore(t.Context(), missingStamp, opts); !errors.Is(err, backup.ErrInvalidSnapshot) {
				t.Errorf("%+v, %v", r, err)
			}
		}
		if w.exists(t, "backups") {
			t.Error("it made a store")
		}
	})
}

func TestRestoreSelection(t *testing.T) {
	for _, tc := range []struct {
		name    string
		config  func(*backup.Config)
		include []string
		sources []string
		says    string // "": it is done
	}{
		{"source_unknown", nil, nil, []string{"db", "nothing"}, `"nothing"`},
		{"source_not_captured", nil, nil, []string{"chroma"}, `"chroma"`},
		{"source_of_another_kind", func(cfg *backup.Config) { cfg.Sources[1].Kind = backup.Tree }, nil, nil, `"config"`},
		{"source_not_configured", func(cfg *backup.Config) { cfg.Sources = cfg.Sources[:1] }, nil, nil, `"config"`},
		{"source_not_configured_but_named", func(cfg *backup.Config) { cfg.Sources = cfg.Sources[:1] }, nil, []string{"config"}, `"config"`},
		{"source_not_configured_and_not_named", func(cfg *backup.Config) { cfg.Sources = cfg.Sources[:1] }, nil, []string{"db"}, ""},
		{"source_named_twice", nil, nil, []string{"db", "db"}, ""},
		{"source_configured_since", func(cfg *backup.Config) {
			cfg.Sources = append(cfg.Sources, backup.Source{Name: "later", Kind: backup.File, Path: "/nowhere"})
		}, nil, nil, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			memoryAndOs(t, func(t *testing.T, w *world) {
				w.seed(t)
				stamp := w.createPlain(t, w.store(t)).Stamp
				w.write(t, "config/project-registry.json", "mutated")
				before := w.stat(t, ".")
				var changes []func(*backup.Config)
				if tc.config != nil {
					changes = append(changes, tc.config)
				}
				s := w.store(t, changes...)
				r, err := s.Restore(t.Context(), stamp, &backup.RestoreOptions{ConfirmServiceStopped: true, Sources: tc.sources})
				if tc.says == "" {
					if err != nil || r.Restored[0] != "db" {
						t.Errorf("%+v, %v", r, err)
					}
					return
				}
				if r != nil || err == nil || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("%+v, %v", r, err)
				}
				if diff := cmp.Diff(w.stat(t, "."), before); diff != "" {
					t.Errorf("(-after +before):\n%s", diff)
				}
			})
		})
	}
}

// createPlain takes a snapshot without the vector store.
func (w *world) createPlain(t *testing.T, s *backup.Store) *backup.Snapshot {
	t.Helper()
	snap, err := s.Create(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

// Where bytes go is what Config says, and not what it said once.
func TestRestoreGoesWhereConfigSays(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		stamp := w.create(t, w.store(t)).Stamp
		before := w.liveState(t)
		s := w.store(t, func(cfg *backup.Config) {
			cfg.Sources[0].Path = w.path("other/renamed.db")
			cfg.Sources[1].Path = w.path("other/renamed.json")
			cfg.Sources[2].Path = w.path("other/vectors")
		})
		w.restore(t, s, stamp)
		if got := w.query(t, "other/renamed.db", "SELECT body FROM memories"); got != "baseline" {
			t.Errorf("database: %q", got)
		}
		if got := w.read(t, "other/renamed.json"); got != `{"projects": ["p1"]}` {
			t.Errorf("registry: %q", got)
		}
		if diff := cmp.Diff(w.names(t, "other/vectors"), w.names(t, "chroma")); diff != "" {
			t.Errorf("vector store (-got +want):\n%s", diff)
		}
		if diff := cmp.Diff(w.liveState(t), before); diff != "" {
			t.Errorf("where they were (-after +before):\n%s", diff)
		}
	})
}

func TestRestoreOntoNothing(t *testing.T) {
	for _, tc := range []struct {
		name string
		gone []string
	}{
		{"db_missing", []string{"data/atocore.db"}},
		{"directory_of_db_missing", []string{"data"}},
		{"registry_missing", []string{"config/project-registry.json"}},
		{"tree_missing", []string{"chroma"}},
		{"all_missing", []string{"data", "config", "chroma"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eachFs(t, func(t *testing.T, w *world) {
				w.seed(t)
				s := w.store(t)
				stamp := w.create(t, s).Stamp
				w.restore(t, s, stamp) // SQLite counts up in the header of a copy
				want := w.liveState(t)
				for _, name := range tc.gone {
					w.drop(t, name)
				}
				r := w.restore(t, s, stamp)
				got := w.liveState(t)
				for _, name := range []string{"data", "config", "chroma"} {
					if slices.Contains(tc.gone, name) {
						if got[name] == "" {
							t.Errorf("%s is not there", name)
						}
						got[name] = want[name] // directories that are made are private
					}
				}
				if diff := cmp.Diff(got, want); diff != "" || !r.IntegrityOK {
					t.Errorf("integrity %v (-got +want):\n%s", r.IntegrityOK, diff)
				}
				if snap := w.listed(t, s, r.SafetyStamp); !snap.HasMetadata || snap.Origin != backup.OriginPreRestore {
					t.Errorf("safety snapshot: %+v", snap)
				}
			})
		})
	}
}

// The usual reason to restore is a live database that is past saving. Its
// files are kept all the same, byte for byte, and come back by the undo.
func TestRestoreOverDamagedDatabase(t *testing.T) {
	const db = "data/atocore.db"
	garbage := strings.Repeat("garbage ", 1024)
	for _, tc := range []struct {
		name   string
		damage func(t *testing.T, w *world)
	}{
		{"zero_bytes", func(t *testing.T, w *world) { w.write(t, db, "") }},
		{"zero_bytes_beside_log", func(t *testing.T, w *world) {
			w.leaveLog(t, db)
			w.write(t, db, "")
		}},
		{"garbage", func(t *testing.T, w *world) { w.write(t, db, garbage) }},
		{"garbage_beside_log", func(t *testing.T, w *world) {
			w.leaveLog(t, db)
			w.write(t, db, garbage)
		}},
		{"garbage_in_all_files", func(t *testing.T, w *world) {
			for _, suffix := range []string{"", "-wal", "-journal"} {
				w.write(t, db+suffix, garbage)
			}
		}},
		{"short", func(t *testing.T, w *world) { w.write(t, db, "SQLite format 3\x00") }},
		{"truncated", func(t *testing.T, w *world) {
			w.edit(t, db, func(data []byte) []byte { return data[:len(data)-4096] })
		}},
		{"header_damaged_beside_log", func(t *testing.T, w *world) {
			w.leaveLog(t, db)
			w.edit(t, db, flip(0))
		}},
		{"page_damaged", func(t *testing.T, w *world) { w.edit(t, db, spoil(2)) }},
		{"page_damaged_beside_log", func(t *testing.T, w *world) {
			w.exec(t, db, "CREATE TABLE other (x); INSERT INTO other VALUES ('not in the log')")
			w.leaveLog(t, db)
			w.edit(t, db, spoil(4))
		}},
		{"index_damaged_beside_log", func(t *testing.T, w *world) {
			w.exec(t, db, inconsistentIndex)
			w.leaveLog(t, db)
		}},
		{"missing_beside_log", func(t *testing.T, w *world) {
			w.leaveLog(t, db)
			w.drop(t, db)
		}},
		{"missing_beside_journal", func(t *testing.T, w *world) {
			w.write(t, db+"-journal", garbage)
			w.drop(t, db)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			memoryAndOs(t, func(t *testing.T, w *world) {
				w.seed(t)
				s := w.store(t)
				stamp := w.create(t, s).Stamp
				tc.damage(t, w)
				w.write(t, "config/project-registry.json", "mutated")
				before := w.liveState(t)

				r := w.restore(t, s, stamp)
				if got := w.query(t, db, "SELECT body FROM memories"); got != "baseline" || !r.IntegrityOK {
					t.Errorf("restored %q, integrity %v", got, r.IntegrityOK)
				}
				snap := w.listed(t, s, r.SafetyStamp)
				if diff := cmp.Diff(codes(snap.Problems), []backup.Code{backup.CodeRawCopy}); diff != "" || snap.Validated {
					t.Errorf("safety snapshot: validated %v (-got +want):\n%s", snap.Validated, diff)
				}
				undone := w.restore(t, s, r.SafetyStamp)
				if diff := cmp.Diff(w.liveState(t), before); diff != "" {
					t.Errorf("after undo (-got +want):\n%s", diff)
				}
				if undone.IntegrityOK {
					t.Error("a raw copy passes for sound")
				}
				w.restore(t, s, undone.SafetyStamp)
				if got := w.query(t, db, "SELECT body FROM memories"); got != "baseline" {
					t.Errorf("after undo of undo: %q", got)
				}
			})
		})
	}
}

// spoil overwrites a page of a database with what is none.
func spoil(page int) func([]byte) []byte {
	return func(data []byte) []byte {
		copy(data[(page-1)*4096:page*4096], strings.Repeat("spoilt  ", 512))
		return data
	}
}

// leaveLog leaves a log with a committed row beside a database, as a service
// that was killed does.
func (w *world) leaveLog(t *testing.T, name string) {
	t.Helper()
	c := w.open(t, name, "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; INSERT INTO memories (body) VALUES ('in the log')")
	db, wal := w.read(t, name), w.read(t, name+"-wal")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	w.write(t, name, db)
	w.write(t, name+"-wal", wal)
	w.fs.Remove(w.path(name + "-shm"))
}

// Rows that are in the log alone are part of what is saved.
func TestSafetySnapshotHasTheLog(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		s := w.store(t)
		stamp := w.create(t, s).Stamp
		w.leaveLog(t, "data/atocore.db")
		r := w.restore(t, s, stamp)
		if snap := w.listed(t, s, r.SafetyStamp); !snap.Validated {
			t.Errorf("safety snapshot: %+v", snap)
		}
		w.restore(t, s, r.SafetyStamp)
		if got := w.query(t, "data/atocore.db", "SELECT body FROM memories"); got != "baseline\nin the log" {
			t.Errorf("after undo: %q", got)
		}
	})
}

// A restore that is not carried out leaves the log where it was.
func TestRefusedRestoreLeavesTheLog(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.seed(t)
	stamp := w.create(t, w.store(t)).Stamp
	w.leaveLog(t, "data/atocore.db")
	before := w.liveState(t)
	s := w.faulty(t, func(op, p string) error {
		if op == "create" && strings.Contains(p, ".atobackup-") {
			return syscall.ENOSPC
		}
		return nil
	})
	if _, err := s.Restore(t.Context(), stamp, confirmed); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff(w.liveState(t), before); diff != "" {
		t.Errorf("(-after +before):\n%s", diff)
	}
}

func TestSafetySnapshot(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		s := w.store(t)
		stamp := w.create(t, s).Stamp
		w.exec(t, "data/atocore.db", "INSERT INTO memories (body) VALUES ('mutation')")
		w.write(t, "config/project-registry.json", "mutated")
		w.write(t, "chroma/more", "mutated")
		before := w.liveState(t)
		r := w.restore(t, s, stamp)
		snap := w.listed(t, s, r.SafetyStamp)
		if snap.Origin != backup.OriginPreRestore || !snap.Validated || snap.Stamp == stamp {
			t.Errorf("got %+v", snap)
		}
		if report := w.validate(t, s, r.SafetyStamp, nil); !report.Valid {
			t.Errorf("got %+v", report)
		}
		w.restore(t, s, r.SafetyStamp)
		if got := w.query(t, "data/atocore.db", "SELECT body FROM memories"); got != "baseline\nmutation" {
			t.Errorf("database after undo: %q", got)
		}
		after := w.liveState(t)
		for name := range after {
			if strings.HasSuffix(name, "atocore.db") { // its rows are the same; its pages need not be
				after[name] = before[name]
			}
		}
		if diff := cmp.Diff(after, before); diff != "" {
			t.Errorf("after undo (-got +want):\n%s", diff)
		}
	})
}

// The service that Check, Quiesce and DB reach is stopped.
func TestSafetySnapshotDoesWithoutTheHost(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.seed(t)
	stamp := w.create(t, w.store(t)).Stamp
	s := w.store(t, func(cfg *backup.Config) {
		cfg.Sources[0].Quiesce = func(context.Context) (func(), error) { return nil, errors.New("stopped") }
	})
	w.restore(t, s, stamp)
}

func TestRestoreOfTree(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		w.write(t, "chroma/ro/file", "read-only")
		w.write(t, "chroma/exec", "#!/bin/sh")
		w.write(t, "chroma/odd names/\"quoted\" and ünïcode\n", "odd")
		past := time.Date(2001, 2, 3, 4, 5, 6, 789000000, time.UTC)
		for name, perm := range map[string]fs.FileMode{"chroma/ro/file": 0o400, "chroma/exec": 0o755, "chroma/ro": 0o500, "chroma/empty": 0o711} {
			if err := errors.Join(w.fs.Chmod(w.path(name), perm), w.fs.Chtimes(w.path(name), past, past)); err != nil {
				t.Fatal(err)
			}
		}
		want := w.stat(t, "chroma")
		s := w.store(t)
		stamp := w.create(t, s).Stamp

		w.chmod(t, "chroma/ro", 0o700, 0o600)
		for _, gone := range []string{"chroma/ro", "chroma/empty", "chroma/exec", "chroma/collection-a/data.bin"} {
			w.drop(t, gone)
		}
		w.write(t, "chroma/ro", "a file where a directory was")
		w.write(t, "chroma/exec/deep/file", "a directory where a file was")
		w.write(t, "chroma/extra/file", "extra")
		w.write(t, "chroma/.hidden", "extra")
		w.write(t, "chroma/chroma.sqlite3-wal", "extra")
		w.restore(t, s, stamp)

		got := w.stat(t, "chroma")
		delete(got, ".") // its entries have been exchanged
		delete(want, ".")
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("(-got +want):\n%s", diff)
		}
	})
}

// Only what is named just like a restore's own directories is taken for one.
func TestTreeMayHaveNamesLikeARestores(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "tree/.atobackup-notes", "n")
		w.write(t, "tree/.atobackup-x-tree/f", "f")
		w.write(t, "tree/.atobackup-0123456789abcdef/f", "f")
		w.write(t, "tree/sub/.atobackup-mine/f", "f")
		snap := w.roundTrip(t, "tree")
		w.restore(t, w.store(t, withSources(w.treeSource("tree"))), snap.Stamp)
		if diff := cmp.Diff([]string{".", ".atobackup-0123456789abcdef", ".atobackup-0123456789abcdef/f", ".atobackup-notes",
			".atobackup-x-tree", ".atobackup-x-tree/f", "sub", "sub/.atobackup-mine", "sub/.atobackup-mine/f"}, w.names(t, "tree")); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// What the restore of another store has left may be all that there is of
// something.
func TestTreeWithWhatARestoreHasLeftIsNotReplaced(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		const left = "tree/sub/.atobackup-0123456789abcdef-other"
		w.write(t, "tree/a", "a")
		w.write(t, left+"/old/f", "f")
		s := w.store(t, withSources(w.treeSource("tree")))
		snap, err := s.Create(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"file_changed " + left}, problemsOf(snap)); diff != "" {
			t.Errorf("noted (-want +got):\n%s", diff)
		}
		if w.exists(t, "backups/snapshots/"+snap.Stamp+"/"+left) {
			t.Error("it was copied")
		}
		r, err := s.Restore(t.Context(), snap.Stamp, &backup.RestoreOptions{
			ConfirmServiceStopped: true, Accept: []backup.Code{backup.CodeFileChanged},
		})
		if r != nil || err == nil || !strings.Contains(err.Error(), w.path(left)) || w.pending(t) {
			t.Errorf("got %+v, %v, want a refusal", r, err)
		}
		if got := w.read(t, left+"/old/f"); got != "f" {
			t.Errorf("it has %q", got)
		}
	})
}

func TestRestoreOfEmptyTree(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		w.drop(t, "chroma")
		w.mkdir(t, "chroma")
		s := w.store(t)
		stamp := w.create(t, s).Stamp
		w.write(t, "chroma/extra", "extra")
		w.restore(t, s, stamp)
		if diff := cmp.Diff(w.names(t, "chroma"), []string{"."}); diff != "" {
			t.Errorf("(-got +want):\n%s", diff)
		}
		w.drop(t, "chroma")
		w.restore(t, s, stamp)
		if diff := cmp.Diff(w.names(t, "chroma"), []string{"."}); diff != "" {
			t.Errorf("onto nothing (-got +want):\n%s", diff)
		}
	})
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

func (w *world) pending(t *testing.T) bool { return w.exists(t, "backups/restore-journal.json") }

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

// A progressCheck is told of progress. It must go on, source by source, to
// the bytes of each.
type progressCheck map[string]map[string]backup.Progress // by operation and source

func (c progressCheck) store(t *testing.T, w *world) *backup.Store {
	return w.store(t, func(cfg *backup.Config) {
		cfg.Progress = func(p backup.Progress) {
			if c[p.Op] == nil {
				c[p.Op] = make(map[string]backup.Progress)
			}
			last, ok := c[p.Op][p.Source]
			if p.Done < last.Done || p.Done > p.Total || ok && p.Total != last.Total {
				t.Errorf("%+v after %+v", p, last)
			}
			c[p.Op][p.Source] = p
		}
	})
}

func (c progressCheck) done(t *testing.T, op string, snap *backup.Snapshot) {
	t.Helper()
	want := make(map[string]backup.Progress)
	for _, src := range snap.Sources {
		want[src.Name] = backup.Progress{Op: op, Source: src.Name, Done: src.Bytes, Total: src.Bytes}
	}
	if diff := cmp.Diff(c[op], want); diff != "" {
		t.Errorf("%s, at last (-got +want):\n%s", op, diff)
	}
}

func TestRestoreReportsProgress(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	w.seed(t)
	snap := w.create(t, w.store(t))
	check := make(progressCheck)
	w.restore(t, check.store(t, w), snap.Stamp)
	check.done(t, "validate", snap)
	check.done(t, "restore", snap)
}

// Nothing of a snapshot is ever taken while another is being put back: what
// is captured together belongs together.
func TestRestoreCreateAndCleanupSerialize(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		var mu sync.Mutex
		clock := func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return w.clock()
		}
		s := w.store(t, func(cfg *backup.Config) { cfg.Now = clock })
		var stamps []string
		for _, generation := range []string{"a", "b"} {
			w.exec(t, "data/atocore.db", "CREATE TABLE IF NOT EXISTS g (x); DELETE FROM g; INSERT INTO g VALUES ('"+generation+"')")
			w.write(t, "config/project-registry.json", generation)
			w.write(t, "chroma/generation", generation)
			stamps = append(stamps, w.create(t, s).Stamp)
		}
		var all sync.WaitGroup
		run := func(times int, operation func(i int) error) {
			all.Go(func() {
				for i := range times {
					if err := operation(i); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		var created []string
		run(4, func(i int) error {
			_, err := s.Restore(t.Context(), stamps[i%2], &backup.RestoreOptions{ConfirmServiceStopped: true, SkipSafetySnapshot: i%2 == 0})
			return err
		})
		run(6, func(int) error {
			snap, err := s.Create(t.Context(), &backup.CreateOptions{Include: []string{"chroma"}, Pin: true})
			if err == nil {
				created = append(created, snap.Stamp)
			}
			return err
		})
		run(6, func(int) error {
			_, err := s.Cleanup(t.Context(), &backup.CleanupOptions{Retention: &backup.Retention{Last: 100}, Confirm: true})
			return err
		})
		run(6, func(i int) error {
			r, err := s.Validate(t.Context(), stamps[i%2], quick)
			return errors.Join(err, r.Err())
		})
		all.Wait()
		for _, stamp := range created {
			generation := w.read(t, in(stamp, "chroma/generation"))
			if got := w.read(t, in(stamp, "config/project-registry.json")); got != generation {
				t.Errorf("%s: registry %q, vector store %q", stamp, got, generation)
			}
			w.copy(t, in(stamp, "db"), "copy")
			if got := w.query(t, "copy/atocore.db", "SELECT x FROM g"); got != generation {
				t.Errorf("%s: database %q, vector store %q", stamp, got, generation)
			}
			w.drop(t, "copy")
		}
	})
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

const journalFile = "backups/restore-journal.json"

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

// A faultFs is a file system of which fail may have any operation fail:
// "open", "create", "mkdir", "remove", "rename", "chmod", "chtimes", "stat",
// "read", "readdir", "write", "truncate", "sync", "close".
type faultFs struct {
	afero.Fs
	mu   sync.Mutex
	fail func(op, path string) error // nil: go on
}

func (f *faultFs) do(op, path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail(op, path); err != nil {
		return &os.PathError{Op: op, Path: path, Err: err}
	}
	return nil
}

func (f *faultFs) Create(name string) (afero.File, error) {
	return f.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
}

func (f *faultFs) Open(name string) (afero.File, error) { return f.OpenFile(name, os.O_RDONLY, 0) }

func (f *faultFs) OpenFile(name string, flag int, perm os.FileMode) (afero.File, error) {
	op := "open"
	if flag&os.O_CREATE != 0 {
		op = "create"
	}
	if err := f.do(op, name); err != nil {
		return nil, err
	}
	file, err := f.Fs.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &faultFile{file, f, name}, nil
}

func (f *faultFs) Mkdir(name string, perm os.FileMode) error {
	if err := f.do("mkdir", name); err != nil {
		return err
	}
	return f.Fs.Mkdir(name, perm)
}

func (f *faultFs) Remove(name string) error {
	if err := f.do("remove", name); err != nil {
		return err
	}
	return f.Fs.Remove(name)
}

func (f *faultFs) Rename(from, to string) error {
	if err := f.do("rename", from); err != nil {
		return err
	}
	return f.Fs.Rename(from, to)
}

func (f *faultFs) Chmod(name string, perm os.FileMode) error {
	if err := f.do("chmod", name); err != nil {
		return err
	}
	return f.Fs.Chmod(name, perm)
}

func (f *faultFs) Chtimes(name string, atime, mtime time.Time) error {
	if err := f.do("chtimes", name); err != nil {
		return err
	}
	return f.Fs.Chtimes(name, atime, mtime)
}

func (f *faultFs) Stat(name string) (os.FileInfo, error) {
	if err := f.do("stat", name); err != nil {
		return nil, err
	}
	return f.Fs.Stat(name)
}

type faultFile struct {
	afero.File
	fs   *faultFs
	name string
}

func (f *faultFile) Read(p []byte) (int, error) {
	if err := f.fs.do("read", f.name); err != nil {
		return 0, err
	}
	return f.File.Read(p)
}

func (f *faultFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.fs.do("read", f.name); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *faultFile) Readdirnames(n int) ([]string, error) {
	if err := f.fs.do("readdir", f.name); err != nil {
		return nil, err
	}
	return f.File.Readdirnames(n)
}

func (f *faultFile) Write(p []byte) (int, error) {
	if err := f.fs.do("write", f.name); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fs.do("write", f.name); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *faultFile) Truncate(size int64) error {
	if err := f.fs.do("truncate", f.name); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *faultFile) Sync() error {
	if err := f.fs.do("sync", f.name); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *faultFile) Close() error {
	err := f.fs.do("close", f.name)
	if closeErr := f.File.Close(); err == nil {
		err = closeErr
	}
	return err
}
