package backup_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/afero"

	"github.com/atocore/backup"
	"github.com/atocore/backup/internal/crashfs"
)

func TestFileThatVanishesFromATreeIsNoted(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		for _, name := range []string{"a", "b", "c", "d/e", "f/g/h", "z"} {
			w.write(t, "tree/"+name, name)
		}
		w.exec(t, "tree/x.db", "CREATE TABLE t (x)")
		s := w.store(t, withSources(w.treeSource("tree")), atFirst(t, "tree", func() {
			for _, name := range []string{"a", "b", "d", "f/g", "x.db"} {
				w.remove(t, "tree/"+name)
			}
		}))
		snap, err := s.Create(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]bool{"tree/b": true} // at least; of a directory it or all that was in it
		for _, p := range snap.Problems {
			if p.Code != backup.CodeFileVanished {
				t.Errorf("unexpected: %v", p)
			}
			delete(want, p.Path)
		}
		if len(want) > 0 || snap.Validated {
			t.Errorf("not noted: %v; got %v", want, problemsOf(snap))
		}
		types := w.types(t, snap.Stamp)
		for _, name := range []string{"tree/c", "tree/z"} {
			if types[name] != "file" {
				t.Errorf("%s is not in the snapshot: %v", name, types)
			}
		}
		if _, ok := types["tree/b"]; ok {
			t.Error("tree/b is in the manifest")
		}
	})
}

// A directory that vanishes while a tree is measured does not make the whole
// tree a missing, optional source.
func TestDirectoryThatVanishesFromAnOptionalTreeIsNoted(t *testing.T) {
	w := newWorld(t, crashfs.New(crashfs.Options{}), "/srv")
	w.write(t, "tree/a", "a")
	w.write(t, "tree/sub/b", "b")
	source := w.treeSource("tree")
	source.Optional = true
	s := w.store(t, withSources(source))
	w.fs.(*crashfs.FS).SetHook(func(op crashfs.Op) crashfs.Fault {
		if op.Kind == crashfs.OpOpen && op.Path == w.path("tree/sub") {
			return crashfs.Fault{Effect: crashfs.FailBefore, Err: fs.ErrNotExist}
		}
		return crashfs.Fault{}
	})
	snap, err := s.Create(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if state, _ := snap.Source("tree"); !state.Captured || w.types(t, snap.Stamp)["tree/a"] != "file" {
		t.Errorf("got %+v, want what was there", state)
	}
}

// roundTrip takes a snapshot of what is at a path, removes all that is in it
// but its own directory, and puts it back: it must be what it was, but for
// the times of links.
func (w *world) roundTrip(t *testing.T, name string) *backup.Snapshot {
	t.Helper()
	before, attributes := w.tree(t, name), w.attributes(t, name)
	s := w.store(t, withSources(w.treeSource(name)))
	snap := mustCreate(t, s)
	found, err := afero.ReadDir(w.fs, w.path(name))
	if err != nil {
		t.Fatal(err)
	}
	for _, fi := range found {
		if err := w.fs.RemoveAll(filepath.Join(w.path(name), fi.Name())); err != nil {
			t.Fatal(err)
		}
	}
	opts := &backup.RestoreOptions{ConfirmServiceStopped: true, SkipSafetySnapshot: true}
	if _, err := s.Restore(t.Context(), snap.Stamp, opts); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, w.tree(t, name)); diff != "" {
		t.Errorf("restored (-want +got):\n%.4000s", diff)
	}
	after := w.attributes(t, name)
	delete(attributes, w.path(name)) // the tree's own directory stays
	delete(after, w.path(name))
	if diff := cmp.Diff(attributes, after); diff != "" {
		t.Errorf("permissions and times (-want +got):\n%.4000s", diff)
	}
	return snap
}

