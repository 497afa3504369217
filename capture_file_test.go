package backup_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/afero"

	"github.com/atocore/backup"
)

func TestFileIsHashedAndRecorded(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "config/registry.json", "abc")
		w.attribute(t, "config/registry.json", 0o640, ancient)
		snap := mustCreate(t, w.store(t, withSources(w.file("config/registry.json"))))
		want := manifestLine{
			Path: "file/registry.json", Type: "file", Mode: "0640", MTime: ancient, Size: 3,
			SHA256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", // FIPS 180-2, B.1
		}
		if diff := cmp.Diff(want, w.manifest(t, snap.Stamp)["file/registry.json"]); diff != "" {
			t.Errorf("entry (-want +got):\n%s", diff)
		}
		state, _ := snap.Source("file")
		wantState := backup.SourceState{Name: "file", Kind: backup.File, Captured: true, Path: "file/registry.json", Files: 1, Bytes: 3}
		if diff := cmp.Diff(wantState, state); diff != "" {
			t.Errorf("state (-want +got):\n%s", diff)
		}
	})
}

func TestEmptyFileIsCopied(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "empty", "")
		snap := mustCreate(t, w.store(t, withSources(w.file("empty"))))
		if state, _ := snap.Source("file"); !state.Captured || state.Files != 1 || state.Bytes != 0 {
			t.Errorf("got %+v, want one file of no bytes", state)
		}
	})
}

// A source's path may be a symbolic link: it is the host's own word. What is
// copied has the name that the host uses.
func TestSymlinkedPathIsFollowed(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "real/registry-2.json", "abc")
		w.crash(t, "real/app-2.db", crashedWithWAL)
		w.write(t, "real/tree-2/f", "f")
		w.symlink(t, "../../real/registry-2.json", "links/two/registry.json")
		w.symlink(t, "two/registry.json", "links/registry.json")
		w.symlink(t, "../real/app-2.db", "links/app.db")
		w.symlink(t, "../real/tree-2", "links/tree")
		s := w.store(t, withSources(w.file("links/registry.json"), w.database("links/app.db"), w.treeSource("links/tree")))
		snap := mustCreate(t, s)
		want := map[string]string{
			"file": "dir", "file/registry.json": "file",
			"db": "dir", "db/app.db": "db",
			"tree": "dir", "tree/f": "file",
		}
		if diff := cmp.Diff(want, w.types(t, snap.Stamp)); diff != "" {
			t.Errorf("entries (-want +got):\n%s", diff)
		}
		state, _ := snap.Source("db")
		if got := w.queryCopy(t, snap, state.Path, "SELECT x FROM t"); got != "checkpointed\nin the WAL" {
			t.Errorf("got %q, want both rows", got)
		}
	})
}

// An absolute link is the operating system's, also below a BasePathFs, which
// follows it.
func TestAbsolutelySymlinkedPathIsFollowed(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "real/registry.json", "abc")
		w.symlink(t, w.nativePath("real/registry.json"), "links/registry.json")
		if got := w.read(t, "links/registry.json"); got != "abc" {
			t.Fatalf("the file system itself has %q", got)
		}
		mustCreate(t, w.store(t, withSources(w.file("links/registry.json"))))
	})
}

