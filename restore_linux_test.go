package backup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/afero"
	"golang.org/x/sys/unix"

	"github.com/atocore/backup"
)

// mountReadOnly shows from, read-only, at to.
func mountReadOnly(t *testing.T, from, to string) {
	t.Helper()
	bind(t, from, to)
	if err := unix.Mount("", to, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		t.Skipf("no read-only mounts here: %v", err)
	}
}

func TestValidateOfReadOnlyMount(t *testing.T) {
	w := osWorld(t)
	w.seed(t)
	stamp := w.create(t, w.store(t)).Stamp
	w.mkdir(t, "mnt")
	mountReadOnly(t, w.path("backups"), w.path("mnt"))
	for name, prepare := range map[string]func(){
		"with_lock_file":    func() {},
		"without_lock_file": func() { w.drop(t, "backups/lock") },
	} {
		t.Run(name, func(t *testing.T) {
			prepare()
			before := w.stat(t, "backups")
			s := w.store(t, func(cfg *backup.Config) { cfg.Dir = w.path("mnt") })
			if list := w.list(t, s); len(list) != 1 || !list[0].Validated {
				t.Errorf("listed %+v", list)
			}
			for _, opts := range []*backup.ValidateOptions{nil, quick, structure} {
				if r := w.validate(t, s, stamp, opts); !r.Valid {
					t.Errorf("%+v", r)
				}
			}
			if r, err := s.Restore(t.Context(), stamp, &backup.RestoreOptions{DryRun: true}); err != nil || !r.IntegrityOK {
				t.Errorf("dry run: %+v, %v", r, err)
			}
			w.cleanup(t, s, nil, backup.Cleanup{DryRun: true, Kept: 1})
			for op, err := range map[string]error{
				"create":  func() error { _, err := s.Create(t.Context(), nil); return err }(),
				"restore": func() error { _, err := s.Restore(t.Context(), stamp, confirmed); return err }(),
				"delete":  s.Delete(t.Context(), stamp),
			} {
				if _, ok := errors.AsType[*fs.PathError](err); !ok || !errors.Is(err, syscall.EROFS) {
					t.Errorf("%s: %v", op, err)
				}
			}
			if diff := cmp.Diff(w.stat(t, "backups"), before); diff != "" {
				t.Errorf("(-after +before):\n%s", diff)
			}
		})
	}
}

