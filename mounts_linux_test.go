package backup_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/afero"
	"golang.org/x/sys/unix"

	"github.com/atocore/backup"
)

// bind mounts from over to until the test ends.
func bind(t *testing.T, from, to string) {
	t.Helper()
	bindForNow(t, from, to)
	t.Cleanup(func() { detach(t, to) })
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Sys().(*syscall.Stat_t).Ino
}

func TestRestoreOverBindMounts(t *testing.T) {
	w := osWorld(t)
	w.write(t, "volumes/tree/a", "a")
	w.write(t, "volumes/nested/deep/b", "b")
	w.write(t, "volumes/file.json", "{}")
	w.exec(t, "volumes/app.db", "PRAGMA journal_mode=WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1)")
	w.mkdir(t, "live/tree")
	w.write(t, "live/file.json", "")
	w.write(t, "live/app.db", "")
	bind(t, w.path("volumes/tree"), w.path("live/tree"))
	bind(t, w.path("volumes/file.json"), w.path("live/file.json"))
	bind(t, w.path("volumes/app.db"), w.path("live/app.db"))
	w.mkdir(t, "live/tree/x/nested")
	bind(t, w.path("volumes/nested"), w.path("live/tree/x/nested"))

	s := w.store(t, func(cfg *backup.Config) {
		cfg.Sources = []backup.Source{
			{Name: "tree", Kind: backup.Tree, Path: w.path("live/tree")},
			{Name: "file", Kind: backup.File, Path: w.path("live/file.json")},
			{Name: "app", Kind: backup.Database, Path: w.path("live/app.db")},
		}
	})
	snap, err := s.Create(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := w.tree(t, "live/tree")
	w.write(t, "live/tree/a", "changed")
	w.write(t, "live/tree/x/nested/deep/b", "changed")
	w.write(t, "live/tree/x/nested/new", "new")
	w.write(t, "live/file.json", "changed, and longer")
	w.exec(t, "live/app.db", "INSERT INTO t VALUES (2)")
	before := []uint64{inode(t, w.path("live/tree")), inode(t, w.path("live/tree/x/nested")), inode(t, w.path("live/file.json")), inode(t, w.path("live/app.db"))}

	r := w.restore(t, s, snap.Stamp)
	if diff := cmp.Diff(w.tree(t, "live/tree"), want); diff != "" {
		t.Errorf("tree (-got +want):\n%s", diff)
	}
	if got := w.read(t, "live/file.json"); got != "{}" {
		t.Errorf("file: %q", got)
	}
	if got := w.query(t, "live/app.db", "SELECT x FROM t"); got != "1" {
		t.Errorf("database: %q", got)
	}
	after := []uint64{inode(t, w.path("live/tree")), inode(t, w.path("live/tree/x/nested")), inode(t, w.path("live/file.json")), inode(t, w.path("live/app.db"))}
	if diff := cmp.Diff(after, before); diff != "" {
		t.Errorf("inodes of mount points (-after +before):\n%s", diff)
	}
	if left, err := filepath.Glob(w.path("live/*/.atobackup-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	w.restore(t, s, r.SafetyStamp)
	if got := w.query(t, "live/app.db", "SELECT x FROM t"); got != "1\n2" {
		t.Errorf("database after undo: %q", got)
	}
	if got := w.read(t, "live/tree/x/nested/new"); got != "new" {
		t.Errorf("nested mount after undo: %q", got)
	}
}

// setImmutable has a file be immutable until the test ends: see chattr(1).
func setImmutable(t *testing.T, path string) {
	t.Helper()
	change := func(flags func(now int) int) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		now, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
		if err != nil {
			return err
		}
		return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags(now))
	}
	const immutable = unix.STATX_ATTR_IMMUTABLE // the same bit
	if err := change(func(now int) int { return now | immutable }); err != nil {
		t.Skipf("no immutable files here: %v", err)
	}
	t.Cleanup(func() {
		if err := change(func(now int) int { return now &^ immutable }); err != nil {
			t.Error(err)
		}
	})
}

// A mount point that may not be written to is found before anything else is
// touched.
func TestRestoreRefusesAMountPointThatMayNotBeWrittenTo(t *testing.T) {
	for name, protect := range map[string]func(t *testing.T, w *world, from, to string){
		"read_only": func(t *testing.T, w *world, from, to string) { mountReadOnly(t, w.path(from), w.path(to)) },
		"immutable": func(t *testing.T, w *world, from, to string) {
			bind(t, w.path(from), w.path(to))
			setImmutable(t, w.path(from))
		},
	} {
		for _, at := range []string{"config/project-registry.json", "chroma/dir/settings"} {
			t.Run(name+"_"+filepath.Base(at), func(t *testing.T) {
				w := osWorld(t)
				w.small(t)
				w.write(t, "chroma/dir/settings", "{}")
				s := w.store(t)
				stamp := w.create(t, s).Stamp
				w.change(t)
				w.write(t, "volume", "other")
				protect(t, w, "volume", at)
				before, stamps := w.stat(t, "."), w.stamps(t, s)
				r, err := s.Restore(t.Context(), stamp, confirmed)
				_, wrapped := errors.AsType[*fs.PathError](err)
				if r != nil || !wrapped || !errors.Is(err, syscall.EROFS) && !errors.Is(err, fs.ErrPermission) {
					t.Errorf("%+v, %v", r, err)
				}
				if errors.Is(err, backup.ErrRecoveryPending) || w.pending(t) {
					t.Errorf("a restore is pending: %v", err)
				}
				if diff := cmp.Diff(w.stat(t, "."), before); diff != "" {
					t.Errorf("touched (-after +before):\n%s", diff)
				}
				if diff := cmp.Diff(w.stamps(t, s), stamps); diff != "" {
					t.Errorf("snapshots (-after +before):\n%s", diff)
				}
			})
		}
	}
}

// A reader of a database in WAL mode writes to its -shm.
func TestCreateOfWALDatabaseOnReadOnlyMount(t *testing.T) {
	w := osWorld(t)
	w.exec(t, "volume/app.db", "PRAGMA journal_mode=WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1)")
	w.mkdir(t, "live")
	mountReadOnly(t, w.path("volume"), w.path("live"))
	s := w.store(t, withSources(w.database("live/app.db")))
	if _, err := s.Create(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "WAL mode") {
		t.Errorf("got %v, want an error that says what is in the way", err)
	}
	w.mustHaveNoSnapshots(t)
}

func TestCreateOfRollbackDatabaseOnReadOnlyMount(t *testing.T) {
	w := osWorld(t)
	w.exec(t, "volume/app.db", "CREATE TABLE t (x); INSERT INTO t VALUES (1)")
	w.mkdir(t, "live")
	mountReadOnly(t, w.path("volume"), w.path("live"))
	snap := mustCreate(t, w.store(t, withSources(w.database("live/app.db"))))
	if got := w.queryCopy(t, snap, "db/app.db", "SELECT x FROM t"); got != "1" {
		t.Errorf("got %q", got)
	}
}

// What is mounted in a tree while it is being restored belongs to somebody
// else.
func TestRestoreLeavesWhatIsMountedMeanwhile(t *testing.T) {
	w := osWorld(t)
	w.seed(t)
	w.mkdir(t, "chroma/sub/vol")
	stamp := w.create(t, w.store(t)).Stamp
	w.write(t, "volume/precious", "another service's data")
	mounted := false
	s := w.store(t, func(cfg *backup.Config) {
		cfg.Progress = func(p backup.Progress) {
			if p.Op == "restore" && !mounted {
				mounted = true
				bind(t, w.path("volume"), w.path("chroma/sub/vol"))
			}
		}
	})
	if r, err := s.Restore(t.Context(), stamp, confirmed); r != nil || !errors.Is(err, backup.ErrServiceRunning) {
		t.Errorf("%+v, %v", r, err)
	}
	if got := w.read(t, "volume/precious"); got != "another service's data" {
		t.Errorf("in the volume: %q", got)
	}
	if w.pending(t) {
		t.Error("a restore is pending")
	}
}

// Nor is it emptied when what was put aside is removed.
func TestNothingMountedIsRemoved(t *testing.T) {
	w := osWorld(t)
	w.seed(t)
	s := w.store(t)
	stamp := w.create(t, s).Stamp
	w.mkdir(t, "backups/snapshots/"+stamp+"/chroma/mnt")
	w.write(t, "volume/precious", "another service's data")
	bind(t, w.path("volume"), w.path("backups/snapshots/"+stamp+"/chroma/mnt"))
	if err := s.Delete(t.Context(), stamp); err == nil || !strings.Contains(err.Error(), "mounted") {
		t.Errorf("got %v", err)
	}
	if got := w.read(t, "volume/precious"); got != "another service's data" {
		t.Errorf("in the volume: %q", got)
	}
}

// A deletion that is refused leaves the snapshot as it was.
func TestRefusedDeletionKeepsTheSnapshot(t *testing.T) {
	w := osWorld(t)
	w.seed(t)
	s := w.store(t)
	older := w.create(t, s).Stamp
	w.create(t, s)
	mnt := w.snapshot(older, "chroma/empty")
	w.mkdir(t, "volume")
	bind(t, w.path("volume"), mnt)
	if err := s.Delete(t.Context(), older); err == nil || !strings.Contains(err.Error(), "mounted") {
		t.Errorf("delete: got %v", err)
	}
	if _, err := s.Cleanup(t.Context(), removeAllButNewest); err == nil || !strings.Contains(err.Error(), "mounted") {
		t.Errorf("cleanup: got %v", err)
	}
	report, err := s.Validate(t.Context(), older, nil)
	if err != nil || !report.Valid {
		t.Errorf("it is no longer good: %v, %v", report.Err(), err)
	}
}

// A directory on the lower layer of an overlay cannot be renamed.
func TestRestoreOfATreeOnAnOverlaySaysWhatToDo(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	w := osWorld(t)
	w.write(t, "lower/tree/sub/a", "a")
	w.mkdir(t, "upper")
	w.mkdir(t, "work")
	w.mkdir(t, "merged")
	options := "lowerdir=" + w.path("lower") + ",upperdir=" + w.path("upper") + ",workdir=" + w.path("work")
	if err := unix.Mount("overlay", w.path("merged"), "overlay", 0, options); err != nil {
		t.Skipf("no overlays here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(w.path("merged"), unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := w.store(t, withSources(w.treeSource("merged/tree")))
	stamp := mustCreate(t, s).Stamp
	w.write(t, "merged/tree/sub/a", "changed")
	r, err := s.Restore(t.Context(), stamp, confirmed)
	if err == nil { // with redirect_dir, it can
		if got := w.read(t, "merged/tree/sub/a"); got != "a" || r == nil {
			t.Errorf("restored %q", got)
		}
		return
	}
	if !strings.Contains(err.Error(), "volume of its own") || w.pending(t) || w.read(t, "merged/tree/sub/a") != "changed" {
		t.Errorf("got %v", err)
	}
}

// On an overlay of two file systems, a file is on another device than its
// directory. Nothing is mounted there all the same.
func TestSnapshotsOnAnOverlayAreRemoved(t *testing.T) {
	lower, disk, merged := t.TempDir(), t.TempDir(), t.TempDir()
	mount(t, disk, "-t", "tmpfs", "tmpfs")
	upper, work := filepath.Join(disk, "upper"), filepath.Join(disk, "work")
	if err := errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755)); err != nil {
		t.Fatal(err)
	}
	mount(t, merged, "-t", "overlay", "overlay", "-o", fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work))
	w := newWorld(t, afero.NewOsFs(), filepath.Join(merged, "srv"))
	w.exec(t, "data/app.db", "CREATE TABLE t (x); INSERT INTO t VALUES ('old')")
	w.write(t, "live/f", "old")
	s := w.store(t, withSources(w.database("data/app.db"), w.treeSource("live")))
	snap := mustCreate(t, s)
	w.write(t, "live/f", "new")
	w.restore(t, s, snap.Stamp)
	if got := w.read(t, "live/f"); got != "old" {
		t.Errorf("restored %q", got)
	}
	if err := s.Delete(t.Context(), snap.Stamp); err != nil {
		t.Error(err)
	}
}