func TestTreeIsCopiedWithItsAttributes(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "tree/run.sh", "#!")
		w.write(t, "tree/d/secret", "s")
		w.write(t, "tree/d/d/locked", "l")
		w.mkdir(t, "tree/empty/also")
		w.attribute(t, "tree/run.sh", 0o755, ancient)
		w.attribute(t, "tree/d/secret", 0o600, ancient.Add(time.Nanosecond))
		w.attribute(t, "tree/d/d/locked", 0o444, time.Unix(-1, 0))
		for i, name := range []string{"tree/empty/also", "tree/empty", "tree/d/d", "tree/d", "tree"} {
			w.attribute(t, name, 0o701+fs.FileMode(i), ancient.Add(time.Duration(i)*time.Hour))
		}
		snap := w.roundTrip(t, "tree")

		hash := func(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }
		want := map[string]manifestLine{
			"tree":            {Type: "dir", Mode: "0705", MTime: ancient.Add(4 * time.Hour)},
			"tree/d":          {Type: "dir", Mode: "0704", MTime: ancient.Add(3 * time.Hour)},
			"tree/d/d":        {Type: "dir", Mode: "0703", MTime: ancient.Add(2 * time.Hour)},
			"tree/d/d/locked": {Type: "file", Mode: "0444", MTime: time.Unix(-1, 0).UTC(), Size: 1, SHA256: hash("l")},
			"tree/d/secret":   {Type: "file", Mode: "0600", MTime: ancient.Add(time.Nanosecond), Size: 1, SHA256: hash("s")},
			"tree/empty":      {Type: "dir", Mode: "0702", MTime: ancient.Add(time.Hour)},
			"tree/empty/also": {Type: "dir", Mode: "0701", MTime: ancient},
			"tree/run.sh":     {Type: "file", Mode: "0755", MTime: ancient, Size: 2, SHA256: hash("#!")},
		}
		for name, line := range want {
			line.Path = manifestName(name)
			want[name] = line
		}
		if diff := cmp.Diff(want, w.manifest(t, snap.Stamp)); diff != "" {
			t.Errorf("manifest (-want +got):\n%s", diff)
		}
		state, _ := snap.Source("tree")
		wantState := backup.SourceState{Name: "tree", Kind: backup.Tree, Captured: true, Path: "tree", Files: 3, Bytes: 4}
		if diff := cmp.Diff(wantState, state); diff != "" {
			t.Errorf("state (-want +got):\n%s", diff)
		}
		// Times can be seen in the copy too, by any tool.
		fi, err := w.fs.Stat(w.snapshot(snap.Stamp, "tree/d"))
		if err != nil || !fi.ModTime().Equal(ancient.Add(3*time.Hour)) {
			t.Errorf("the copy of a directory is of %v, %v", fi.ModTime(), err)
		}
	})
}

func TestEmptyTreeIsCopied(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.mkdir(t, "tree")
		snap := w.roundTrip(t, "tree")
		if state, _ := snap.Source("tree"); !state.Captured || state.Files != 0 {
			t.Errorf("got %+v, want it captured, without files", state)
		}
	})
}

func TestLinksAreCopiedAsLinks(t *testing.T) {
	w := osWorld(t)
	w.write(t, "outside/secret", "the secret")
	w.write(t, "tree/d/f", "f")
	links := map[string]string{
		"tree/to_file":        "d/f",
		"tree/to_dir":         "d",
		"tree/dangling":       "nowhere",
		"tree/outside":        "../outside/secret",
		"tree/outside_dir":    "../outside",
		"tree/absolute":       "/etc/passwd",
		"tree/d/itself":       "itself",
		"tree/d/loop":         "..",
		"tree/d/a":            "b",
		"tree/d/b":            "a",
		"tree/unclean":        "d/../d//./f",
		"tree/spaces newline": "a b\nc",
		"tree/not_a_db-wal":   "x",
		"tree/long":           strings.Repeat("x", 1000),
	}
	longest := strings.Repeat("x", 4000)
	if os.Symlink(longest, w.path("probe")) == nil { // XFS has none beyond 1024
		links["tree/longest"] = longest
	}
	for name, target := range links {
		w.symlink(t, target, name)
	}
	snap := w.roundTrip(t, "tree")
	manifest := w.manifest(t, snap.Stamp)
	for name, target := range links {
		want := manifestLine{Path: manifestName(name), Type: "link", Target: manifestName(target)}
		if diff := cmp.Diff(want, manifest[name]); diff != "" {
			t.Errorf("entry (-want +got):\n%s", diff)
		}
	}
	if len(manifest) != len(links)+3 {
		t.Errorf("%d entries, want the links, two directories and a file", len(manifest))
	}
	w.mustNotHold(t, "backups", "the secret")
}