// Only what the manifest calls so is a link, and nothing is opened that is
// no file: a pipe would be waited for.
func TestValidateFindsWhatIsNoFile(t *testing.T) {
	replaced := func(name string, by func(p string) error) func(*testing.T, *world, string) {
		return func(t *testing.T, w *world, stamp string) {
			w.rename(t, in(stamp, name), "outside")
			if err := by(w.snapshot(stamp, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tc := range []struct {
		name string
		by   func(w *world) func(p string) error
	}{
		{"link_to_the_same", func(w *world) func(string) error {
			return func(p string) error { return os.Symlink(w.path("outside"), p) }
		}},
		{"dangling_link", func(*world) func(string) error {
			return func(p string) error { return os.Symlink("nowhere", p) }
		}},
		{"link_to_itself", func(*world) func(string) error {
			return func(p string) error { return os.Symlink(filepath.Base(p), p) }
		}},
		{"pipe", func(*world) func(string) error { return func(p string) error { return unix.Mkfifo(p, 0o600) } }},
		{"socket", func(*world) func(string) error {
			return func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o600, 0) }
		}},
	} {
		for name, want := range map[string]backup.Code{
			"db/atocore.db": backup.CodeTypeMismatch, "config/project-registry.json": backup.CodeTypeMismatch,
			"chroma/a": backup.CodeTypeMismatch, "chroma": backup.CodeTypeMismatch, "db": backup.CodeTypeMismatch,
			metadataFile: backup.CodeMetadataInvalid, manifestFile: backup.CodeManifestInvalid,
		} {
			t.Run(tc.name+"_for_"+filepath.Base(name), func(t *testing.T) {
				w := osWorld(t)
				s := w.small(t)
				stamp := w.create(t, s).Stamp
				replaced(name, tc.by(w))(t, w, stamp)
				for _, opts := range []*backup.ValidateOptions{nil, quick, structure} {
					if r := w.validate(t, s, stamp, opts); r.Valid || !errors.Is(r.Err(), want) {
						t.Errorf("%+v, want %s", r, want)
					}
				}
				if _, err := s.Restore(t.Context(), stamp, confirmed); !errors.Is(err, backup.ErrInvalidSnapshot) {
					t.Errorf("restored: %v", err)
				}
			})
		}
	}
}

// The Python module's metadata do not say what is a link: nothing but a tree
// may have any.
func TestPythonSnapshotWithWhatIsNoFile(t *testing.T) {
	for _, name := range []string{"config/project-registry.json", "db/atocore.db", "chroma", "config", "db"} {
		for kind, by := range map[string]func(w *world, p string) error{
			"link": func(w *world, p string) error { return os.Symlink(w.path("outside"), p) },
			"pipe": func(_ *world, p string) error { return unix.Mkfifo(p, 0o600) },
		} {
			t.Run(kind+"_for_"+filepath.Base(name), func(t *testing.T) {
				w := osWorld(t)
				s := w.python(t)
				w.seed(t)
				w.rename(t, in(pythonSnapshot, name), "outside")
				if err := by(w, w.snapshot(pythonSnapshot, name)); err != nil {
					t.Fatal(err)
				}
				before := w.liveState(t)
				if r := w.validate(t, s, pythonSnapshot, nil); r.Valid {
					t.Errorf("%+v", r)
				}
				if r, err := s.Restore(t.Context(), pythonSnapshot, confirmed); !errors.Is(err, backup.ErrInvalidSnapshot) {
					t.Errorf("restored: %+v, %v", r, err)
				}
				if diff := cmp.Diff(w.liveState(t), before); diff != "" {
					t.Errorf("(-after +before):\n%s", diff)
				}
			})
		}
	}
}

func TestRestoreLeavesTheTreesOwnDirectory(t *testing.T) {
	w := osWorld(t)
	s := w.small(t)
	stamp := w.create(t, s).Stamp
	before := inode(t, w.path("chroma"))
	w.change(t)
	if err := os.Chmod(w.path("chroma"), 0o2775); err != nil {
		t.Fatal(err)
	}
	w.restore(t, s, stamp)
	if got := inode(t, w.path("chroma")); got != before {
		t.Errorf("inode %d, was %d", got, before)
	}
	if diff := cmp.Diff(w.names(t, "chroma"), []string{".", "a", "b"}); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
}

func TestRestoreOfLinks(t *testing.T) {
	w := osWorld(t)
	w.small(t)
	w.write(t, "outside/precious", "precious")
	links := map[string]string{
		"chroma/file": "a", "chroma/dir": ".", "chroma/dangling": "no/where", "chroma/absolute": w.path("outside"), "chroma/up": "../outside/precious",
	}
	for name, target := range links {
		if err := os.Symlink(target, w.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	want := w.tree(t, "chroma")
	s := w.store(t)
	stamp := w.create(t, s).Stamp
	if r := w.validate(t, s, stamp, nil); !r.Valid {
		t.Errorf("%+v", r)
	}
	for name := range links {
		w.drop(t, name)
	}
	w.write(t, "chroma/dir/file", "a directory where a link was")
	if err := os.Remove(w.path("chroma/a")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(w.path("outside/precious"), w.path("chroma/a")); err != nil { // a link where a file was
		t.Fatal(err)
	}
	r := w.restore(t, s, stamp)
	if diff := cmp.Diff(w.tree(t, "chroma"), want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
	w.restore(t, s, r.SafetyStamp)
	if got := w.read(t, "outside/precious"); got != "precious" {
		t.Errorf("written through a link: %q", got)
	}
	w.drop(t, in(stamp, "chroma/dangling"))
	if err := os.Symlink("else/where", w.snapshot(stamp, "chroma/dangling")); err != nil {
		t.Fatal(err)
	}
	if r := w.validate(t, s, stamp, nil); !errors.Is(r.Err(), backup.CodeTypeMismatch) {
		t.Errorf("a link that points elsewhere: %+v", r)
	}
}

// A link as a source's own path is the host's word: what it points to is
// replaced, and the link stays.
func TestRestoreFollowsTheLinkThatIsConfigured(t *testing.T) {
	w := osWorld(t)
	w.small(t)
	w.mkdir(t, "volume")
	for _, name := range []string{"data/atocore.db", "config/project-registry.json", "chroma"} {
		w.rename(t, name, "volume/"+filepath.Base(name))
		if err := os.Symlink("../volume/"+filepath.Base(name), w.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	w.drop(t, "chroma") // one level up it is
	if err := os.Symlink("volume/chroma", w.path("chroma")); err != nil {
		t.Fatal(err)
	}
	s := w.store(t)
	stamp := w.create(t, s).Stamp
	want := w.names(t, "volume")
	w.write(t, "volume/project-registry.json", "mutated")
	w.write(t, "volume/chroma/more", "mutated")
	w.write(t, "volume/atocore.db-wal", "stale")
	w.restore(t, s, stamp)
	if got := w.read(t, "volume/project-registry.json"); got != `{"projects": []}` {
		t.Errorf("registry: %q", got)
	}
	if diff := cmp.Diff(w.names(t, "volume"), want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
	for _, name := range []string{"data/atocore.db", "config/project-registry.json", "chroma"} {
		if fi, err := os.Lstat(w.path(name)); err != nil || fi.Mode()&fs.ModeSymlink == 0 {
			t.Errorf("%s: %v, %v", name, fi.Mode(), err)
		}
	}
}

func TestRestoreDropsSpecialBits(t *testing.T) {
	w := osWorld(t)
	w.small(t)
	w.mkdir(t, "chroma/dir")
	for name, mode := range map[string]fs.FileMode{
		"chroma/a": 0o755 | fs.ModeSetuid, "chroma/b": 0o750 | fs.ModeSetgid, "chroma/dir": 0o770 | fs.ModeSticky | fs.ModeSetgid,
		"config/project-registry.json": 0o644 | fs.ModeSetuid, "data/atocore.db": 0o640 | fs.ModeSetgid,
	} {
		if err := os.Chmod(w.path(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	s := w.store(t)
	stamp := w.create(t, s).Stamp
	w.restore(t, s, stamp)
	for _, root := range []string{"", "backups/snapshots/" + stamp} {
		for name, perm := range map[string]fs.FileMode{
			"chroma/a": 0o755, "chroma/b": 0o750, "chroma/dir": 0o770, "config/project-registry.json": 0o644, "data/atocore.db": 0o640,
		} {
			if root != "" {
				name = strings.Replace(name, "data", "db", 1)
			}
			fi, err := os.Stat(w.path(filepath.Join(root, name)))
			if err != nil {
				t.Fatal(err)
			}
			if fi.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0 || root == "" && fi.Mode().Perm() != perm {
				t.Errorf("%s: %v, want %v", filepath.Join(root, name), fi.Mode(), perm)
			}
		}
	}
}

// A restore by root must not take its files from the service.
func TestRestoreKeepsTheOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("changing owners needs root")
	}
	const uid, gid = 12345, 12346
	w := osWorld(t)
	w.small(t)
	w.write(t, "chroma/dir/c", "c")
	if err := os.Symlink("a", w.path("chroma/link")); err != nil {
		t.Fatal(err)
	}
	owned := []string{"data", "data/atocore.db", "config/project-registry.json", "chroma"}
	for _, name := range owned {
		if err := os.Lchown(w.path(name), uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	s := w.store(t)
	stamp := w.create(t, s).Stamp
	check := func(names ...string) {
		t.Helper()
		for _, name := range names {
			fi, err := os.Lstat(w.path(name))
			if err != nil {
				t.Fatal(err)
			}
			if st := fi.Sys().(*syscall.Stat_t); st.Uid != uid || st.Gid != gid {
				t.Errorf("%s: owner %d, group %d", name, st.Uid, st.Gid)
			}
		}
	}
	w.restore(t, s, stamp)
	check(append(owned, "chroma/a", "chroma/dir", "chroma/dir/c", "chroma/link")...)

	w.drop(t, "data/atocore.db") // now its directory tells
	w.restore(t, s, stamp)
	check(owned...)
}

// What is written after the safety snapshot was taken is noticed also if size
// and time of modification are as they were.
func TestRestoreNoticesWhatIsWrittenWithItsTimeSetBack(t *testing.T) {
	for how, put := range map[string]func(t *testing.T, w *world, name, content string){
		"in_place": func(t *testing.T, w *world, name, content string) { w.write(t, name, content) },
		"replaced": func(t *testing.T, w *world, name, content string) { w.replace(t, name, content) },
	} {
		for _, name := range []string{"data/atocore.db", "config/project-registry.json", "chroma/dir/c"} {
			t.Run(how+"_"+filepath.Base(name), func(t *testing.T) {
				w := osWorld(t)
				w.write(t, "chroma/dir/c", "cccc")
				stamp := w.create(t, w.small(t)).Stamp
				w.change(t)
				written := strings.NewReplacer("mut", "MUT", "new", "NEW").Replace(w.read(t, name))
				s := w.store(t, during("restore", "db", func() {
					fi, err := os.Stat(w.path(name))
					if err != nil {
						t.Fatal(err)
					}
					put(t, w, name, written)
					if err := os.Chtimes(w.path(name), fi.ModTime(), fi.ModTime()); err != nil {
						t.Fatal(err)
					}
				}))
				r, err := s.Restore(t.Context(), stamp, confirmed)
				if r != nil || !errors.Is(err, backup.ErrServiceRunning) || w.pending(t) {
					t.Errorf("%+v, %v", r, err)
				}
				if got := w.read(t, name); got != written {
					t.Errorf("what was written is lost: %q", got)
				}
			})
		}
	}
}

func TestRestoredDatabasePassesTheSqliteShell(t *testing.T) {
	shell, err := exec.LookPath("sqlite3")
	if err != nil {
		t.Skip("no sqlite3 command here")
	}
	w := osWorld(t)
	w.seed(t)
	s := w.store(t)
	stamp := w.create(t, s).Stamp
	w.exec(t, "data/atocore.db", "INSERT INTO memories (body) VALUES ('mutation')")
	w.leaveLog(t, "data/atocore.db")
	r := w.restore(t, s, stamp)
	ask := func(want string) {
		t.Helper()
		out, err := exec.Command(shell, w.path("data/atocore.db"), "PRAGMA integrity_check; PRAGMA journal_mode; SELECT body FROM memories").CombinedOutput()
		if err != nil || string(out) != want {
			t.Errorf("it says %q, %v; want %q", out, err, want)
		}
	}
	ask("ok\nwal\nbaseline\n")
	w.restore(t, s, r.SafetyStamp)
	ask("ok\nwal\nbaseline\nmutation\nin the log\n")
}

// A lateContext is cancelled when it has been asked n times whether it is.
type lateContext struct {
	context.Context
	mu   sync.Mutex
	left int
	done chan struct{}
}

func cancelledAfter(ctx context.Context, n int) *lateContext {
	return &lateContext{Context: ctx, left: n, done: make(chan struct{})}
}

func (c *lateContext) Done() <-chan struct{} { return c.done }

func (c *lateContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left--; c.left == 0 {
		close(c.done)
	}
	if c.left <= 0 {
		return context.Canceled
	}
	return nil
}

// A file that is a mount point is overwritten in place, and gets its old
// bytes back, in the same inode, when the restore is not carried out in the
// end.
func TestRestoreOverMountedFilesCancelled(t *testing.T) {
	w := osWorld(t)
	w.write(t, "volumes/registry.json", "{}")
	w.exec(t, "volumes/app.db", "PRAGMA page_size=512; CREATE TABLE t (x)")
	w.write(t, "config/project-registry.json", "")
	w.write(t, "data/atocore.db", "")
	w.mkdir(t, "chroma")
	bind(t, w.path("volumes/registry.json"), w.path("config/project-registry.json"))
	bind(t, w.path("volumes/app.db"), w.path("data/atocore.db"))
	s := w.store(t)
	stamp := w.create(t, s).Stamp
	w.write(t, "config/project-registry.json", "mutated, and longer")
	w.exec(t, "data/atocore.db", "INSERT INTO t VALUES (1)")
	old := w.liveState(t)
	inodes := []uint64{inode(t, w.path("volumes/registry.json")), inode(t, w.path("volumes/app.db"))}
	opts := &backup.RestoreOptions{ConfirmServiceStopped: true, SkipSafetySnapshot: true}
	for n := 1; ; n += 3 {
		ctx := cancelledAfter(t.Context(), n)
		r, err := s.Restore(ctx, stamp, opts)
		if err == nil {
			t.Logf("%d looks at the context", n)
			if got := w.read(t, "volumes/registry.json"); got != "{}" || !r.IntegrityOK {
				t.Errorf("restored %q", got)
			}
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("look %d: %v", n, err)
		}
		if diff := cmp.Diff(w.liveState(t), old); diff != "" || w.pending(t) {
			t.Fatalf("look %d: pending %v (-got +old):\n%s", n, w.pending(t), diff)
		}
	}
	if got := []uint64{inode(t, w.path("config/project-registry.json")), inode(t, w.path("data/atocore.db"))}; !slices.Equal(got, inodes) {
		t.Errorf("inodes %v, were %v", got, inodes)
	}
}

// asUser runs the test again without root's powers, and reports whether this
// is that run.
func asUser(t *testing.T) bool {
	t.Helper()
	if os.Getuid() != 0 {
		return true
	}
	dir, err := os.MkdirTemp("", "atobackup-as-user-*") // t.TempDir may be out of a user's reach
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	binary, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	const uid = 12345
	program := filepath.Join(dir, "test")
	err = errors.Join(os.WriteFile(program, binary, 0o755), os.Mkdir(filepath.Join(dir, "tmp"), 0o700), os.Chown(filepath.Join(dir, "tmp"), uid, uid), os.Chmod(dir, 0o755))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "TMPDIR="+filepath.Join(dir, "tmp"), "GOTMPDIR=")
	cmd.Dir = filepath.Join(dir, "tmp")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("as user %d: %v\n%s", uid, err, out)
	}
	return false
}

// An ordinary user may move a directory only if he may write into it.
func TestRestoreOfReadOnlyDirectoriesByUser(t *testing.T) {
	if !asUser(t) {
		return
	}
	w := osWorld(t)
	w.small(t)
	w.write(t, "chroma/ro/deep/file", "read-only")
	w.chmod(t, "chroma/ro", 0o500, 0o400)
	t.Cleanup(func() { exec.Command("chmod", "-R", "u+w", w.root).Run() })
	want := w.tree(t, "chroma")
	s := w.store(t)
	stamp := w.create(t, s).Stamp
	w.write(t, "chroma/extra", "extra")
	r := w.restore(t, s, stamp)
	if diff := cmp.Diff(w.tree(t, "chroma"), want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
	w.restore(t, s, r.SafetyStamp)
	if got := w.read(t, "chroma/extra"); got != "extra" {
		t.Errorf("after undo: %q", got)
	}
	stopping, stopped := w.stopping(t, func(op, p string) bool {
		return op == "chmod" && p == w.path("chroma/ro") && len(w.matches(t, "chroma/.atobackup-*/old/ro")) > 0
	})
	if _, err := stopping.Restore(t.Context(), stamp, confirmed); err == nil || !stopped() {
		t.Fatalf("not interrupted: %v", err)
	}
	w.recovers(t)
	if diff := cmp.Diff(w.tree(t, "chroma"), want); diff != "" {
		t.Errorf("after a crash (-got +want):\n%s", diff)
	}
}

// Whose names may be read, and nothing else, is no directory that has vanished.
func TestDirectoryThatMayNotBeSearchedIsNotLost(t *testing.T) {
	if !asUser(t) {
		return
	}
	for _, mode := range []fs.FileMode{0o644, 0o600, 0o444, 0o111, 0} {
		for _, dir := range []string{"chroma/sub", "chroma"} {
			t.Run(fmt.Sprintf("%s_%03o", filepath.Base(dir), mode), func(t *testing.T) {
				w := osWorld(t)
				s := w.small(t)
				stamp := w.create(t, s).Stamp
				w.write(t, "chroma/sub/deep/file", "the only copy")
				before := w.liveState(t)
				if err := os.Chmod(w.path(dir), mode); err != nil {
					t.Fatal(err)
				}
				defer os.Chmod(w.path(dir), 0o755)
				if snap, err := s.Create(t.Context(), &backup.CreateOptions{Include: []string{"chroma"}}); !errors.Is(err, fs.ErrPermission) || strings.Contains(err.Error(), "store") {
					t.Errorf("created %+v, %v", snap, err)
				}
				if r, err := s.Restore(t.Context(), stamp, confirmed); !errors.Is(err, fs.ErrPermission) {
					t.Errorf("restored %+v, %v", r, err)
				}
				if err := os.Chmod(w.path(dir), 0o755); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(w.liveState(t), before); diff != "" {
					t.Errorf("(-got +want):\n%s", diff)
				}
			})
		}
	}
}

// Who may read the store and not write to it holds a lock all the same, which
// those who may write see.
func TestReaderOfOthersStoreHoldsALock(t *testing.T) {
	if !asUser(t) {
		return
	}
	w := osWorld(t)
	s := w.small(t)
	other, stamp := w.create(t, s).Stamp, w.create(t, s).Stamp
	if err := os.Chmod(w.path("backups/lock"), 0o444); err != nil {
		t.Fatal(err)
	}
	release := w.hold(t, func(s *backup.Store) error {
		r, err := s.Validate(t.Context(), stamp, nil)
		return errors.Join(err, r.Err())
	})
	if !w.locked(t) {
		t.Error("nobody sees that the snapshot is being validated")
	}
	if err := s.Delete(t.Context(), other); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("delete, meanwhile: %v", err)
	}
	release()
	if w.locked(t) {
		t.Error("the lock stays")
	}
	if err := s.Delete(t.Context(), stamp); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("delete: %v", err)
	}
}

// locked reports whether a lock of the store is held, as another process
// would see it: locks of open file descriptions exclude one another within a
// process, too.
func (w *world) locked(t *testing.T) bool {
	t.Helper()
	f, err := os.Open(w.path("backups/lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &all); err != nil {
		t.Fatal(err)
	}
	return all.Type != unix.F_UNLCK
}

func TestValidateAndDeleteOfReadOnlyStoreByUser(t *testing.T) {
	if !asUser(t) {
		return
	}
	w := osWorld(t)
	w.seed(t)
	s := w.store(t)
	stamp := w.create(t, s).Stamp
	w.chmod(t, "backups", 0o500, 0o400)
	t.Cleanup(func() { exec.Command("chmod", "-R", "u+w", w.root).Run() })
	before := w.stat(t, "backups")
	for _, opts := range []*backup.ValidateOptions{nil, quick, structure} {
		if r := w.validate(t, s, stamp, opts); !r.Valid {
			t.Errorf("%+v", r)
		}
	}
	if list := w.list(t, s); len(list) != 1 || list[0].InUse {
		t.Errorf("listed %+v", list)
	}
	if diff := cmp.Diff(w.stat(t, "backups"), before); diff != "" {
		t.Errorf("(-after +before):\n%s", diff)
	}
	if err := s.Delete(t.Context(), stamp); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("delete from a read-only store: %v", err)
	}
	for _, name := range []string{"backups", "backups/snapshots", in(stamp, "")} { // but not what is in it
		if err := os.Chmod(w.path(name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(w.path("backups/lock"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), stamp); err != nil {
		t.Errorf("delete of a snapshot of read-only directories: %v", err)
	}
}

// A snapshot that one may not look into is damaged, or so it seems.
func TestUnreadableSnapshotByUser(t *testing.T) {
	if !asUser(t) {
		return
	}
	w := osWorld(t)
	s := w.small(t)
	stamps := []string{w.create(t, s).Stamp, w.create(t, s).Stamp}
	if err := os.Chmod(w.snapshot(stamps[0], ""), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(w.snapshot(stamps[0], ""), 0o700) })
	snap := w.listed(t, s, stamps[0])
	if diff := cmp.Diff(codes(snap.Problems), []backup.Code{backup.CodeUnreadable}); diff != "" || snap.Validated {
		t.Errorf("%+v (-got +want):\n%s", snap, diff)
	}
	if r, err := s.Validate(t.Context(), stamps[0], nil); err == nil && r.Valid {
		t.Errorf("%+v", r)
	}
	if _, err := s.Restore(t.Context(), stamps[0], confirmed); err == nil {
		t.Error("restored")
	}
}

// A store on a file system whose base is gone answers with an error.
func TestStoreOnAMissingBase(t *testing.T) {
	if base := os.Getenv(childEnv); base != "" { // a process of its own, as the stack may run over
		debug.SetMaxStack(16 << 20)
		w := &world{fs: afero.NewBasePathFs(afero.NewOsFs(), base), root: "/srv", now: start}
		s := w.store(t, func(cfg *backup.Config) { cfg.Sources = cfg.Sources[1:2] })
		_, err := s.Create(t.Context(), nil)
		fmt.Println("child:", err)
		return
	}
	out, err := rerun(t, "TestStoreOnAMissingBase", childEnv+"="+filepath.Join(t.TempDir(), "gone")).Output()
	if err != nil || !bytes.Contains(out, []byte("child: ")) {
		t.Errorf("%v: %.300s", err, out)
	}
}
