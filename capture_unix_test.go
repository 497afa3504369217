//go:build unix

package backup_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ncruces/go-sqlite3"
	"github.com/spf13/afero"

	"github.com/atocore/backup"
)

// What Unix has beside files, directories and links.

func (w *world) fifo(t *testing.T, name string) {
	t.Helper()
	w.mkdir(t, filepath.Dir(name))
	if err := syscall.Mkfifo(w.nativePath(name), 0o600); err != nil {
		t.Fatal(err)
	}
}

// socket makes a socket that nobody listens to.
func (w *world) socket(t *testing.T, name string) {
	t.Helper()
	short, err := os.MkdirTemp("", "s") // a socket's path has 108 bytes at most: see unix(7)
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(short)
	l, err := net.Listen("unix", filepath.Join(short, "s"))
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	w.mkdir(t, filepath.Dir(name))
	if err := os.Rename(filepath.Join(short, "s"), w.nativePath(name)); err != nil {
		t.Skipf("sockets cannot be moved here: %v", err)
	}
}

// device makes a null device, if we may.
func (w *world) device(t *testing.T, name string) bool {
	t.Helper()
	w.mkdir(t, filepath.Dir(name))
	return exec.Command("mknod", w.nativePath(name), "c", "1", "3").Run() == nil
}

// unblocked runs fn, which must not wait for the other end of pipes. If it
// does, that end is opened, and the test fails.
func unblocked(t *testing.T, fn func(), fifos ...string) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	select {
	case <-done:
		return
	case <-time.After(10 * time.Second):
		t.Error("blocked by a pipe")
	}
	for _, fifo := range fifos {
		if f, err := os.OpenFile(fifo, os.O_RDWR|syscall.O_NONBLOCK, 0); err == nil {
			defer f.Close()
			io.WriteString(f, strings.Repeat("x", 1000))
		}
	}
	<-done
}

func TestWhatIsNoFileIsSkippedAndListed(t *testing.T) {
	eachNativeFs(t, func(t *testing.T, w *world) {
		w.write(t, "tree/a", "a")
		w.write(t, "tree/z", "z")
		w.fifo(t, "tree/d/pipe")
		w.fifo(t, "tree/x.db")
		w.socket(t, "tree/socket")
		want := []string{"d/pipe", "socket", "x.db"}
		if w.device(t, "tree/null") {
			want = []string{"d/pipe", "null", "socket", "x.db"}
		}
		s := w.store(t, withSources(w.treeSource("tree")))
		unblocked(t, func() {
			snap := mustCreate(t, s)
			state, _ := snap.Source("tree")
			if diff := cmp.Diff(want, state.Skipped); diff != "" {
				t.Errorf("skipped (-want +got):\n%s", diff)
			}
			types := map[string]string{"tree": "dir", "tree/a": "file", "tree/d": "dir", "tree/z": "file"}
			if diff := cmp.Diff(types, w.types(t, snap.Stamp)); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
			list, err := s.List(t.Context())
			if err != nil || cmp.Diff(snap.Sources, list[0].Sources) != "" {
				t.Errorf("listed: %+v, %v", list, err)
			}
		}, w.nativePath("tree/d/pipe"), w.nativePath("tree/x.db"))
	})
}

func TestSkippedNameThatIsNoTextIsListed(t *testing.T) {
	w := osWorld(t)
	w.mkdir(t, "tree")
	if err := syscall.Mkfifo(w.path("tree/\xff"), 0o600); err != nil {
		t.Skipf("no such names here: %v", err)
	}
	mustCreate(t, w.store(t, withSources(w.treeSource("tree"))))
}

func TestSourceThatIsNoFileIsRefused(t *testing.T) {
	w := osWorld(t)
	w.fifo(t, "pipe")
	w.socket(t, "socket")
	for _, path := range []string{w.path("pipe"), w.path("socket"), os.DevNull} {
		for _, kind := range []backup.Kind{backup.Database, backup.File, backup.Tree} {
			s := w.store(t, withSources(backup.Source{Name: "x", Kind: kind, Path: path}))
			unblocked(t, func() {
				if _, err := s.Create(t.Context(), nil); err == nil || !strings.Contains(err.Error(), path) {
					t.Errorf("%s %s: got %v, want an error that names it", kind, path, err)
				}
			}, path)
			w.mustHaveNoSnapshots(t)
		}
	}
}

