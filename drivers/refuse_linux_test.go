package drivers

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ncruces/go-sqlite3"
	"github.com/spf13/afero"
	"golang.org/x/sys/unix"

	"github.com/atocore/backup"
)

// What is refused without Source.DB, where it can be seen: on Linux.

// TestRefused: however a live database of another driver is reached, it is
// refused before it is opened, and the host's locks stay.
func TestRefused(t *testing.T) {
	ways := map[string]func(t *testing.T, path string) backup.Source{
		"database": func(t *testing.T, path string) backup.Source {
			return backup.Source{Name: "db", Kind: backup.Database, Path: path}
		},
		"file": func(t *testing.T, path string) backup.Source {
			return backup.Source{Name: "db", Kind: backup.File, Path: path}
		},
		"tree": func(t *testing.T, path string) backup.Source {
			return backup.Source{Name: "data", Kind: backup.Tree, Path: filepath.Dir(path)}
		},
		"symbolic_link": func(t *testing.T, path string) backup.Source {
			return backup.Source{Name: "db", Kind: backup.Database, Path: link(t, os.Symlink, path)}
		},
		"hard_link": func(t *testing.T, path string) backup.Source {
			return backup.Source{Name: "db", Kind: backup.Database, Path: link(t, os.Link, path)}
		},
		"hard_link_in_tree": func(t *testing.T, path string) backup.Source {
			return backup.Source{Name: "data", Kind: backup.Tree, Path: filepath.Dir(link(t, os.Link, path))}
		},
	}
	for name, source := range ways {
		t.Run(name, func(t *testing.T) {
			eachState(t, func(t *testing.T, h *host, st state, _ string) {
				d := newDrill(t, source(t, h.path))
				defer st.begin(t, h)()
				before := heldLocks(t, h.path)
				w := newWatch(t, h.path)
				d.refused(t)
				if events := w.seen(); len(events) > 0 {
					t.Errorf("during Create: %q, want the host's files left alone", events)
				}
				checkLocks(t, "after Create", h, before)
			})
		})
	}
}

func link(t *testing.T, link func(old, new string) error, path string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "link.db")
	if err := link(path, name); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestRefusedThroughWrapper: a file system that wraps the operating system's
// opens the same files.
func TestRefusedThroughWrapper(t *testing.T) {
	type wrapper struct{ afero.Fs }
	eachHost(t, func(t *testing.T, driver driver, mode string) {
		h := startHost(t, driver, mode, filepath.Join(t.TempDir(), "app.db"))
		before := heldLocks(t, h.path)
		s, err := backup.New(backup.Config{
			Dir: filepath.Join(t.TempDir(), "backups"), Fs: wrapper{afero.NewOsFs()},
			Sources: []backup.Source{{Name: "db", Kind: backup.File, Path: h.path}},
		})
		if err != nil {
			t.Fatal(err)
		}
		(&drill{store: s, dir: filepath.Join(t.TempDir(), "none")}).refused(t)
		checkLocks(t, "after Create", h, before)
	})
}

// TestRefusedTreeCure: the cure for a tree is a Database with a DB within
// it, which the tree then leaves out, sidecars and all.
func TestRefusedTreeCure(t *testing.T) {
	eachState(t, func(t *testing.T, h *host, st state, mode string) {
		data := filepath.Dir(h.path)
		if err := os.WriteFile(filepath.Join(data, "notes.txt"), []byte("kept"), 0o600); err != nil {
			t.Fatal(err)
		}
		tree := backup.Source{Name: "data", Kind: backup.Tree, Path: data}
		newDrill(t, tree).refused(t)

		d := newDrill(t, tree, h.source())
		defer st.begin(t, h)()
		before := heldLocks(t, h.path)
		w := newWatch(t, h.path)
		snap := d.create(t)
		if events := w.seen(); len(events) > 0 {
			t.Errorf("during Create: %q, want the host's files left alone", events)
		}
		checkLocks(t, "after Create", h, before)
		checkCopy(t, snapshotFile(d.dir, snap, "db/app.db"), mode, 0, 0)
		got, err := filepath.Glob(snapshotFile(d.dir, snap, "data/*"))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(got, []string{snapshotFile(d.dir, snap, "data/notes.txt")}); diff != "" {
			t.Errorf("the tree's copy (-got +want):\n%s", diff)
		}
	})
}