// mustNotHold fails if a file at a path or below it has a text in it.
func (w *world) mustNotHold(t *testing.T, name, text string) {
	t.Helper()
	for p, content := range w.tree(t, name) {
		if strings.Contains(content, fmt.Sprintf("%x", text)) {
			t.Errorf("%s holds %q", p, text)
		}
	}
}

// What is swapped for a link while a tree is copied never leads out of it.
func TestLinkThatIsSwappedInIsNotFollowed(t *testing.T) {
	for _, swapped := range []string{"tree/b", "tree/b/c", "tree/b/file", "tree/b/u.db"} {
		t.Run(path.Base(swapped), func(t *testing.T) {
			w := osWorld(t)
			for dir, secret := range map[string]string{"tree/b": "open", "outside": "the secret"} {
				w.write(t, dir+"/file", secret)
				w.write(t, dir+"/c/file", secret)
				w.exec(t, dir+"/u.db", "CREATE TABLE t (x); INSERT INTO t VALUES ('"+secret+"')")
			}
			w.write(t, path.Dir(swapped)+"/a", "the first to be copied")
			w.write(t, "tree/z", "the last")
			s := w.store(t, withSources(w.treeSource("tree")), atFirst(t, "tree", func() {
				w.remove(t, swapped)
				w.symlink(t, w.path(strings.Replace(swapped, "tree/b", "outside", 1)), swapped)
			}))
			snap, err := s.Create(t.Context(), nil)
			w.mustNotHold(t, "backups", "the secret")
			if err != nil {
				t.Fatalf("the rest is not copied: %v", err)
			}
			if snap.Validated && swapped != "tree/b/u.db" { // which was pinned before
				t.Errorf("nothing is said about it: %v", w.types(t, snap.Stamp))
			}
			if w.types(t, snap.Stamp)["tree/z"] != "file" {
				t.Error("the rest is not copied")
			}
		})
	}
}

// Nor is a database beyond a link so much as read: to read one is to roll back
// its hot journal.
func TestDatabaseBeyondALinkThatIsSwappedInIsLeftAlone(t *testing.T) {
	for name, sql := range map[string]string{"journal": crashedWithJournal, "wal": crashedWithWAL} {
		t.Run(name, func(t *testing.T) {
			w := osWorld(t)
			w.write(t, "tree/b/a", "the first to be copied")
			w.exec(t, "tree/b/u.db", "CREATE TABLE t (x); INSERT INTO t VALUES ('open')")
			w.crash(t, "outside/u.db", sql)
			before := w.tree(t, "outside")
			source := w.treeSource("tree")
			source.Quiesce = func(context.Context) (func(), error) { return nil, nil } // nothing is pinned before
			s := w.store(t, withSources(source), atFirst(t, "tree", func() {
				w.rename(t, "tree/b", "aside")
				w.symlink(t, w.path("outside"), "tree/b")
			}))
			snap, err := s.Create(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, w.tree(t, "outside")); diff != "" {
				t.Errorf("outside (-before +after):\n%.500s", diff)
			}
			if got := w.queryCopy(t, snap, "tree/b/u.db", "SELECT x FROM t"); got != "open" {
				t.Errorf("copied %q; problems: %v", got, snap.Problems)
			}
		})
	}
}

