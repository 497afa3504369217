package backup_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/afero"

	"github.com/atocore/backup"
)

// mixedTree makes a tree of all that is copied in a way of its own.
func mixedTree(t *testing.T, w *world) {
	t.Helper()
	makeFiles(t, w.path("tree"), 300)
	w.write(t, "tree/empty", "")
	w.write(t, "tree/large", strings.Repeat("large", 1<<20))
	w.symlink(t, "large", "tree/link")
	for i := range 5 {
		w.crash(t, fmt.Sprintf("tree/index/%d/wal.db", i%4), crashedWithWAL)
		w.remove(t, "crash.db")
		w.crash(t, fmt.Sprintf("tree/%d.db", i), crashedWithJournal)
		w.remove(t, "crash.db")
	}
	w.write(t, "tree/index/1/notes-journal", "is none of a database's")
	w.write(t, "tree/notes", "has none")
	w.write(t, "tree/notes-wal", "is none, either")
	for i := range 100 { // more than are pinned together
		w.exec(t, fmt.Sprintf("tree/many/%02d.db", i), "CREATE TABLE t (x); INSERT INTO t VALUES ('many')")
	}
}

// However many copy, what comes of it is the same.
func TestTreeIsCopiedAlikeOnAllCores(t *testing.T) {
	w := osWorld(t)
	mixedTree(t, w)
	w.write(t, "tree/many/header.db", "SQLite format 3\x00"+strings.Repeat("no", 2000))
	s := w.store(t, withSources(w.treeSource("tree")))
	var want *backup.Snapshot
	var manifest map[string]manifestLine
	onCores(t, func(t *testing.T) {
		for range 3 {
			got, err := s.Create(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if want == nil {
				want, manifest = got, w.manifest(t, got.Stamp)
			}
			if diff := cmp.Diff(problemsOf(got), problemsOf(want)); diff != "" {
				t.Errorf("problems (-got +want):\n%s", diff)
			}
			if diff := cmp.Diff(w.manifest(t, got.Stamp), manifest); diff != "" {
				t.Errorf("manifest (-got +want):\n%s", diff)
			}
			if diff := cmp.Diff(got.Sources, want.Sources); diff != "" {
				t.Errorf("sources (-got +want):\n%s", diff)
			}
		}
	})
	for _, name := range []string{"tree/index/1/notes-journal", "tree/notes-wal", "tree/large", "tree/link", "tree/many/99.db"} {
		if _, ok := manifest[name]; !ok {
			t.Errorf("%s is not in the snapshot", name)
		}
	}
	for name, line := range manifest {
		if strings.HasSuffix(name, ".db") && (line.Type == "db") == (name == "tree/many/header.db") {
			t.Errorf("%s is a %s", name, line.Type)
		}
		if strings.Contains(name, ".db-") {
			t.Errorf("%s is in the snapshot", name)
		}
	}
	if raw := "raw_copy tree/many/header.db"; !slices.Contains(problemsOf(want), raw) {
		t.Errorf("no %s", raw)
	}
}

// Wherever Progress is when it is cancelled, or panics, Create ends, and what
// is cancelled leaves nothing.
func TestCreateEndsInTheMiddle(t *testing.T) {
	w := osWorld(t)
	mixedTree(t, w)
	var hook func()
	s := w.store(t, withSources(w.treeSource("tree")), func(cfg *backup.Config) {
		cfg.Progress = func(backup.Progress) { hook() }
	})
	calls := 0
	hook = func() { calls++ }
	stamp := mustCreate(t, s).Stamp
	if err := s.Delete(t.Context(), stamp); err != nil {
		t.Fatal(err)
	}
	onCores(t, func(t *testing.T) {
		for at := 1; at <= calls; at += 1 + calls/10 {
			ctx, cancel := context.WithCancel(t.Context())
			n := 0
			hook = func() {
				if n++; n == at {
					cancel()
				}
			}
			snap, err := s.Create(ctx, nil)
			if n >= at && !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled in call %d: %v, %v", at, snap, err)
			}
			if err != nil {
				w.mustHaveNoSnapshots(t)
			} else if err := s.Delete(t.Context(), snap.Stamp); err != nil {
				t.Error(err)
			}
			cancel()
		}
		hook = func() { panic("a bug") }
		func() {
			defer func() {
				if got := recover(); got != "a bug" {
					t.Errorf("recovered %v", got)
				}
			}()
			_, err := s.Create(t.Context(), nil)
			t.Errorf("no panic, and %v", err)
		}()
		hook = func() {}
		for _, snap := range w.list(t, s) { // nothing was left locked
			if err := s.Delete(t.Context(), snap.Stamp); err != nil {
				t.Error(err)
			}
		}
	})
}

// A directory that takes the place of another while the walk is elsewhere is
// copied as it is, and not left out.
func TestDirectoryThatIsReplacedMeanwhileIsCopied(t *testing.T) {
	onCores(t, func(t *testing.T) {
		w := osWorld(t)
		for i := range 16 { // more than are copied at a time
			w.write(t, fmt.Sprintf("tree/a/%d", i), strings.Repeat("large", 1<<19))
		}
		w.write(t, "tree/index/old", "old")
		w.write(t, "index.new/new", "new")
		replace := sync.OnceFunc(func() {
			for _, move := range [][2]string{{"tree/index", "index.old"}, {"index.new", "tree/index"}} {
				if err := os.Rename(w.path(move[0]), w.path(move[1])); err != nil {
					t.Error(err)
				}
			}
		})
		s := w.store(t, withSources(w.treeSource("tree")), func(cfg *backup.Config) {
			cfg.Progress = func(backup.Progress) { replace() }
		})
		snap := mustCreate(t, s)
		if !w.exists(t, in(snap.Stamp, "tree/index/new")) {
			t.Errorf("got %v", w.names(t, in(snap.Stamp, "tree/index")))
		}
	})
}