// A pipe in the place of a database's sidecar is opened by SQLite.
func TestPipeInThePlaceOfASidecarDoesNotBlock(t *testing.T) {
	for _, mode := range []string{"wal", "delete"} {
		for _, suffix := range []string{"-wal", "-shm", "-journal"} {
			for _, kind := range []backup.Kind{backup.Tree, backup.Database} {
				t.Run(mode+suffix+"_"+string(kind), func(t *testing.T) {
					w := osWorld(t)
					w.bookkeeping(t, "tree/app.db", mode, 1)
					w.fifo(t, "tree/app.db"+suffix)
					source := w.treeSource("tree")
					if kind == backup.Database {
						source = w.database("tree/app.db")
					}
					unblocked(t, func() {
						snap, err := w.store(t, withSources(source)).Create(t.Context(), nil)
						if err != nil && kind == backup.Tree {
							t.Errorf("the rest is not copied: %v", err)
						}
						if err == nil {
							mustBeWhole(t, w, snap)
						}
					}, w.path("tree/app.db"+suffix))
				})
			}
		}
	}
}

// mustBeWhole fails if a copy that is said to be good is not.
func mustBeWhole(t *testing.T, w *world, snap *backup.Snapshot) {
	t.Helper()
	for name, line := range w.manifest(t, snap.Stamp) {
		if line.Type == "db" {
			if got := w.queryCopy(t, snap, name, bookBalance); got != "0" {
				t.Errorf("%s: debits less credits are %s", name, got)
			}
		}
	}
}

// A pipe that takes a file's place while the tree is copied is not waited
// for either.
func TestPipeThatIsSwappedInDoesNotBlock(t *testing.T) {
	w := osWorld(t)
	w.write(t, "tree/a", "a")
	w.write(t, "tree/b", strings.Repeat("b", 1000))
	s := w.store(t, withSources(w.treeSource("tree")), atFirst(t, "tree", func() {
		w.remove(t, "tree/b")
		w.fifo(t, "tree/b")
	}))
	unblocked(t, func() {
		if _, err := s.Create(t.Context(), nil); err != nil {
			t.Errorf("the rest is not copied: %v", err)
		}
	}, w.path("tree/b"))
}