// Nor is one that leads elsewhere in the tree: what is there is not what was
// to be copied.
func TestLinkWithinTheTreeThatIsSwappedInIsNotFollowed(t *testing.T) {
	for _, swapped := range []string{"tree/b", "tree/b/d", "tree/b/file"} {
		t.Run(path.Base(swapped), func(t *testing.T) {
			w := osWorld(t)
			for _, dir := range []string{"tree/b", "tree/c"} {
				w.write(t, dir+"/d/file", "of "+dir)
				w.write(t, dir+"/file", "of "+dir)
			}
			w.write(t, path.Dir(swapped)+"/a", "the first to be copied")
			s := w.store(t, withSources(w.treeSource("tree")), atFirst(t, "tree", func() {
				w.remove(t, swapped)
				w.symlink(t, w.path(strings.Replace(swapped, "tree/b", "tree/c", 1)), swapped)
			}))
			snap, err := s.Create(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(snap.Problems) == 0 {
				t.Error("not noted")
			}
			for name, kind := range w.types(t, snap.Stamp) {
				if kind != "file" || !strings.HasPrefix(name, "tree/b/") {
					continue
				}
				if got := w.read(t, "backups/snapshots/"+snap.Stamp+"/"+name); got == "of tree/c" {
					t.Errorf("%s has what the link leads to", name)
				}
			}
		})
	}
}

// A database in a tree is copied hot, with what its WAL has; its sidecars
// are of no use beside the copy. What only looks like one is kept.
func TestDatabaseInATreeIsCopiedHot(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.crash(t, "tree/deep/app.db", crashedWithWAL)
		w.exec(t, "tree/no-suffix", "CREATE TABLE t (x); INSERT INTO t VALUES ('rollback mode')")
		w.write(t, "tree/notes", "notes")
		w.write(t, "tree/notes-wal", "of notes")
		w.write(t, "tree/app.db-wal", "of no database")
		snap := mustCreate(t, w.store(t, withSources(w.treeSource("tree"))))
		want := map[string]string{
			"tree": "dir", "tree/deep": "dir", "tree/deep/app.db": "db", "tree/no-suffix": "db",
			"tree/notes": "file", "tree/notes-wal": "file", "tree/app.db-wal": "file",
		}
		if diff := cmp.Diff(want, w.types(t, snap.Stamp)); diff != "" {
			t.Errorf("entries (-want +got):\n%s", diff)
		}
		if got := w.queryCopy(t, snap, "tree/deep/app.db", "SELECT x FROM t"); got != "checkpointed\nin the WAL" {
			t.Errorf("got %q, want both rows", got)
		}
		if got := w.queryCopy(t, snap, "tree/no-suffix", "SELECT x FROM t"); got != "rollback mode" {
			t.Errorf("got %q, want the row", got)
		}
	})
}

func TestDatabaseInATreeIsConsistentWhileAWriterWrites(t *testing.T) {
	for _, mode := range []string{"wal", "delete"} {
		t.Run(mode, func(t *testing.T) {
			w := osWorld(t)
			w.bookkeeping(t, "tree/deep/app.db", mode, 10)
			wr := startProcess(t, w.path("tree/deep/app.db"))
			wr.next(t, 0)
			snap := mustCreate(t, w.store(t, withSources(w.treeSource("tree"))))
			wr.stop()
			want := map[string]string{"tree": "dir", "tree/deep": "dir", "tree/deep/app.db": "db"}
			if diff := cmp.Diff(want, w.types(t, snap.Stamp)); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
			if got := w.queryCopy(t, snap, "tree/deep/app.db", bookBalance); got != "0" {
				t.Errorf("a copy of half a transaction: debits less credits are %s", got)
			}
		})
	}
}

// More databases than are held open at once.
func TestManyDatabasesInATreeAreCopiedHot(t *testing.T) {
	eachKindOfFs(t, func(t *testing.T, w *world) {
		w.crash(t, "tree/000.db", crashedWithWAL)
		for i := range 70 {
			for _, suffix := range []string{"", "-wal"} {
				w.write(t, fmt.Sprintf("tree/%03d.db%s", i, suffix), w.read(t, "tree/000.db"+suffix))
			}
		}
		snap := mustCreate(t, w.store(t, withSources(w.treeSource("tree"))))
		if state, _ := snap.Source("tree"); state.Files != 70 {
			t.Errorf("%d files, want 70 databases without sidecars", state.Files)
		}
		if got := w.queryCopy(t, snap, "tree/069.db", "SELECT x FROM t"); got != "checkpointed\nin the WAL" {
			t.Errorf("got %q, want both rows", got)
		}
	})
}