// Ways in which a file changes while it is copied, and what is to come of it.
var fileChanges = []struct {
	name     string
	change   func(t *testing.T, w *world, name string, n int) // the n-th time that a part of it was copied
	problems []string
	old, new bool // what the copy may be
	other    func(got string) bool
}{
	{
		name: "not_at_all", old: true,
		change: func(*testing.T, *world, string, int) {},
	},
	{
		name: "rewritten_once", new: true,
		change: func(t *testing.T, w *world, name string, n int) {
			if n == 1 {
				w.write(t, name, newContent)
			}
		},
	},
	{
		name: "rewritten_once_in_the_same_instant", new: true,
		change: func(t *testing.T, w *world, name string, n int) {
			if n != 1 {
				return
			}
			fi, err := w.fs.Stat(w.path(name))
			if err != nil {
				t.Fatal(err)
			}
			mtime := fi.ModTime()
			w.write(t, name, newContent)
			w.attribute(t, name, 0o644, mtime)
		},
	},
	{
		name: "replaced_once", old: true, new: true, // never torn: see rename(2)
		change: func(t *testing.T, w *world, name string, n int) {
			if n == 1 {
				w.replace(t, name, newContent)
			}
		},
	},
	{
		name: "truncated_once", new: true,
		change: func(t *testing.T, w *world, name string, n int) {
			if n == 1 {
				w.write(t, name, "")
				w.write(t, name, newContent)
			}
		},
	},
	{
		name: "touched_each_time", old: true,
		change: func(t *testing.T, w *world, name string, n int) {
			w.attribute(t, name, 0o644, ancient.Add(time.Duration(n)*time.Hour))
		},
	},
	{
		name: "grows_each_time", // as a log does
		other: func(got string) bool {
			more, ok := strings.CutPrefix(got, oldContent)
			return ok && more != "" && strings.ReplaceAll(more, "more", "") == ""
		},
		change: func(t *testing.T, w *world, name string, n int) {
			w.write(t, name, w.read(t, name)+"more")
		},
	},
	{
		// A record at the end, and what points to it, which was not read yet: both
		// are in the copy, or neither.
		name:  "grows_once_and_is_written_to",
		other: func(got string) bool { return got == grownContent },
		change: func(t *testing.T, w *world, name string, n int) {
			if n == 1 {
				w.write(t, name, grownContent)
			}
		},
	},
	{
		name: "rewritten_each_time", problems: []string{"file_changed"}, old: true, new: true,
		change: func(t *testing.T, w *world, name string, n int) {
			w.write(t, name, strings.Repeat(string(rune('a'+n)), len(newContent)))
		},
	},
	{
		name: "replaced_each_time", old: true, new: true, // as a registry is that is saved all the time
		change: func(t *testing.T, w *world, name string, n int) {
			w.replace(t, name, []string{oldContent, newContent}[n%2])
		},
	},
}

// Of more than one buffer, so that the copy could have parts of both.
var (
	oldContent = strings.Repeat("old\n", 600_000)
	newContent = strings.Repeat("new\n", 600_000)

	grownContent = oldContent[:len(oldContent)-4] + "at the end:\nmore"
)

func TestFileThatChangesUnderTheCopy(t *testing.T) {
	for _, test := range fileChanges {
		t.Run(test.name, func(t *testing.T) {
			eachKindOfFs(t, func(t *testing.T, w *world) {
				clones := w.clones(t)
				for _, source := range []backup.Source{w.file("live/f"), w.treeSource("live")} {
					w.write(t, "live/f", oldContent)
					n := 0
					s := w.store(t, withSources(source), onProgress(t, source.Name, func() {
						n++
						test.change(t, w, "live/f", n)
					}))
					snap, err := s.Create(t.Context(), nil)
					if err != nil {
						t.Fatal(err)
					}
					var want []string
					for _, code := range test.problems {
						want = append(want, code+" "+source.Name+"/f")
					}
					if clones {
						want = nil
					}
					if diff := cmp.Diff(want, problemsOf(snap)); diff != "" {
						t.Errorf("%s: problems (-want +got):\n%s", source.Name, diff)
					}
					if snap.Validated != (want == nil) {
						t.Errorf("%s: validated: %v", source.Name, snap.Validated)
					}
					got := w.read(t, "backups/snapshots/"+snap.Stamp+"/"+source.Name+"/f")
					if !(test.other != nil && test.other(got) || (test.old || clones) && got == oldContent || test.new && got == newContent || want != nil) {
						t.Errorf("%s: copy of %d bytes, beginning with %.8q and ending in %.8q", source.Name, len(got), got, got[max(0, len(got)-8):])
					}
				}
			})
		})
	}
}

// A file that goes to and fro between two contents may be read twice alike, and
// half and half each time.
func TestFileThatAlternatesUnderTheCopyIsNoted(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		contents := []string{strings.Repeat("a", 2<<20), strings.Repeat("b", 2<<20)} // two steps of a copy
		live := w.path("f")
		w.write(t, "f", contents[0])
		reads := 0
		s := w.store(t, withSources(w.file("f")), func(cfg *backup.Config) {
			cfg.Fs = &faultFs{Fs: w.fs, fail: func(op, path string) error {
				if op != "read" || path != live {
					return nil
				}
				reads++
				f, err := w.fs.OpenFile(live, os.O_WRONLY, 0)
				if err != nil {
					return err
				}
				_, err = f.WriteString(contents[reads%2])
				return errors.Join(err, f.Close())
			}}
		})
		snap, err := s.Create(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"file_changed file/f"}, problemsOf(snap)); diff != "" {
			t.Errorf("problems (-want +got):\n%s", diff)
		}
	})
}