// Links, pipes and directories that take the places of each other while a tree
// is copied on all cores neither block that nor lead out of the tree.
func TestWhatIsSwappedInIsNotFollowed(t *testing.T) {
	const dirs, files = 7, 40
	const inside, outside = "of the tree", "of somebody else"
	w := osWorld(t)
	for i := range dirs * files {
		w.write(t, fmt.Sprintf("tree/%d/%d", i%dirs, i), inside)
		w.write(t, fmt.Sprintf("outside/%d", i), outside)
	}
	swap := func(n int) error {
		i := n * 31 % (dirs * files)
		dir, temp := w.path(fmt.Sprintf("tree/%d", i%dirs)), w.path("temp")
		file := filepath.Join(dir, fmt.Sprint(i))
		switch n % 4 {
		case 0:
			return errors.Join(os.Symlink(w.path(fmt.Sprintf("outside/%d", i)), temp), os.Rename(temp, file))
		case 1:
			return errors.Join(syscall.Mkfifo(temp, 0o600), os.Rename(temp, file))
		case 2:
			return errors.Join(os.WriteFile(temp, []byte(inside), 0o600), os.Rename(temp, file))
		}
		return errors.Join(os.Rename(dir, temp), os.Symlink(w.path("outside"), dir), os.Remove(dir), os.Rename(temp, dir))
	}
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for n := 0; ctx.Err() == nil; n++ {
			if err := swap(n); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	defer func() { stop(); <-stopped }()
	onCores(t, func(t *testing.T) {
		s := w.store(t, withSources(w.treeSource("tree")))
		for range 5 {
			snap, err := s.Create(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			for path, line := range w.manifest(t, snap.Stamp) {
				if line.Type != "file" {
					continue
				}
				if got := w.read(t, in(snap.Stamp, path)); got != inside {
					t.Fatalf("%s: %q", path, got)
				}
			}
		}
	})
}

const (
	strangerEnv = "BACKUP_TEST_STRANGER"
	strangerID  = 65534 // his uid and gid
)

// asStranger runs one test of this binary as a user who is not root, or
// skips.
func asStranger(t *testing.T, test string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("it is run as another user by root, and by itself otherwise")
	}
	dir, err := os.MkdirTemp("", "stranger") // t.TempDir is for the owner alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cmd := rerun(t, test, strangerEnv+"=1", "TMPDIR="+dir)
	binary, err := os.ReadFile(cmd.Path)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Path = filepath.Join(dir, "test")
	if err := errors.Join(os.WriteFile(cmd.Path, binary, 0o755), os.Chmod(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: strangerID, Gid: strangerID}}
	cmd.Stderr = nil
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestUnreadableSourcesAreNamedToAStranger(t *testing.T) {
	asStranger(t, "TestUnreadableSourcesAreNamed")
}

func TestUnreadableSourcesAreNamed(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may read everything")
	}
	for _, name := range []string{"tree/locked", "tree/locked.db", "tree/dir", "file", "app.db"} {
		t.Run(filepath.Base(name), func(t *testing.T) {
			w := osWorld(t)
			w.write(t, "tree/locked", strings.Repeat("l", 1000))
			w.write(t, "tree/dir/f", "f")
			w.exec(t, "tree/locked.db", "CREATE TABLE t (x)")
			w.exec(t, "app.db", "CREATE TABLE t (x)")
			w.write(t, "file", "f")
			if err := os.Chmod(w.path(name), 0); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Chmod(w.path(name), 0o700) })
			s := w.store(t, withSources(w.treeSource("tree"), w.file("file"), w.database("app.db")))
			snap, err := s.Create(t.Context(), nil)
			if snap != nil || err == nil || !strings.Contains(err.Error(), w.path(name)) {
				t.Errorf("got %v, %v, want an error that names %s", snap, err, name)
			}
			if !errors.Is(err, fs.ErrPermission) {
				t.Errorf("got %v, want fs.ErrPermission", err)
			}
			w.mustHaveNoSnapshots(t)
		})
	}
}

func TestRestoreKeepsWhatAStrangerMayNotRead(t *testing.T) {
	asStranger(t, "TestRestoreKeepsWhatMayNotBeRead")
}

// The safety snapshot would lack it, and nothing else would have it.
func TestRestoreKeepsWhatMayNotBeRead(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may read everything")
	}
	for _, name := range []string{"tree/locked", "tree/locked.db", "tree/dir", "file", "app.db"} {
		t.Run(filepath.Base(name), func(t *testing.T) {
			w := osWorld(t)
			w.write(t, "tree/locked", strings.Repeat("l", 1000))
			w.write(t, "tree/dir/f", "f")
			w.exec(t, "tree/locked.db", "CREATE TABLE t (x)")
			w.exec(t, "app.db", "CREATE TABLE t (x)")
			w.write(t, "file", "f")
			s := w.store(t, withSources(w.treeSource("tree"), w.file("file"), w.database("app.db")))
			stamp := mustCreate(t, s).Stamp
			before, err := os.Lstat(w.path(name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(w.path(name), 0); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Chmod(w.path(name), 0o700) })
			w.mustNotRestoreUnread(t, s, stamp, name)
			if after, err := os.Lstat(w.path(name)); err != nil || !os.SameFile(before, after) {
				t.Errorf("%s was replaced: %v", name, err)
			}
		})
	}
}

func TestReadOnlyDatabaseIsCopiedForAStranger(t *testing.T) {
	asStranger(t, "TestReadOnlyDatabaseIsCopied")
}

// A backup may be taken by a user who can only read what it is of.
func TestReadOnlyDatabaseIsCopied(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may write everything")
	}
	for _, mode := range []string{"delete", "wal"} {
		for _, dirMode := range []fs.FileMode{0o755, 0o555} {
			t.Run(fmt.Sprintf("%s_%o", mode, dirMode), func(t *testing.T) {
				w := osWorld(t)
				w.bookkeeping(t, "data/app.db", mode, 1)
				w.exec(t, "data/app.db", bookEntry)
				w.attribute(t, "data/app.db", 0o444, ancient)
				w.attribute(t, "data", dirMode, ancient)
				t.Cleanup(func() { os.Chmod(w.path("data"), 0o755) })
				w.mustCopyOrName(t, "data/app.db", mode == "delete" || dirMode == 0o755)
			})
		}
	}
}