// What is not SQLite's, and written to in two files, is copied in the order of
// the walk: the second right after the first, and not when all is done.
func TestSidecarFollowsWhatItIsOf(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2)) // with more, it may be the last to begin
	w := osWorld(t)
	w.write(t, "tree/a.db", "encrypted")
	w.write(t, "tree/a.db-wal", "before")
	for i := range 16 {
		w.write(t, fmt.Sprintf("tree/b/%02d", i), strings.Repeat("large", 1<<19))
	}
	write := sync.OnceFunc(func() { w.write(t, "tree/a.db-wal", "after") })
	s := w.store(t, withSources(w.treeSource("tree")), func(cfg *backup.Config) {
		cfg.Progress = func(p backup.Progress) {
			if p.Done > p.Total*4/10 { // half is for reading back
				write()
			}
		}
	})
	snap := mustCreate(t, s)
	if got := w.read(t, in(snap.Stamp, "tree/a.db-wal")); got != "before" {
		t.Errorf("got %q, written when most had been copied", got)
	}
}

// A file that is replaced, grows, or goes while its tree is copied on all cores
// is in the snapshot as it was at one instant, or is noted.
func TestTreeThatChangesIsNotTorn(t *testing.T) {
	w := osWorld(t)
	const files, size = 400, 20_000
	name := func(i int) string { return filepath.Join(w.path("tree"), fmt.Sprint(i%7), fmt.Sprint(i)) }
	content := func(n int) []byte { return []byte(strings.Repeat(string(rune('a'+n%26)), size)) }
	for i := range files {
		w.write(t, fmt.Sprintf("tree/%d/%d", i%7, i), string(content(0)))
	}
	done, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		stopped <- func() error {
			for n := 1; !isClosed(done); n++ {
				i := n * 131 % files
				switch n % 3 {
				case 0: // in place
					if err := os.WriteFile(name(i), content(n), 0o644); err != nil {
						return err
					}
				case 1:
					if err := os.WriteFile(name(i)+".tmp", content(n), 0o644); err != nil {
						return err
					}
					if err := os.Rename(name(i)+".tmp", name(i)); err != nil {
						return err
					}
				case 2:
					if err := os.Remove(name(i)); err != nil && !errors.Is(err, os.ErrNotExist) {
						return err
					}
				}
			}
			return nil
		}()
	}()
	s := w.store(t, withSources(w.treeSource("tree")))
	onCores(t, func(t *testing.T) {
		for range 5 {
			snap, err := s.Create(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			noted := problemsOf(snap)
			for _, p := range snap.Problems {
				if p.Code != backup.CodeFileChanged && p.Code != backup.CodeFileVanished {
					t.Errorf("%v", p)
				}
			}
			for path, line := range w.manifest(t, snap.Stamp) {
				if line.Type != "file" || slices.Contains(noted, "file_changed "+path) {
					continue
				}
				got := w.read(t, in(snap.Stamp, path))
				if strings.Trim(got, got[:min(1, len(got))]) != "" {
					t.Errorf("%s is torn: %d bytes, from %.1q to %.1q", path, len(got), got, got[len(got)-1:])
				}
			}
		}
	})
	close(done)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// The sidecar of a database that was copied belongs to no snapshot, nor is it
// missed, wherever it comes in the order of names: a space sorts before "-".
func TestSidecarThatIsGoneByItsTurnIsNotMissed(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		for _, name := range []string{"tree/Login Data", "tree/Login Data For Account", "tree/q-wal"} {
			w.exec(t, name, "CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(100000))")
		}
		gone := []string{"tree/Login Data-journal", "tree/q-wal-journal"}
		for _, name := range gone {
			w.write(t, name, "") // as PRAGMA journal_mode=truncate leaves it
		}
		s := w.store(t, withSources(w.treeSource("tree")), atFirst(t, "tree", func() {
			for _, name := range gone {
				w.drop(t, name)
			}
		}))
		snap := mustCreate(t, s)
		want := map[string]string{"tree": "dir", "tree/Login Data": "db", "tree/Login Data For Account": "db", "tree/q-wal": "db"}
		if diff := cmp.Diff(w.types(t, snap.Stamp), want); diff != "" {
			t.Errorf("(-got +want):\n%s", diff)
		}
	})
}

// A doublingFs tells each name twice, as readdir(3) may where files come and go.
type doublingFs struct{ afero.Fs }

func (d doublingFs) Open(name string) (afero.File, error) {
	f, err := d.Fs.Open(name)
	return doublingFile{f}, err
}

type doublingFile struct{ afero.File }

func (f doublingFile) Readdirnames(n int) ([]string, error) {
	names, err := f.File.Readdirnames(n)
	return append(names, names...), err
}

func TestNameThatIsToldTwiceIsCopiedOnce(t *testing.T) {
	w := newWorld(t, doublingFs{afero.NewMemMapFs()}, "/srv")
	w.write(t, "tree/a", "a")
	w.write(t, "tree/d/b", "b")
	snap := mustCreate(t, w.store(t, withSources(w.treeSource("tree"))))
	if snap.Files != 2 {
		t.Errorf("got %+v", snap)
	}
}