// A file that gets another name while it is read, or loses its own, is not written
// to: only the time of its last change, ctime, is another then.
func TestFileThatIsLinkedAtEachReadingIsCopied(t *testing.T) {
	w := osWorld(t)
	w.write(t, "f", oldContent)
	live := w.path("f")
	s := w.store(t, withSources(w.file("f")), func(cfg *backup.Config) {
		cfg.Fs = &faultFs{Fs: w.fs, fail: func(op, path string) error {
			if op != "read" || path != live {
				return nil
			}
			if err := os.Link(live, live+".link"); err != nil {
				return err
			}
			return os.Remove(live + ".link")
		}}
	})
	snap, err := s.Create(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := problemsOf(snap); got != nil {
		t.Errorf("problems: %v", got)
	}
}

// The bar does not go backwards when a file is copied anew.
func TestProgressIsMonotoneWhenAFileIsCopiedAnew(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "f", oldContent)
		last, rewrite := int64(0), sync.OnceFunc(func() { w.write(t, "f", newContent) })
		s := w.store(t, withSources(w.file("f")), func(cfg *backup.Config) {
			cfg.Progress = func(p backup.Progress) {
				if p.Op != "create" {
					return
				}
				if p.Done < last {
					t.Errorf("from %d back to %d", last, p.Done)
				}
				last = p.Done
				rewrite()
			}
		})
		mustCreate(t, s)
	})
}

func TestFileSourceThatVanishesBeforeItsCopyIsNoted(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "f", "content")
		source := w.file("f")
		source.Optional = true
		source.Quiesce = func(context.Context) (func(), error) { w.remove(t, "f"); return nil, nil }
		snap, err := w.store(t, withSources(source)).Create(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"file_vanished file/f"}, problemsOf(snap)); diff != "" {
			t.Errorf("problems (-want +got):\n%s", diff)
		}
		if state, _ := snap.Source("file"); state.Captured || state.Path != "" {
			t.Errorf("captured, though it was not there: %+v", state)
		}
		if diff := cmp.Diff([]string{".", "backup-metadata.json", "manifest.jsonl"}, w.names(t, in(snap.Stamp, "."))); diff != "" {
			t.Errorf("in the snapshot (-want +got):\n%s", diff)
		}
	})
}

// A snapshot that says nothing of a file must not remove the live one.
func TestRestoreOfAFileThatVanishedLeavesTheLiveOne(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "f", "content")
		w.write(t, "g", "content")
		file := w.file("f")
		file.Quiesce = func(context.Context) (func(), error) { w.remove(t, "f"); return nil, nil }
		other := backup.Source{Name: "other", Kind: backup.File, Path: w.path("g")}
		s := w.store(t, withSources(file, other))
		snap, err := s.Create(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		w.write(t, "f", "back again")
		r, err := s.Restore(t.Context(), snap.Stamp, &backup.RestoreOptions{ConfirmServiceStopped: true, SkipSafetySnapshot: true, Accept: []backup.Code{backup.CodeFileVanished}})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"other"}, r.Restored); diff != "" {
			t.Errorf("restored (-want +got):\n%s", diff)
		}
		if got := w.read(t, "f"); got != "back again" {
			t.Errorf("the live file: %q", got)
		}
	})
}

// What is removed when all of it has been read is whole.
func TestFileSourceThatVanishesAfterItsCopyIsKept(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "f", "content")
		s := w.store(t, withSources(w.file("f")), atFirst(t, "file", func() { w.remove(t, "f") }))
		snap, err := s.Create(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := w.read(t, "backups/snapshots/"+snap.Stamp+"/file/f"); got != "content" {
			t.Errorf("copy: %q; problems: %v", got, problemsOf(snap))
		}
	})
}

// A hookFs calls a hook before a file is opened. To the library it is no
// file system of the operating system's, though its files are.
type hookFs struct {
	afero.Fs
	opening func(name string)
}

func (h hookFs) Name() string { return "hookFs" }

func (h hookFs) Open(name string) (afero.File, error) {
	h.opening(name)
	return h.Fs.Open(name)
}