// mustCopyOrName fails unless a database with one book entry is copied or,
// unless it must be, refused with its name. (The driver cannot read a
// database in WAL mode where it may not write to the WAL and its index.)
func (w *world) mustCopyOrName(t *testing.T, name string, must bool) {
	t.Helper()
	s := w.store(t, withSources(w.database(name)))
	if _, err := s.Create(t.Context(), nil); err != nil && !must {
		if !strings.Contains(err.Error(), w.path(name)) {
			t.Errorf("got %v, want %s in it", err, w.path(name))
		}
		w.mustHaveNoSnapshots(t)
		return
	}
	if got := w.queryCopy(t, mustCreate(t, s), "db/app.db", bookCount); got != "1" {
		t.Errorf("%s rows, want the one that there is", got)
	}
}

// The modes of a tree are kept, be they ones that lock us out, and the copy
// can be read by its owner.
func TestTreeOfLockedFilesIsCopied(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root may read such files")
	}
	w := osWorld(t)
	w.write(t, "tree/d/none", "n")
	w.exec(t, "tree/app.db", "CREATE TABLE t (x)")
	w.attribute(t, "tree/d/none", 0, ancient)
	w.attribute(t, "tree/app.db", 0, ancient)
	w.attribute(t, "tree/d", 0, ancient)
	snap := w.roundTrip(t, "tree")
	lines := w.manifest(t, snap.Stamp)
	for name, want := range map[string]fs.FileMode{"tree/d/none": 0o600, "tree/app.db": 0o600, "tree/d": 0o700} {
		if lines[name].Mode != "0000" {
			t.Errorf("%s: recorded as of mode %s", name, lines[name].Mode)
		}
		fi, err := os.Stat(w.snapshot(snap.Stamp, name))
		if err != nil || fi.Mode().Perm() != want {
			t.Errorf("the copy of %s is of mode %v, %v, want %v", name, fi.Mode(), err, want)
		}
	}
}

func TestPermissionsDoNotDependOnTheUmask(t *testing.T) {
	for _, mask := range []int{0, 0o022, 0o077} {
		t.Run(fmt.Sprintf("%03o", mask), func(t *testing.T) {
			w := osWorld(t)
			w.seed(t)
			defer syscall.Umask(syscall.Umask(mask))
			snap := w.create(t, w.store(t))
			tree := w.tree(t, "backups")
			for name, want := range map[string]string{
				".": "-rwx------", "lock": "-rw-------", "snapshots": "-rwx------",
				"": "-rwx------", "backup-metadata.json": "-rw-------", "manifest.jsonl": "-rw-------",
				"db": "-rwx------", "db/atocore.db": "-rw-------", "config/project-registry.json": "-rw-------",
				"chroma": "-rwxr-xr-x", "chroma/collection-a/data.bin": "-rw-r--r--", // as in the source
			} {
				if name != "." && name != "lock" && name != "snapshots" {
					name = filepath.Join("snapshots", snap.Stamp, name)
				}
				if got, _, _ := strings.Cut(tree[name], " "); got != want {
					t.Errorf("%s has permissions %s, want %s", name, got, want)
				}
			}
		})
	}
}

// mount mounts something on a directory, or skips the test.
func mount(t testing.TB, dir string, args ...string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root may mount file systems")
	}
	if out, err := exec.Command("mount", append(args, dir)...).CombinedOutput(); err != nil {
		t.Skipf("cannot mount here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
			_ = exec.Command("umount", "-l", dir).Run() // leave nothing behind
		}
	})
}

