package backup_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/afero"

	"github.com/atocore/backup"
)

// A world is a file system with a service's state on it.
type world struct {
	fs   afero.Fs
	root string // where all of it lies
	now  time.Time

	atOnce bool // its stores sync many files at once: see syncsAtOnce
	links  bool // its trees are LinkUnchanged
}

// start is when the clock of every world begins to run.
var start = time.Date(2026, 4, 11, 10, 0, 0, 0, time.UTC)

// eachFs runs a test on every kind of file system.
func eachFs(t *testing.T, test func(t *testing.T, w *world)) {
	t.Run("memory", func(t *testing.T) {
		test(t, newWorld(t, afero.NewMemMapFs(), "/srv"))
	})
	t.Run("os", func(t *testing.T) { test(t, osWorld(t)) })
	t.Run("base_path", func(t *testing.T) {
		test(t, newWorld(t, afero.NewBasePathFs(afero.NewOsFs(), t.TempDir()), "/srv"))
	})
}

func osWorld(t *testing.T) *world {
	t.Helper()
	return newWorld(t, afero.NewOsFs(), filepath.Join(t.TempDir(), "srv"))
}

func newWorld(t *testing.T, fsys afero.Fs, root string) *world {
	t.Helper()
	w := &world{fs: fsys, root: root, now: start}
	w.mkdir(t, ".")
	return w
}

// clock runs on by a minute with every look at it.
func (w *world) clock() time.Time {
	w.now = w.now.Add(time.Minute)
	return w.now
}

func (w *world) path(name string) string { return filepath.Join(w.root, filepath.FromSlash(name)) }

// snapshot returns the path of a file in a snapshot.
func (w *world) snapshot(stamp, name string) string {
	return w.path("backups/snapshots/" + stamp + "/" + name)
}

func (w *world) mkdir(t *testing.T, name string) {
	t.Helper()
	if err := w.fs.MkdirAll(w.path(name), 0o755); err != nil {
		t.Fatal(err)
	}
}

func (w *world) write(t *testing.T, name, content string) {
	t.Helper()
	w.mkdir(t, filepath.Dir(name))
	if err := afero.WriteFile(w.fs, w.path(name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (w *world) read(t *testing.T, name string) string {
	t.Helper()
	data, err := afero.ReadFile(w.fs, w.path(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func (w *world) exists(t *testing.T, name string) bool {
	t.Helper()
	ok, err := afero.Exists(w.fs, w.path(name))
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

// exec runs SQL on a database, which it makes if there is none.
func (w *world) exec(t *testing.T, name, sql string) {
	t.Helper()
	w.mkdir(t, filepath.Dir(name))
	c, err := backup.OpenDB(w.fs, w.path(name))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Exec("PRAGMA locking_mode=EXCLUSIVE;" + sql); err != nil {
		t.Errorf("%s: %v", sql, err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// query returns the first column of the rows of a query, one per line.
func (w *world) query(t *testing.T, name, sql string) string {
	t.Helper()
	c, err := backup.OpenDB(w.fs, w.path(name))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Exec("PRAGMA locking_mode=EXCLUSIVE"); err != nil {
		t.Fatal(err)
	}
	stmt, _, err := c.Prepare(sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	defer stmt.Close()
	var rows []string
	for stmt.Step() {
		rows = append(rows, stmt.ColumnText(0))
	}
	if err := stmt.Err(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return strings.Join(rows, "\n")
}

// sources are those of the ATOCore service.
func (w *world) sources() []backup.Source {
	return []backup.Source{
		{Name: "db", Kind: backup.Database, Path: w.path("data/atocore.db")},
		{Name: "config", Kind: backup.File, Path: w.path("config/project-registry.json"), Optional: true},
		{Name: "chroma", Kind: backup.Tree, Path: w.path("chroma"), OnRequest: true},
	}
}

// seed makes the state of the ATOCore service: a database in WAL mode, a
// registry, and a vector store with a database of its own.
func (w *world) seed(t *testing.T) {
	t.Helper()
	w.exec(t, "data/atocore.db", `PRAGMA journal_mode=WAL;
		CREATE TABLE memories (id INTEGER PRIMARY KEY, body TEXT);
		CREATE INDEX bodies ON memories (body);
		INSERT INTO memories (body) VALUES ('baseline');`)
	w.write(t, "config/project-registry.json", `{"projects": ["p1"]}`)
	w.exec(t, "chroma/chroma.sqlite3", `CREATE TABLE e (v BLOB); INSERT INTO e VALUES (x'00ff');`)
	w.write(t, "chroma/collection-a/data.bin", strings.Repeat("\x00\x01", 512))
	w.mkdir(t, "chroma/empty")
}

// store returns a store of the world's sources, with changes to its Config.
func (w *world) store(t *testing.T, changes ...func(*backup.Config)) *backup.Store {
	t.Helper()
	cfg := backup.Config{Dir: w.path("backups"), Fs: w.fs, Sources: w.sources(), Now: w.clock}
	for _, change := range changes {
		change(&cfg)
	}
	s, err := backup.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// create takes a snapshot, with the vector store, which must be good.
func (w *world) create(t *testing.T, s *backup.Store) *backup.Snapshot {
	t.Helper()
	snap, err := s.Create(t.Context(), &backup.CreateOptions{Include: []string{"chroma"}})
	if err != nil {
		t.Fatal(err)
	}
	if !snap.Validated {
		t.Fatalf("not validated: %v", snap.Problems)
	}
	return snap
}

// restore puts a snapshot back.
func (w *world) restore(t *testing.T, s *backup.Store, stamp string) *backup.Restoration {
	t.Helper()
	r, err := s.Restore(t.Context(), stamp, confirmed)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var confirmed = &backup.RestoreOptions{ConfirmServiceStopped: true}

// tree returns what is at a path and below it: types, permissions, content.
func (w *world) tree(t *testing.T, name string) map[string]string {
	t.Helper()
	tree := make(map[string]string)
	err := afero.Walk(w.fs, w.path(name), func(p string, fi fs.FileInfo, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(w.path(name), p)
		if err != nil {
			return err
		}
		switch {
		case fi.IsDir():
			tree[rel] = fmt.Sprintf("%v", fi.Mode().Perm())
		case fi.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			tree[rel] = "-> " + target
		case fi.Mode().IsRegular() || fi.Mode().Type() == 0:
			data, err := afero.ReadFile(w.fs, p)
			if err != nil {
				return err
			}
			tree[rel] = fmt.Sprintf("%v %x", fi.Mode().Perm(), data)
		default:
			tree[rel] = fi.Mode().Type().String()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// names returns the slash-separated names of what is at a path and below it,
// sorted.
func (w *world) names(t *testing.T, name string) []string {
	t.Helper()
	var names []string
	for name := range w.tree(t, name) {
		names = append(names, filepath.ToSlash(name))
	}
	slices.Sort(names)
	return names
}
