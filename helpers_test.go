package backup_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"
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

// eachNativeFs runs a test where several connections can have a database in
// WAL mode open.
func eachNativeFs(t *testing.T, test func(t *testing.T, w *world)) {
	eachFs(t, func(t *testing.T, w *world) {
		if _, ok := w.fs.(*afero.MemMapFs); ok {
			t.Skip("a database in WAL mode has one connection at a time in memory")
		}
		test(t, w)
	})
}

// eachKindOfFs runs a long test once in memory and once on a disk.
func eachKindOfFs(t *testing.T, test func(t *testing.T, w *world)) {
	t.Run("memory", func(t *testing.T) { test(t, newWorld(t, afero.NewMemMapFs(), "/srv")) })
	t.Run("os", func(t *testing.T) { test(t, osWorld(t)) })
}

// withSources returns a change of a Config to other sources.
func withSources(sources ...backup.Source) func(*backup.Config) {
	return func(cfg *backup.Config) { cfg.Sources = sources }
}

// database, file and tree are sources that are named as their paths end.
func (w *world) database(name string) backup.Source {
	return backup.Source{Name: "db", Kind: backup.Database, Path: w.path(name)}
}

func (w *world) file(name string) backup.Source {
	return backup.Source{Name: "file", Kind: backup.File, Path: w.path(name)}
}

func (w *world) treeSource(name string) backup.Source {
	return backup.Source{Name: "tree", Kind: backup.Tree, Path: w.path(name)}
}

// onProgress returns a change of a Config that calls hook each time that
// Create has copied a part of a source, on one core. What it validates comes
// after.
func onProgress(t *testing.T, source string, hook func()) func(*backup.Config) {
	onOneCore(t)
	return func(cfg *backup.Config) {
		cfg.Progress = func(p backup.Progress) {
			if p.Op == "create" && p.Source == source {
				hook()
			}
		}
	}
}

// onOneCore has the rest of a test run on one core, where an operation does one
// thing after the other, and reports it at once.
func onOneCore(t *testing.T) {
	n := runtime.GOMAXPROCS(1)
	t.Cleanup(func() { runtime.GOMAXPROCS(n) })
}

// atFirst returns a change of a Config that calls hook when the first bytes
// of a source have been copied, on one core.
func atFirst(t *testing.T, source string, hook func()) func(*backup.Config) {
	return onProgress(t, source, sync.OnceFunc(hook))
}