func TestFullDiskLeavesTheStoreAsItWas(t *testing.T) {
	for _, test := range []struct {
		name string
		fill func(t *testing.T, w *world)
		want error
	}{
		{"known", func(t *testing.T, w *world) {
			w.write(t, "tree/large", strings.Repeat("x", 6<<20))
		}, backup.ErrNoSpace},
		{"known_of_a_database", func(t *testing.T, w *world) {
			w.bookkeeping(t, "data/atocore.db", "wal", 6)
		}, backup.ErrNoSpace},
		{"not_known", func(t *testing.T, w *world) {
			for i := range 1500 { // each takes a page
				w.write(t, fmt.Sprintf("tree/%d", i), "x")
			}
		}, syscall.ENOSPC},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := osWorld(t)
			w.seed(t)
			w.mkdir(t, "tree")
			w.mkdir(t, "backups")
			mount(t, w.path("backups"), "-t", "tmpfs", "-o", "size=4m", "tmpfs")
			s := w.store(t, func(cfg *backup.Config) { cfg.Sources = append(cfg.Sources, w.treeSource("tree")) })
			mustCreate(t, s)
			test.fill(t, w)
			store := w.mustStay(t, "backups")
			snap, err := s.Create(t.Context(), nil)
			if snap != nil || !errors.Is(err, test.want) {
				t.Errorf("got %v, %v, want %v", snap, err, test.want)
			}
			store("a full disk")
		})
	}
}

func TestReadOnlyMountLeavesTheStoreAsItWas(t *testing.T) {
	for _, exists := range []bool{true, false} {
		t.Run(fmt.Sprintf("exists_%v", exists), func(t *testing.T) {
			w := osWorld(t)
			w.seed(t)
			w.mkdir(t, "disk")
			inDisk := func(cfg *backup.Config) { cfg.Dir = w.path("disk/backups") }
			if exists {
				mustCreate(t, w.store(t, inDisk))
			}
			store := w.mustStay(t, "disk")
			mount(t, w.path("disk"), "--bind", w.path("disk"))
			if out, err := exec.Command("mount", "-o", "remount,ro,bind", w.path("disk")).CombinedOutput(); err != nil {
				t.Skipf("cannot mount read-only: %v: %s", err, out)
			}
			snap, err := w.store(t, inDisk).Create(t.Context(), include)
			if snap != nil || !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), w.path("disk/backups")) {
				t.Errorf("got %v, %v, want EROFS and the directory's name", snap, err)
			}
			store("read-only")
		})
	}
}

// A service's data may be mounted read-only for the backup.
func TestDatabaseOnAReadOnlyMountIsCopied(t *testing.T) {
	for _, mode := range []string{"delete", "wal"} {
		t.Run(mode, func(t *testing.T) {
			w := osWorld(t)
			w.bookkeeping(t, "data/app.db", mode, 1)
			w.exec(t, "data/app.db", bookEntry)
			mount(t, w.path("data"), "--bind", w.path("data"))
			if out, err := exec.Command("mount", "-o", "remount,ro,bind", w.path("data")).CombinedOutput(); err != nil {
				t.Skipf("cannot mount read-only: %v: %s", err, out)
			}
			w.mustCopyOrName(t, "data/app.db", mode == "delete")
		})
	}
}

// The store may lie in a tree by another name, that of a bind mount. To copy
// that would have no end, and to replace it would be the end of the store.
func TestTreeThatHoldsTheStoreThroughAMountLeavesItAlone(t *testing.T) {
	for _, tc := range []struct{ name, mounted string }{
		{"dir", "disk/d/backups"},
		{"snapshots", "disk/d/backups/snapshots"},
		{"what_it_lies_in", "disk/d"},
		{"two_above", "disk"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := osWorld(t)
			w.write(t, "tree/a", "a")
			w.mkdir(t, "tree/m")
			w.mkdir(t, "disk/d/backups/snapshots")
			mount(t, w.path("tree/m"), "--bind", w.path(tc.mounted))
			ctx, cancel := context.WithCancel(t.Context())
			files := 0
			s := w.store(t, withSources(w.treeSource("tree")), func(cfg *backup.Config) {
				cfg.Dir = w.path("disk/d/backups")
				cfg.Progress = func(backup.Progress) {
					if files++; files == 40 {
						cancel()
					}
				}
			})
			var first string
			for range 2 {
				snap, err := s.Create(ctx, nil)
				if err != nil {
					t.Fatal(err)
				}
				if snap.Files != 1 {
					t.Errorf("%d files, want the one that is not the store's", snap.Files)
				}
				first = snap.Stamp
			}
			files = 100
			r, err := s.Restore(ctx, first, &backup.RestoreOptions{ConfirmServiceStopped: true, SkipSafetySnapshot: true})
			if r != nil || err == nil || !strings.Contains(err.Error(), "the store itself") {
				t.Errorf("got %+v, %v, want a refusal", r, err)
			}
			if listed, err := s.List(t.Context()); err != nil || len(listed) != 2 || w.exists(t, "disk/d/backups/restore-journal.json") {
				t.Errorf("the store has %+v, %v", listed, err)
			}
		})
	}
}