func (h hookFs) OpenFile(name string, flag int, perm fs.FileMode) (afero.File, error) {
	h.opening(name)
	return h.Fs.OpenFile(name, flag, perm)
}

func (h hookFs) LstatIfPossible(name string) (fs.FileInfo, bool, error) {
	return h.Fs.(afero.Lstater).LstatIfPossible(name)
}

// A file that is replaced between a look at it and its opening is as good as
// one that was replaced before.
func TestFileThatIsReplacedBeforeItIsOpenedIsCopied(t *testing.T) {
	for n := 1; n <= 3; n++ { // a tree's files are opened for their headers too
		t.Run(fmt.Sprintf("opening_%d", n), func(t *testing.T) {
			w := osWorld(t)
			for _, source := range []backup.Source{w.file("live/f"), w.treeSource("live")} {
				w.write(t, "live/f", oldContent)
				opened := 0
				hooked := &world{root: w.root, now: w.now}
				hooked.fs = hookFs{w.fs, func(name string) {
					if name != w.path("live/f") {
						return
					}
					if opened++; opened == n {
						w.replace(t, "live/f", newContent)
					}
				}}
				snap := mustCreate(t, hooked.store(t, withSources(source)))
				want := newContent
				if opened < n {
					want = oldContent
				}
				if got := w.read(t, "backups/snapshots/"+snap.Stamp+"/"+source.Name+"/f"); got != want {
					t.Errorf("%s: copy of %d bytes, beginning with %.8q", source.Name, len(got), got)
				}
				w.remove(t, "backups")
			}
		})
	}
}

func TestSourceOfTheWrongKindIsRefused(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "dir/f", "f")
		for _, source := range []backup.Source{w.database("dir"), w.file("dir"), w.treeSource("dir/f")} {
			_, err := w.store(t, withSources(source)).Create(t.Context(), nil)
			if err == nil || !strings.Contains(err.Error(), strconv.Quote(source.Name)) || !strings.Contains(err.Error(), "dir") {
				t.Errorf("%s: got %v, want an error that names source and path", source.Kind, err)
			}
			w.mustHaveNoSnapshots(t)
		}
	})
}

// An error names the path that is configured, also if what it is about has a
// name that begins like it.
func TestDanglingLinkIsNamed(t *testing.T) {
	eachNativeFs(t, func(t *testing.T, w *world) {
		w.symlink(t, "file.missing", "file")
		_, err := w.store(t, withSources(w.file("file"))).Create(t.Context(), nil)
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), w.path("file")+": ") {
			t.Errorf("got %v", err)
		}
	})
}

// A file that is copied without its WAL is no backup of a database.
func TestDatabaseAsAFileIsRefused(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.seed(t)
		source := backup.Source{Name: "db", Kind: backup.File, Path: w.path("data/atocore.db"), Optional: true}
		_, err := w.store(t, withSources(source)).Create(t.Context(), nil)
		if err == nil || !strings.Contains(err.Error(), "atocore.db") || !strings.Contains(err.Error(), `kind "database"`) {
			t.Errorf("got %v", err)
		}
		w.mustHaveNoSnapshots(t)
	})
}

// What has become a database since is no reason not to go back.
func TestDatabaseAsAFileIsTakenIntoASafetySnapshot(t *testing.T) {
	eachFs(t, func(t *testing.T, w *world) {
		w.write(t, "f", "text")
		s := w.store(t, withSources(w.file("f")))
		stamp := mustCreate(t, s).Stamp
		w.remove(t, "f")
		w.exec(t, "f", "CREATE TABLE t (x)")
		r := w.restore(t, s, stamp)
		if got := w.read(t, "f"); got != "text" {
			t.Errorf("restored %.20q", got)
		}
		w.restore(t, s, r.SafetyStamp)
		if got := w.query(t, "f", "SELECT name FROM sqlite_schema"); got != "t" {
			t.Errorf("after undo: %q", got)
		}
	})
}

// A coarseFs keeps times by two seconds, as FAT does, and has directories of
// another clock.
type coarseFs struct {
	afero.Fs
	dir   string
	ahead time.Duration
}

func (c coarseFs) OpenFile(name string, flag int, perm fs.FileMode) (afero.File, error) {
	f, err := c.Fs.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return coarseFile{f, c}, nil
}

func (c coarseFs) Stat(name string) (fs.FileInfo, error) {
	fi, err := c.Fs.Stat(name)
	if err != nil {
		return nil, err
	}
	return c.info(name, fi), nil
}

