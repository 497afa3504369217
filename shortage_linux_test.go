package backup_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/ncruces/go-sqlite3"

	"github.com/atocore/backup"
)

// What cannot be looked at for want of descriptors may be there. These tests have
// none left at some point, and look whether that is taken for an answer.

// withDescriptors calls fn while this process can open no more than so many files.
func withDescriptors(t *testing.T, free int, fn func()) {
	t.Helper()
	var usual syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &usual); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	open := make(map[int]bool)
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil {
			var st syscall.Stat_t
			open[fd] = syscall.Fstat(fd, &st) == nil // that of ReadDir is closed
		}
	}
	limit := 0
	for left := free; left > 0 || open[limit]; limit++ {
		if !open[limit] {
			left--
		}
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: uint64(limit), Max: usual.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &usual); err != nil {
			t.Fatal(err)
		}
	}()
	fn()
}

// A service works with a database that lies deeper than anything in the snapshot:
// to put that in place takes fewer descriptors than to see the service.
func TestRestoreSeesTheServiceOrHasNoDescriptors(t *testing.T) {
	w := osWorld(t)
	w.write(t, "tree/file", "old")
	s := w.store(t, func(cfg *backup.Config) {
		cfg.Sources = []backup.Source{{Name: "tree", Kind: backup.Tree, Path: w.path("tree")}}
	})
	snap, err := s.Create(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	db := w.path("tree/a/b/c/d/e/f/g/h/app.db")
	if err := os.MkdirAll(filepath.Dir(db), 0o755); err != nil {
		t.Fatal(err)
	}
	service, err := sqlite3.Open(db)
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	if err := service.Exec("PRAGMA journal_mode=wal; CREATE TABLE t (v); SELECT * FROM t"); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for free := range 40 {
		withDescriptors(t, free, func() {
			_, err = s.Restore(t.Context(), snap.Stamp, &backup.RestoreOptions{ConfirmServiceStopped: true, SkipSafetySnapshot: true})
		})
		if !errors.Is(err, backup.ErrServiceRunning) && !errors.Is(err, syscall.EMFILE) {
			t.Fatalf("%d descriptors: got %v, want ErrServiceRunning or EMFILE", free, err)
		}
		if errors.Is(err, backup.ErrServiceRunning) {
			seen++
		}
	}
	if seen == 0 {
		t.Error("the service was never seen")
	}
	if err := service.Exec("INSERT INTO t VALUES (1)"); err != nil || !w.exists(t, "tree/a/b/c/d/e/f/g/h/app.db") {
		t.Errorf("the service's database: %v", err)
	}
}

// What an interrupted restore has left is found, or it is said that it cannot be
// looked for: then the service must not start.
func TestRecoverFindsWhatIsLeftOrHasNoDescriptors(t *testing.T) {
	w := osWorld(t)
	s := w.small(t)
	stamp := w.create(t, s).Stamp
	w.change(t)
	stopping, stopped := w.stopping(t, func(op, p string) bool { return op == "rename" && strings.Contains(p, "/new/") })
	if _, err := stopping.Restore(t.Context(), stamp, confirmed); err == nil || !stopped() || !w.pending(t) {
		t.Fatalf("not interrupted: %v", err)
	}
	defer w.unmount(t, "backups")()
	found := 0
	for free := range 20 {
		var r *backup.Recovery
		var err error
		withDescriptors(t, free, func() { r, err = s.Recover(t.Context()) })
		if r != nil || !errors.Is(err, backup.ErrRecoveryPending) && !errors.Is(err, syscall.EMFILE) {
			t.Errorf("%d descriptors: got %+v, %v, want ErrRecoveryPending or EMFILE", free, r, err)
		}
		if errors.Is(err, backup.ErrRecoveryPending) {
			found++
		}
	}
	if found == 0 {
		t.Error("what is left was never found")
	}
}