// A tree may be the store by another name: that of a link.
func TestTreeThatIsTheStoreIsRefused(t *testing.T) {
	for _, name := range []string{"backups", "backups/snapshots"} {
		w := osWorld(t)
		w.mkdir(t, "backups/snapshots")
		w.symlink(t, name, "tree")
		snap, err := w.store(t, withSources(w.treeSource("tree"))).Create(t.Context(), nil)
		if snap != nil || err == nil || !strings.Contains(err.Error(), "the store itself") {
			t.Errorf("%s: got %+v, %v, want a refusal", name, snap, err)
		}
	}
}

// A service may run where a backup of it can only read: in another container,
// say, that has its data mounted read-only.
func TestDatabaseOfARunningServiceOnAReadOnlyMountIsCopied(t *testing.T) {
	w := osWorld(t)
	w.bookkeeping(t, "data/app.db", "wal", 1)
	w.mkdir(t, "view")
	mount(t, w.path("view"), "--bind", w.path("data"))
	if out, err := exec.Command("mount", "-o", "remount,ro,bind", w.path("view")).CombinedOutput(); err != nil {
		t.Skipf("cannot mount read-only: %v: %s", err, out)
	}
	service := w.connect(t, "data/app.db")
	mustExec(t, service, bookEntry)
	w.mustCopyOrName(t, "view/app.db", false)
	mustExec(t, service, bookEntry)
}

// A path may be longer than one call to the system takes.
func TestTreeWithPathsBeyondPathMaxIsCopied(t *testing.T) {
	w := osWorld(t)
	w.mkdir(t, "tree")
	root, err := os.OpenRoot(w.path("tree"))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	long := strings.Repeat(strings.Repeat("d", 250)+"/", 20)
	if err := root.MkdirAll(long, 0o755); err != nil {
		t.Skipf("no such paths here: %v", err)
	}
	if err := root.WriteFile(long+"f", []byte("f"), 0o644); err != nil {
		t.Fatal(err)
	}
	mustCreate(t, w.store(t, withSources(w.treeSource("tree"))))
}

