package backup_test

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/afero"

	"github.com/atocore/backup"
)

// What begins like a database and is none is copied as it lies, with its
// sidecars, and noted.
func TestGarbageWithADatabasesHeaderIsCopiedRaw(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		garbage := "SQLite format 3\x00" + strings.Repeat("garbage", 1000)
		w.write(t, "tree/app.db", garbage)
		w.write(t, "tree/app.db-wal", "more of it")
		w.write(t, "tree/short.db", garbage[:511])
		w.write(t, "tree/z", "z")
		s := w.store(t, withSources(w.treeSource("tree")))
		snap, err := s.Create(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"raw_copy tree/app.db"}, problemsOf(snap)); diff != "" {
			t.Errorf("problems (-want +got):\n%s", diff)
		}
		want := map[string]string{
			"tree": "dir", "tree/app.db": "raw", "tree/app.db-wal": "file", "tree/short.db": "file", "tree/z": "file",
		}
		got := w.types(t, snap.Stamp)
		delete(got, "tree/app.db-shm") // made by looking at it
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("entries (-want +got):\n%s", diff)
		}
		if !w.exists(t, "tree/app.db-wal") {
			t.Error("Create has removed the service's own app.db-wal")
		}
		if got := w.read(t, "backups/snapshots/"+snap.Stamp+"/tree/app.db"); got != garbage {
			t.Errorf("copy of %d bytes, beginning with %.20q", len(got), got)
		}
		report, err := s.Validate(t.Context(), snap.Stamp, nil)
		if err != nil || !errors.Is(report.Err(), backup.CodeRawCopy) || len(report.Problems) != 1 {
			t.Errorf("validated: %v, %v, want raw_copy alone", report, err)
		}
	})
}