func (c coarseFs) info(name string, fi fs.FileInfo) fs.FileInfo {
	mtime := fi.ModTime().Truncate(2 * time.Second)
	if strings.HasPrefix(name, c.dir) {
		mtime = mtime.Add(c.ahead)
	}
	return coarseInfo{fi, mtime}
}

type coarseFile struct {
	afero.File
	fs coarseFs
}

func (f coarseFile) Stat() (fs.FileInfo, error) {
	fi, err := f.File.Stat()
	if err != nil {
		return nil, err
	}
	return f.fs.info(f.Name(), fi), nil
}

type coarseInfo struct {
	fs.FileInfo
	mtime time.Time
}

func (i coarseInfo) ModTime() time.Time { return i.mtime }

// What is written within one tick of the clock leaves the times as they were.
func TestFileThatIsWrittenWithinATickIsNotTorn(t *testing.T) {
	for _, ahead := range []time.Duration{-time.Hour, 0, time.Hour} {
		t.Run(ahead.String(), func(t *testing.T) {
			w := newWorld(t, afero.NewMemMapFs(), "/srv")
			w.fs = coarseFs{w.fs, w.path("backups"), ahead}
			contents := []string{strings.Repeat("old ", 1<<20), strings.Repeat("new ", 1<<20)}
			w.write(t, "live/f", contents[0])
			written := 0
			source := w.treeSource("live")
			snap := mustCreate(t, w.store(t, withSources(source), atFirst(t, source.Name, func() {
				written++
				w.write(t, "live/f", contents[1])
			})))
			got := w.read(t, "backups/snapshots/"+snap.Stamp+"/"+source.Name+"/f")
			if written != 1 || !slices.Contains(contents, got) {
				t.Errorf("torn: it begins with %.8q and ends with %q", got, got[len(got)-8:])
			}
		})
	}
}

// Who writes a file anew may remove it first: for a moment there is none.
func TestFileThatIsGoneForAMomentIsCopied(t *testing.T) {
	const looks = 10 // at least as many as there are
	for n := 1; n <= looks; n++ {
		t.Run(fmt.Sprintf("look_%d", n), func(t *testing.T) {
			eachFs(t, func(t *testing.T, w *world) {
				registry := w.file("live/f")
				registry.Optional = true
				for _, source := range []backup.Source{registry, w.treeSource("live")} {
					w.write(t, "live/f", "content")
					looked := 0
					faulty := &world{root: w.root, now: w.now}
					faulty.fs = &faultFs{Fs: w.fs, fail: func(op, path string) error {
						if path != w.path("live/f") || op != "stat" && op != "open" {
							return nil
						}
						if looked++; looked == n || looked == n+1 {
							return fs.ErrNotExist
						}
						return nil
					}}
					snap := mustCreate(t, faulty.store(t, withSources(source)))
					if got := w.read(t, "backups/snapshots/"+snap.Stamp+"/"+source.Name+"/f"); got != "content" {
						t.Errorf("%s: copy: %q", source.Name, got)
					}
					if looked > looks+2 {
						t.Errorf("%s: %d looks: more are to be tried", source.Name, looked)
					}
					w.remove(t, "backups")
				}
			})
		})
	}
}

// Files that are removed by the thousand do not come back, and are not waited for
// one by one.
func TestManyFilesThatAreGoneAreNotWaitedFor(t *testing.T) {
	w := newWorld(t, afero.NewMemMapFs(), "/srv")
	const files = 1000
	for i := range files {
		w.write(t, fmt.Sprintf("tree/%04d", i), "content")
	}
	s := w.store(t, withSources(w.treeSource("tree")), func(cfg *backup.Config) {
		cfg.Fs = &faultFs{Fs: w.fs, fail: func(op, path string) error {
			if op == "open" && strings.HasPrefix(path, w.path("tree/0")) {
				return fs.ErrNotExist
			}
			return nil
		}}
	})
	ctx := &waiting{Context: t.Context()}
	snap, err := s.Create(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(problemsOf(snap)); n != files {
		t.Errorf("%d problems, want %d", n, files)
	}
	if n := ctx.waits.Load(); n > 300 { // 200 of 5 ms make the second that is spent on all of them
		t.Errorf("waited %d times", n)
	}
}