// A file that is replaced is whole at any instant, and so is its copy.
func TestFileThatIsReplacedAllTheTimeIsCopied(t *testing.T) {
	w := osWorld(t)
	contents := []string{oldContent[:4000], newContent[:4000]}
	w.write(t, "live/f", contents[0])
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		temp := w.path("temp")
		for i := 0; ctx.Err() == nil; i++ {
			if err := errors.Join(os.WriteFile(temp, []byte(contents[i%2]), 0o644), os.Rename(temp, w.path("live/f"))); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	defer func() { stop(); <-stopped }()
	for _, source := range []backup.Source{w.file("live/f"), w.treeSource("live")} {
		s := w.store(t, withSources(source))
		for range 20 {
			snap := mustCreate(t, s)
			got := w.read(t, "backups/snapshots/"+snap.Stamp+"/"+source.Name+"/f")
			if !slices.Contains(contents, got) {
				t.Fatalf("%s: %d bytes, beginning with %.8q", source.Name, len(got), got)
			}
		}
	}
}

// A file may be rewritten in place and look as old as before: rsync --inplace
// --times does that.
func TestFileWhoseTimeIsSetBackIsNotTorn(t *testing.T) {
	w := osWorld(t)
	contents := []string{strings.Repeat("old ", 1<<20), strings.Repeat("new ", 1<<20)}
	w.write(t, "live/f", contents[0])
	w.attribute(t, "live/f", 0o644, ancient)
	for _, source := range []backup.Source{w.file("live/f"), w.treeSource("live")} {
		written := 0
		snap := mustCreate(t, w.store(t, withSources(source), atFirst(t, source.Name, func() {
			written++
			f, err := os.OpenFile(w.path("live/f"), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteString(contents[1]); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(f.Close(), os.Chtimes(w.path("live/f"), ancient, ancient)); err != nil {
				t.Fatal(err)
			}
		})))
		got := w.read(t, "backups/snapshots/"+snap.Stamp+"/"+source.Name+"/f")
		if written != 1 || !slices.Contains(contents, got) {
			t.Errorf("%s: torn: it begins with %.8q and ends with %q", source.Name, got, got[len(got)-8:])
		}
		w.write(t, "live/f", contents[0])
		w.attribute(t, "live/f", 0o644, ancient)
	}
}

func TestManySkippedFilesAreAbridged(t *testing.T) {
	w := osWorld(t)
	w.mkdir(t, "tree")
	const n = 2000
	for i := range n {
		w.fifo(t, fmt.Sprintf("tree/%04d-%s", i, strings.Repeat("n", 150)))
	}
	snap := mustCreate(t, w.store(t, withSources(w.treeSource("tree"))))
	src, _ := snap.Source("tree")
	if len(src.Skipped) < 100 || src.SkippedMore == 0 || len(src.Skipped)+src.SkippedMore != n {
		t.Errorf("%d listed and %d more, want %d in all", len(src.Skipped), src.SkippedMore, n)
	}
}

// What SQLite makes beside a database while we read it is for those whom the
// database is for.
func TestSidecarsHaveTheModeOfTheDatabase(t *testing.T) {
	for _, perm := range []fs.FileMode{0o600, 0o660, 0o644} {
		w := osWorld(t)
		w.seed(t)
		if err := os.Chmod(w.path("data/atocore.db"), perm); err != nil {
			t.Fatal(err)
		}
		seen := 0
		mustCreate(t, w.store(t, atFirst(t, "db", func() {
			for _, suffix := range []string{"-wal", "-shm"} {
				fi, err := os.Stat(w.path("data/atocore.db" + suffix))
				if err != nil {
					t.Fatal(err)
				}
				if fi.Mode().Perm() != perm {
					t.Errorf("%s has mode %v, the database %v", suffix, fi.Mode().Perm(), perm)
				}
				seen++
			}
		})))
		if seen != 2 || w.exists(t, "data/atocore.db-wal") {
			t.Errorf("%d sidecars seen; left: %v", seen, w.names(t, "data"))
		}
	}
}

// Two backups at once leave none of their own either: the WAL that the one
// finds, the other has made.
func TestEmptySidecarsOfAnotherBackupAreNotLeft(t *testing.T) {
	w := osWorld(t)
	w.mkdir(t, "data")
	if err := w.open(t, "data/app.db", "PRAGMA journal_mode = wal; CREATE TABLE t (x)").Close(); err != nil {
		t.Fatal(err)
	}
	w.write(t, "data/app.db-wal", "")
	mustCreate(t, w.store(t, withSources(w.database("data/app.db"))))
	if got := w.names(t, "data"); !slices.Equal(got, []string{".", "app.db"}) {
		t.Errorf("left: %v", got)
	}
}

const serviceEnv = "BACKUP_TEST_SERVICE"

// TestServiceOfAStranger is a service that is started while root reads its
// database.
func TestServiceOfAStranger(t *testing.T) {
	db := os.Getenv(serviceEnv)
	if db == "" {
		t.Skip("it is run by TestServiceIsNotLockedOutByRoot")
	}
	c, err := sqlite3.Open("file:" + db)
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, c, "INSERT INTO memories (body) VALUES ('by the service')")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestServiceIsNotLockedOutByRoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("it takes root to lock somebody out")
	}
	dir, err := os.MkdirTemp("", "service") // t.TempDir is for the owner alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := newWorld(t, afero.NewOsFs(), dir)
	w.seed(t)
	db := w.path("data/atocore.db")
	for p, perm := range map[string]fs.FileMode{dir: 0o755, w.path("data"): 0o700, db: 0o600} {
		if err := errors.Join(os.Chmod(p, perm), os.Chown(p, strangerID, strangerID)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv(serviceEnv, db)
	mustCreate(t, w.store(t, atFirst(t, "db", func() { asStranger(t, "TestServiceOfAStranger") })))
	if got := w.query(t, "data/atocore.db", "SELECT body FROM memories"); got != "baseline\nby the service" {
		t.Errorf("got %q", got)
	}
	if diff := cmp.Diff([]string{".", "atocore.db"}, w.names(t, "data")); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}