// TestNotRefused: a database that no other driver has is captured, though
// such a driver is at work in the process. That the library's own driver has
// it can be seen by the locks that this one takes; an idle connection in
// rollback mode takes none, and cannot be told from another driver's.
func TestNotRefused(t *testing.T) {
	ways := map[string]struct {
		open    func(t *testing.T, path string)
		refused map[string]bool
	}{
		"closed": {open: func(*testing.T, string) {}},
		"library's_driver_idle": {func(t *testing.T, path string) {
			execNcruces(t, openNcruces(t, path), "SELECT * FROM t")
		}, map[string]bool{rollback: true}},
		"library's_driver_reading": {open: func(t *testing.T, path string) {
			execNcruces(t, openNcruces(t, path), "BEGIN; SELECT * FROM t")
		}},
		"library's_driver_writing": {open: func(t *testing.T, path string) {
			execNcruces(t, openNcruces(t, path), "BEGIN IMMEDIATE; INSERT INTO t VALUES (1)")
		}},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			eachHost(t, func(t *testing.T, driver driver, mode string) {
				h := startHost(t, driver, mode, filepath.Join(t.TempDir(), "app.db"))
				before := heldLocks(t, h.path)
				path := filepath.Join(t.TempDir(), "other.db")
				c := openNcruces(t, path)
				execNcruces(t, c, "PRAGMA journal_mode="+mode+"; CREATE TABLE t (x)")
				if err := c.Close(); err != nil {
					t.Fatal(err)
				}
				way.open(t, path)
				d := newDrill(t, h.source(), backup.Source{Name: "other", Kind: backup.Database, Path: path})
				if way.refused[mode] {
					d.refused(t)
				} else {
					d.create(t)
				}
				checkLocks(t, "after Create", h, before)
			})
		})
	}
}

func execNcruces(t *testing.T, c *sqlite3.Conn, sql string) {
	t.Helper()
	if err := c.Exec(sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func openNcruces(t *testing.T, path string) *sqlite3.Conn {
	t.Helper()
	c, err := sqlite3.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestNotRefusedOpenFiles: a file that the host has open and that is no
// database, such as its log, is no danger to any lock.
func TestNotRefusedOpenFiles(t *testing.T) {
	flags := map[string]int{
		"log":       os.O_WRONLY | os.O_APPEND,
		"read_only": os.O_RDONLY,
		"both":      os.O_RDWR,
	}
	for name, flag := range flags {
		t.Run(name, func(t *testing.T) {
			data := t.TempDir()
			f, err := os.OpenFile(filepath.Join(data, "app.log"), flag|os.O_CREATE, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if flag != os.O_RDONLY {
				if _, err := f.WriteString("a line\n"); err != nil {
					t.Fatal(err)
				}
			}
			newDrill(t, backup.Source{Name: "data", Kind: backup.Tree, Path: data}).create(t)
		})
	}
}

// TestNotRefusedSideBySide: what the library itself has open, in another
// Create, is not taken for another driver's.
func TestNotRefusedSideBySide(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.db")
	c := openNcruces(t, path)
	execNcruces(t, c, "CREATE TABLE t (x)")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	src := backup.Source{Name: "db", Kind: backup.Database, Path: path}
	inner := newDrill(t, src)
	var called bool
	outer, err := backup.New(backup.Config{
		Dir: filepath.Join(t.TempDir(), "backups"), Sources: []backup.Source{src},
		Progress: func(backup.Progress) {
			if !called {
				called = true
				inner.create(t)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := outer.Create(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if !called {
		t.Error("no progress was told of")
	}
}

// TestRefusedPosixLock: a lock of this process on any file is enough.
func TestRefusedPosixLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &lock); err != nil {
		t.Fatal(err)
	}
	before := heldLocks(t, path)
	if !slices.Contains(before, "state.json WRITE 0 EOF") {
		t.Fatalf("locks: %q", before)
	}
	newDrill(t, backup.Source{Name: "state", Kind: backup.File, Path: path}).refused(t)
	if diff := cmp.Diff(heldLocks(t, path), before); diff != "" {
		t.Errorf("locks (-got +want):\n%s", diff)
	}
}

// TestRefusedOpenedMeanwhile: a host that has nothing open when Create looks,
// but has by the time that its file would be opened.
func TestRefusedOpenedMeanwhile(t *testing.T) {
	for _, kind := range []backup.Kind{backup.Database, backup.File, backup.Tree} {
		t.Run(string(kind), func(t *testing.T) {
			eachHost(t, func(t *testing.T, driver driver, mode string) {
				h := startHost(t, driver, mode, filepath.Join(t.TempDir(), "app.db"))
				if err := h.db.Close(); err != nil {
					t.Fatal(err)
				}
				src := backup.Source{Name: "db", Kind: kind, Path: h.path}
				if kind == backup.Tree {
					src.Path = filepath.Dir(h.path)
				}
				reveal := func() {}
				if kind == backup.File {
					reveal = disguise(t, h.path)
				}
				var before []string
				src.Quiesce = func(context.Context) (func(), error) {
					reveal()
					h.reopen(t)
					h.hold(t, "BEGIN; SELECT n FROM a")
					before = heldLocks(t, h.path)
					return nil, nil
				}
				d := newDrill(t, src)
				if _, err := d.store.Create(t.Context(), nil); !errors.Is(err, backup.ErrForeignDriver) {
					t.Errorf("Create: got %v, want %v", err, backup.ErrForeignDriver)
				}
				checkEmpty(t, d)
				checkLocks(t, "after Create", h, before)
			})
		})
	}
}