// connect opens a database as the service has it open, until the test ends.
func (w *world) connect(t *testing.T, name string) *sqlite3.Conn {
	t.Helper()
	w.mkdir(t, path.Dir(name))
	c, err := backup.OpenDB(w.fs, w.path(name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	mustExec(t, c, "PRAGMA busy_timeout=0")
	return c
}

func mustExec(t *testing.T, c *sqlite3.Conn, sql string) {
	t.Helper()
	if err := c.Exec(sql); err != nil {
		t.Errorf("%s: %v", sql, err)
	}
}

// mustCreate takes a snapshot that must be good.
func mustCreate(t *testing.T, s *backup.Store) *backup.Snapshot {
	t.Helper()
	snap, err := s.Create(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if !snap.Validated {
		t.Fatalf("not validated: %v", snap.Problems)
	}
	mustBeValid(t, s, snap.Stamp)
	return snap
}

func mustBeValid(t *testing.T, s *backup.Store, stamp string) {
	t.Helper()
	report, err := s.Validate(t.Context(), stamp, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !report.Valid {
		t.Fatalf("not valid: %v", report.Err())
	}
}

// queryCopy is query on a database in a snapshot, which it leaves as it is.
func (w *world) queryCopy(t *testing.T, snap *backup.Snapshot, name, sql string) string {
	t.Helper()
	data, err := afero.ReadFile(w.fs, w.snapshot(snap.Stamp, name))
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "scratch/copy.db", string(data))
	return w.query(t, "scratch/copy.db", sql)
}

// rerun returns a command that runs one test of this binary.
func rerun(t testing.TB, test string, env ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^"+test+"$")
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	return cmd
}

// crash runs SQL on a database and leaves its files as a crash then would:
// with the journal or the WAL that there is before the connection is closed.
func (w *world) crash(t *testing.T, name, sql string) {
	t.Helper()
	c := w.connect(t, "crash.db")
	mustExec(t, c, "PRAGMA locking_mode=EXCLUSIVE;"+sql)
	for _, suffix := range []string{"", "-wal", "-journal"} {
		if w.exists(t, "crash.db"+suffix) {
			w.write(t, name+suffix, w.read(t, "crash.db"+suffix))
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

const crashedWithJournal = `PRAGMA cache_size=2;
	CREATE TABLE t (id INTEGER PRIMARY KEY, x);
	WITH RECURSIVE i (i) AS (SELECT 1 UNION ALL SELECT i+1 FROM i WHERE i < 100)
	INSERT INTO t SELECT i, printf('%-1000s', 'old') FROM i;
	BEGIN; UPDATE t SET x = printf('%-1000s', 'new');`

const crashedWithWAL = `PRAGMA journal_mode=WAL; CREATE TABLE t (x); INSERT INTO t VALUES ('checkpointed');
	PRAGMA wal_checkpoint(TRUNCATE); INSERT INTO t VALUES ('in the WAL');`

// oddNames are names of files that are hard on whoever puts them into URIs,
// JSON, or SQL.
var oddNames = []string{
	"a b?.db", "x%41.db", "#1.db", "?_pragma=x.db", "a&vfs=memdb.db", "file:x.db", ":memory:",
	"ünï😀.db", "it's.db", `quo"te.db`, "new\nline.db", "-dash.db", "...db", "a:b.db", "%00.db", "semi;colon.db",
}

// A waiting is a context that tells how often somebody has waited with it.
type waiting struct {
	context.Context
	waits  atomic.Int64
	enough int64
	waited func() // called after enough of them
}

func (c *waiting) Done() <-chan struct{} {
	if c.waits.Add(1) == c.enough {
		c.waited()
	}
	return c.Context.Done()
}

// mustHaveNoSnapshots fails if anything is left in the snapshots' directory.
func (w *world) mustHaveNoSnapshots(t *testing.T) {
	t.Helper()
	if !w.exists(t, "backups/snapshots") {
		return
	}
	left, err := afero.ReadDir(w.fs, w.path("backups/snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	for _, fi := range left {
		t.Errorf("left behind: %s", fi.Name())
	}
}

// problemsOf returns the codes and paths of a snapshot's problems.
func problemsOf(snap *backup.Snapshot) []string {
	var found []string
	for _, p := range snap.Problems {
		found = append(found, fmt.Sprintf("%s %s", p.Code, p.Path))
	}
	return found
}

// A manifestLine is what manifest.jsonl says of an entry.
type manifestLine struct {
	Path   manifestName `json:"path"`
	Type   string       `json:"type"`
	Mode   string       `json:"mode"`
	MTime  time.Time    `json:"mtime"`
	Size   int64        `json:"size"`
	SHA256 string       `json:"sha256"`
	Target manifestName `json:"target"`
}

// A manifestName is text, or {"base64": …}.
type manifestName string

func (n *manifestName) UnmarshalJSON(data []byte) error {
	var raw struct {
		Base64 []byte `json:"base64"`
	}
	if err := json.Unmarshal(data, &raw); err == nil {
		*n = manifestName(raw.Base64)
		return nil
	}
	return json.Unmarshal(data, (*string)(n))
}

// manifest returns the manifest of a snapshot, by path.
func (w *world) manifest(t *testing.T, stamp string) map[string]manifestLine {
	t.Helper()
	data, err := afero.ReadFile(w.fs, w.snapshot(stamp, "manifest.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	lines := make(map[string]manifestLine)
	for line := range bytes.Lines(data) {
		var m manifestLine
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		lines[string(m.Path)] = m
	}
	return lines
}

// types returns the types of the entries of a snapshot, by path.
func (w *world) types(t *testing.T, stamp string) map[string]string {
	t.Helper()
	types := make(map[string]string)
	for name, line := range w.manifest(t, stamp) {
		types[name] = line.Type
	}
	return types
}

// attributes returns the permissions and times of files and directories at a
// path and below it.
func (w *world) attributes(t *testing.T, name string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	err := afero.Walk(w.fs, w.path(name), func(p string, fi fs.FileInfo, err error) error {
		if err == nil && fi.Mode()&fs.ModeSymlink == 0 {
			found[p] = fmt.Sprintf("%v %v", fi.Mode().Perm(), fi.ModTime().UTC())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// attribute sets the permissions and the time of a file or directory.
func (w *world) attribute(t *testing.T, name string, perm fs.FileMode, mtime time.Time) {
	t.Helper()
	if err := errors.Join(w.fs.Chmod(w.path(name), perm), w.fs.Chtimes(w.path(name), mtime, mtime)); err != nil {
		t.Fatal(err)
	}
}

// symlink makes a symbolic link, or skips the test.
func (w *world) symlink(t *testing.T, target, name string) {
	t.Helper()
	w.mkdir(t, path.Dir(name))
	if _, ok := w.fs.(*afero.MemMapFs); ok {
		t.Skip("this file system has no symbolic links")
	}
	if err := os.Symlink(target, w.nativePath(name)); err != nil {
		t.Fatal(err)
	}
}

func (w *world) remove(t *testing.T, name string) {
	t.Helper()
	if err := w.fs.RemoveAll(w.path(name)); err != nil {
		t.Error(err)
	}
}

// ancient is a time that no test happens in, with a part of a second.
var ancient = time.Date(2001, 2, 3, 4, 5, 6, 700_000_000, time.UTC)

// native reports whether the world is on the operating system.
func (w *world) native() bool {
	_, memory := w.fs.(*afero.MemMapFs)
	return !memory
}

// nativePath is path on the operating system.
func (w *world) nativePath(name string) string {
	if base, ok := w.fs.(*afero.BasePathFs); ok {
		real, _ := base.RealPath(w.path(name))
		return real
	}
	return w.path(name)
}

// clones reports whether copies of the world's files are clones, as they are on XFS
// and on macOS. A clone is of one instant: nothing changes under it.
func (w *world) clones(t *testing.T) bool {
	t.Helper()
	switch w.fs.(type) {
	case *afero.OsFs, *afero.BasePathFs:
	default:
		return false
	}
	clones, err := backup.ClonesIn(w.nativePath("."))
	if err != nil {
		t.Fatal(err)
	}
	return clones
}

// replace gives a file new content as a careful program does: by a rename.
func (w *world) replace(t *testing.T, name, content string) {
	t.Helper()
	w.write(t, "replacement", content)
	if err := w.fs.Rename(w.path("replacement"), w.path(name)); err != nil {
		t.Error(err)
	}
}

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

func (w *world) pending(t *testing.T) bool { return w.exists(t, "backups/restore-journal.json") }

const journalFile = "backups/restore-journal.json"