func TestDeepTreeIsCopied(t *testing.T) {
	eachKindOfFs(t, func(t *testing.T, w *world) {
		w.write(t, "tree/"+strings.Repeat("d/", 200)+"f", "f")
		w.exec(t, "tree/"+strings.Repeat("d/", 100)+"app.db", "CREATE TABLE t (x)")
		w.roundTrip(t, "tree")
	})
}

// A manifest that was written can be read again, whatever the paths.
func TestTreeWithEndlessPathsIsCopiedOrRefused(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	element := strings.Repeat("\x01", 250) // each of which takes six bytes in JSON
	w.write(t, "tree/"+strings.Repeat(element+"/", 48)+"f", "f")
	s := w.store(t, withSources(w.treeSource("tree")))
	if snap, err := s.Create(t.Context(), nil); err == nil {
		mustBeValid(t, s, snap.Stamp)
	}
}

func TestWideTreeIsCopied(t *testing.T) {
	eachKindOfFs(t, func(t *testing.T, w *world) {
		if _, ok := w.fs.(*afero.OsFs); ok && testing.Short() {
			t.Skip("syncing as many files takes a while")
		}
		for i := range 5000 {
			w.write(t, fmt.Sprintf("tree/%02d/%d", i%50, i), strconv.Itoa(i))
		}
		snap := mustCreate(t, w.store(t, withSources(w.treeSource("tree"))))
		if state, _ := snap.Source("tree"); state.Files != 5000 || state.Bytes != 18890 {
			t.Errorf("got %+v, want 5000 files of 18890 bytes", state)
		}
	})
}

func TestTreeOfOddNamesIsCopied(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no such names")
	}
	eachFs(t, func(t *testing.T, w *world) {
		for _, name := range append([]string{`back\slash`, "tab\t", " ", "bell\a", "nbsp\u00a0", "sep\u2028", `<&>"`, ".hidden", "~", "*"}, oddNames...) {
			w.write(t, "tree/"+name, name)
			w.write(t, "tree/in "+name+"/"+name, name)
		}
		for _, name := range []string{"manifest.jsonl", "backup-metadata.json", "tree", strings.Repeat("n", 255)} {
			w.write(t, "tree/"+name, name)
		}
		w.roundTrip(t, "tree")
	})
}

// Names that other systems take for one another, or for paths.
func TestTreeOfNamesThatOnlyLinuxHasIsCopied(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux takes any bytes for a name, and tells cases apart")
	}
	for name, names := range map[string][]string{
		"case":           {"README", "readme", "Dir/f", "dir/f"},
		"normal_forms":   {"\u00e9", "e\u0301"},
		"invalid_utf8":   {"\xff", "a\xfeb", "dir\xff/f", "\xff\xfe"},
		"windows":        {`a\b`, `..\x`, `C:\x`, "nul", "con.txt", "a.", "a "},
		"surrogate":      {"\xed\xa0\x80", "\xed\xa0\x81"},
		"case_of_no_utf": {"A\xff", "a\xff", "a\xfe"},
	} {
		t.Run(name, func(t *testing.T) {
			eachFs(t, func(t *testing.T, w *world) {
				for _, name := range names {
					w.write(t, "tree/"+name, name)
				}
				snap := w.roundTrip(t, "tree")
				types := w.types(t, snap.Stamp)
				for _, name := range names {
					if types["tree/"+name] != "file" {
						t.Errorf("%q is not in the manifest", name)
					}
				}
			})
		})
	}
}

