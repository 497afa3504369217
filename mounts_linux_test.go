package backup_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/atocore/backup"
)

// bind mounts from over to until the test ends.
func bind(t *testing.T, from, to string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("no mounts here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(to, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
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