// A database with a flipped page is copied, and found out.
func TestDamagedDatabaseIsNotValidated(t *testing.T) {
	for name, source := range map[string]func(*world) backup.Source{
		"database": func(w *world) backup.Source { return w.database("tree/app.db") },
		"tree":     func(w *world) backup.Source { return w.treeSource("tree") },
	} {
		t.Run(name, func(t *testing.T) {
			eachFs(t, func(t *testing.T, w *world) {
				w.exec(t, "tree/app.db", `CREATE TABLE t (x); CREATE INDEX i ON t (x);
					WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n+1 FROM n WHERE n < 1000) INSERT INTO t SELECT hex(n) FROM n`)
				data := []byte(w.read(t, "tree/app.db"))
				copy(data[4096*2:], make([]byte, 4096))
				w.write(t, "tree/app.db", string(data))
				snap, err := w.store(t, withSources(source(w))).Create(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				if snap.Validated || len(snap.Problems) == 0 || snap.Problems[0].Code != backup.CodeDatabaseCorrupt {
					t.Errorf("validated: %v, problems: %v", snap.Validated, snap.Problems)
				}
			})
		})
	}
}

// A database in a tree that fails SQLite's checks is saved as it lies, with
// the rows in its log: its copy would pass for no snapshot to go back to.
func TestSafetySnapshotHasADamagedDatabaseInATree(t *testing.T) {
	for _, mode := range []string{"DELETE", "WAL"} {
		t.Run(mode, func(t *testing.T) {
			memoryAndOs(t, func(t *testing.T, w *world) {
				w.seed(t)
				const name = "chroma/chroma.sqlite3"
				w.exec(t, name, `CREATE TABLE memories (id INTEGER PRIMARY KEY, body TEXT); CREATE INDEX b ON memories (body);
					WITH RECURSIVE i (i) AS (SELECT 1 UNION ALL SELECT i+1 FROM i WHERE i < 2000)
					INSERT INTO memories SELECT i, 'row number ' || i FROM i; PRAGMA journal_mode=`+mode)
				s := w.store(t)
				stamp := w.create(t, s).Stamp
				if mode == "WAL" {
					w.leaveLog(t, name)
				}
				w.edit(t, name, func(data []byte) []byte {
					for i := len(data) - 3000; i < len(data)-2000; i++ {
						data[i] = 0xff
					}
					return data
				})
				before := w.tree(t, "chroma")
				r := w.restore(t, s, stamp)
				if diff := cmp.Diff([]string{"raw_copy chroma/chroma.sqlite3"}, problemsOf(w.listed(t, s, r.SafetyStamp))); diff != "" {
					t.Errorf("noted (-want +got):\n%s", diff)
				}
				w.restore(t, s, r.SafetyStamp)
				if diff := cmp.Diff(before, w.tree(t, "chroma")); diff != "" {
					t.Errorf("after undo (-want +got):\n%.1000s", diff)
				}
			})
		})
	}
}

// What is left of a database that is none any more is all that there is: it
// is kept, and does not pass for a backup.
func TestDatabaseThatIsNoneIsCopiedRaw(t *testing.T) {
	for name, content := range map[string]string{
		"empty": "", "text": strings.Repeat("no database", 1000), "header": "SQLite format 3\x00" + strings.Repeat("garbage", 1000),
	} {
		t.Run(name, func(t *testing.T) {
			eachFs(t, func(t *testing.T, w *world) {
				w.write(t, "data/app.db", content)
				w.write(t, "data/app.db-wal", "what may be in it")
				snap, err := w.store(t, withSources(w.database("data/app.db"))).Create(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				if snap.Validated || len(snap.Problems) == 0 || snap.Problems[0].Code != backup.CodeRawCopy {
					t.Errorf("validated: %v, problems: %v, want raw_copy", snap.Validated, snap.Problems)
				}
				for suffix, want := range map[string]string{"": content, "-wal": "what may be in it"} {
					if got := w.read(t, "backups/snapshots/"+snap.Stamp+"/db/app.db"+suffix); got != want {
						t.Errorf("%q: copy of %d bytes, beginning with %.20q", suffix, len(got), got)
					}
					if got := w.read(t, "data/app.db"+suffix); got != want {
						t.Errorf("%q: the service's own has %d bytes now, beginning with %.20q", suffix, len(got), got)
					}
				}
			})
		})
	}
}

// unreadable returns a store that cannot do op on a live file, until a restore
// puts others in the place of what is live.
func (w *world) unreadable(t *testing.T, op, live string, err error) *backup.Store {
	t.Helper()
	replaced := false
	return w.faulty(t, func(o, p string) error {
		replaced = replaced || o == "rename" && !strings.HasPrefix(p, w.path("backups"))
		if !replaced && o == op && p == w.path(live) {
			return err
		}
		return nil
	})
}

// Damage never stands in the way of a restore: what cannot be read is left
// out of the safety snapshot, and the rest is in it.
func TestWhatCannotBeReadIsLeftOutOfASafetySnapshot(t *testing.T) {
	for _, tc := range []struct {
		op, live string
		err      error
		noted    string
		captured bool // the source
	}{
		{"read", "data/atocore.db", syscall.EIO, "db/atocore.db", false},
		{"open", "data/atocore.db", syscall.EIO, "db/atocore.db", false},
		{"read", "config/project-registry.json", syscall.EIO, "config/project-registry.json", false},
		{"open", "config/project-registry.json", syscall.EIO, "config/project-registry.json", false},
		{"read", "chroma/a", syscall.EIO, "chroma/a", true},
		{"open", "chroma/a", syscall.EIO, "chroma/a", true},
		{"read", "chroma/c.db", syscall.EIO, "chroma/c.db", true},
		{"open", "chroma/c.db", syscall.EIO, "chroma/c.db", true},
		{"open", "chroma/dir", syscall.EIO, "chroma/dir", true},
	} {
		t.Run(tc.op+"_"+path.Base(tc.live)+"_"+tc.err.Error(), func(t *testing.T) {
			memoryAndOs(t, func(t *testing.T, w *world) {
				w.small(t)
				w.exec(t, "chroma/c.db", "CREATE TABLE t (x)")
				w.write(t, "chroma/dir/d", "d")
				stamp := w.create(t, w.store(t)).Stamp
				w.write(t, "chroma/b", "written since")
				s := w.unreadable(t, tc.op, tc.live, tc.err)
				if snap, err := s.Create(t.Context(), &backup.CreateOptions{Include: []string{"chroma"}}); !errors.Is(err, tc.err) {
					t.Errorf("an ordinary snapshot: %+v, %v", snap, err)
				}
				restored := w.restore(t, s, stamp)
				safety := restored.SafetyStamp
				snap := w.listed(t, w.store(t), safety)
				if diff := cmp.Diff(snap.Problems, restored.SafetyProblems); diff != "" {
					t.Errorf("told (-listed +told):\n%s", diff)
				}
				if diff := cmp.Diff([]string{"source_unreadable " + tc.noted}, problemsOf(snap)); diff != "" {
					t.Errorf("noted (-want +got):\n%s", diff)
				}
				source, _, _ := strings.Cut(tc.noted, "/")
				for _, state := range snap.Sources {
					if want := state.Name != source || tc.captured; state.Captured != want {
						t.Errorf("%s: captured %v", state.Name, state.Captured)
					}
				}
				w.restore(t, w.store(t), safety)
				if w.read(t, "chroma/b") != "written since" {
					t.Error("the undo has not brought back the rest")
				}
			})
		})
	}
}

// What another user may read is not damaged, and is not to be lost.
func TestWhatMayNotBeReadIsNotReplaced(t *testing.T) {
	for _, tc := range []struct {
		live string
		err  error
	}{
		{"data/atocore.db", syscall.EACCES},
		{"config/project-registry.json", syscall.EACCES},
		{"config/project-registry.json", syscall.EPERM},
		{"chroma/a", syscall.EACCES},
		{"chroma/c.db", syscall.EACCES},
		{"chroma/dir", syscall.EACCES},
	} {
		t.Run(path.Base(tc.live)+"_"+tc.err.Error(), func(t *testing.T) {
			memoryAndOs(t, func(t *testing.T, w *world) {
				w.small(t)
				w.exec(t, "chroma/c.db", "CREATE TABLE t (x)")
				w.write(t, "chroma/dir/d", "d")
				stamp := w.create(t, w.store(t)).Stamp
				w.mustNotRestoreUnread(t, w.unreadable(t, "open", tc.live, tc.err), stamp, tc.live)
			})
		})
	}
}

// mustNotRestoreUnread fails unless a restore is refused over what may not be
// read, and changes nothing.
func (w *world) mustNotRestoreUnread(t *testing.T, s *backup.Store, stamp, live string) {
	t.Helper()
	r, err := s.Restore(t.Context(), stamp, confirmed)
	if r != nil || !errors.Is(err, fs.ErrPermission) {
		t.Fatalf("got %+v, %v, want fs.ErrPermission", r, err)
	}
	for _, want := range []string{w.path(live), "a user who may read", "SkipSafetySnapshot"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %q is not in it", err, want)
		}
	}
	listed, err := w.store(t).List(t.Context())
	if err != nil || len(listed) != 1 || w.exists(t, "backups/restore-journal.json") {
		t.Errorf("something is left: %+v, %v", listed, err)
	}
}

// What a safety snapshot takes for gone, and is there, is not replaced.
func TestWhatOnlySeemsToBeGoneIsNotReplaced(t *testing.T) {
	for _, tc := range []struct {
		live string
		err  error
	}{
		{"chroma/a", syscall.ENOENT},
		{"chroma/a", syscall.ENOTDIR},
		{"chroma/dir/d", syscall.ENOENT},
		{"config/project-registry.json", syscall.ENOENT},
	} {
		t.Run(path.Base(tc.live)+"_"+tc.err.Error(), func(t *testing.T) {
			memoryAndOs(t, func(t *testing.T, w *world) {
				w.small(t)
				w.write(t, "chroma/dir/d", "d")
				stamp := w.create(t, w.store(t)).Stamp
				before := w.liveState(t)
				r, err := w.unreadable(t, "open", tc.live, tc.err).Restore(t.Context(), stamp, confirmed)
				if r != nil || !errors.Is(err, backup.ErrServiceRunning) || !strings.Contains(err.Error(), w.path(tc.live)) {
					t.Errorf("got %+v, %v, want ErrServiceRunning", r, err)
				}
				if diff := cmp.Diff(w.liveState(t), before); diff != "" {
					t.Errorf("(-got +want):\n%s", diff)
				}
			})
		})
	}
}

// What is for another try to read, or cannot be written, is no damage.
func TestSafetySnapshotFailsForWantOfDescriptorsAndRoom(t *testing.T) {
	for _, tc := range []struct {
		op, path string
		err      error
	}{
		{"open", "config/project-registry.json", syscall.EMFILE},
		{"write", "config/project-registry.json", syscall.EIO},
		{"create", "config/project-registry.json", syscall.EACCES},
		{"sync", "db/atocore.db", syscall.EIO},
	} {
		t.Run(tc.op, func(t *testing.T) {
			w := newWorld(t, afero.NewMemMapFs(), "/srv")
			w.small(t)
			stamp := w.create(t, w.store(t)).Stamp
			before := w.liveState(t)
			s := w.faulty(t, func(op, p string) error {
				if op == tc.op && strings.HasSuffix(p, tc.path) && !strings.Contains(p, stamp) {
					return tc.err
				}
				return nil
			})
			if r, err := s.Restore(t.Context(), stamp, confirmed); !errors.Is(err, tc.err) || !strings.Contains(err.Error(), "safety snapshot") {
				t.Errorf("got %+v, %v", r, err)
			}
			if diff := cmp.Diff(before, w.liveState(t)); diff != "" {
				t.Errorf("(-before +after):\n%s", diff)
			}
		})
	}
}

// Who overwrites a database in its place, past SQLite's locks, tears the copy:
// that is said.
func TestDatabaseThatIsOverwrittenInItsPlaceIsNoted(t *testing.T) {
	for _, mode := range []string{"wal", "delete"} {
		for _, kind := range []backup.Kind{backup.Database, backup.Tree} {
			t.Run(mode+"_"+string(kind), func(t *testing.T) {
				onOneCore(t) // so that the hook is called in the middle of the copy
				w := osWorld(t)
				w.bookkeeping(t, "data/app.db", mode, 3)
				w.bookkeeping(t, "other.db", mode, 3)
				w.exec(t, "other.db", "UPDATE bulk SET b = randomblob(1048576)")
				src := w.database("data/app.db")
				if kind == backup.Tree {
					src = w.treeSource("data")
				}
				overwrite := sync.OnceFunc(func() {
					data := []byte(w.read(t, "other.db"))
					f, err := os.OpenFile(w.path("data/app.db"), os.O_WRONLY, 0)
					if err != nil {
						t.Error(err)
						return
					}
					_, err = f.Write(data)
					if err := errors.Join(err, f.Close()); err != nil {
						t.Error(err)
					}
				})
				s := w.store(t, withSources(src), onProgress(t, src.Name, overwrite))
				snap, err := s.Create(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Contains(codes(snap.Problems), backup.CodeFileChanged) {
					t.Errorf("problems: %v", snap.Problems)
				}
			})
		}
	}
}