// Problems are recorded for files of any name too.
func TestProblemWithANameThatIsNoTextIsRecorded(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux takes any bytes for a name")
	}
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "tree/a", "a")
		w.write(t, "tree/b\xff", "b")
		s := w.store(t, withSources(w.treeSource("tree")), atFirst(t, "tree", func() { w.remove(t, "tree/b\xff") }))
		snap, err := s.Create(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		report, err := s.Validate(t.Context(), snap.Stamp, nil)
		if err != nil || len(report.Problems) != 1 || report.Problems[0].Code != backup.CodeFileVanished {
			t.Errorf("got %v, %v, want file_vanished", report.Problems, err)
		}
	})
}

// The store may be reached through a link that New, which touches no file,
// cannot see through. A tree that has it would be copied into itself, for
// ever.
func TestTreeThatHoldsTheStoreThroughALinkIsNotCopiedIntoItself(t *testing.T) {
	eachNativeFs(t, func(t *testing.T, w *world) {
		w.write(t, "tree/a", "a")
		w.mkdir(t, "tree/backups")
		w.symlink(t, "tree", "link")
		ctx, cancel := context.WithCancel(t.Context())
		files := 0
		s := w.store(t, withSources(w.treeSource("tree")), func(cfg *backup.Config) {
			cfg.Dir = w.path("link/backups")
			cfg.Progress = func(backup.Progress) {
				if files++; files == 20 {
					cancel()
				}
			}
		})
		snap, err := s.Create(ctx, nil)
		if errors.Is(err, context.Canceled) {
			t.Errorf("there is no end to it")
		}
		if err == nil && snap.Files != 1 {
			t.Errorf("%d files, want the one that is not the store's", snap.Files)
		}
	})
}

// Metadata stay small, however much there is to note.
func TestManyProblemsAreAbridged(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	const n = 6000
	for i := range n {
		w.write(t, fmt.Sprintf("tree/%04d-%s", i, strings.Repeat("n", 150)), "short")
	}
	s := w.store(t, withSources(w.treeSource("tree")), atFirst(t, "tree", func() {
		for i := range n {
			if i > 0 {
				w.remove(t, fmt.Sprintf("tree/%04d-%s", i, strings.Repeat("n", 150)))
			}
		}
	}))
	snap, err := s.Create(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	last := snap.Problems[len(snap.Problems)-1]
	want := backup.Problem{Code: backup.CodeFileVanished, Detail: fmt.Sprintf("and %d more", n-1-(len(snap.Problems)-1))}
	if diff := cmp.Diff(last, want); diff != "" || len(snap.Problems) < 100 {
		t.Errorf("last of %d problems (-got +want):\n%s", len(snap.Problems), diff)
	}
	listed, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(listed, []backup.Snapshot{*snap}); diff != "" {
		t.Errorf("(-listed +created):\n%s", diff)
	}
}

// A tree may hold another store. Its snapshots would fail validation for as long
// as their databases were open, and for good if that was cut short.
func TestSnapshotsOfAnotherStoreAreCopiedAsTheyLie(t *testing.T) {
	memoryAndOs(t, func(t *testing.T, w *world) {
		w.exec(t, "srv/app.db", "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; CREATE TABLE t (x)")
		other := w.store(t, withSources(w.database("srv/app.db")), func(cfg *backup.Config) { cfg.Dir = w.path("srv/backups") })
		theirs := mustCreate(t, other)
		looks := 0
		s := w.store(t, withSources(w.treeSource("srv")), func(cfg *backup.Config) {
			cfg.Progress = func(backup.Progress) {
				looks++
				mustBeValid(t, other, theirs.Stamp)
			}
		})
		snap := mustCreate(t, s)
		if looks == 0 {
			t.Error("no progress")
		}
		types := w.types(t, snap.Stamp)
		got := []string{types["tree/app.db"], types["tree/backups/snapshots/"+theirs.Stamp+"/db/app.db"]}
		if diff := cmp.Diff(got, []string{"db", "file"}); diff != "" {
			t.Errorf("(-got +want):\n%s", diff)
		}
	})
}
