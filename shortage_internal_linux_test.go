package backup

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/ncruces/go-sqlite3"
	"github.com/spf13/afero"
)

// belowDescriptor calls fn while this process can open nothing that would have such
// a number, or a greater one.
func belowDescriptor(t *testing.T, limit int, fn func()) {
	t.Helper()
	var usual syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &usual); err != nil {
		t.Fatal(err)
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

// Who cannot look which files this process has locked does not open any: to close
// one would drop the locks.
func TestFilesThisProcessHasLockedAreNotKnownWithoutDescriptors(t *testing.T) {
	d, err := openDir(afero.NewOsFs(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if held := findHeldFiles(); held.short != nil {
		t.Fatalf("with all descriptors: %v", held.short)
	}
	var held heldFiles
	belowDescriptor(t, 0, func() { held = findHeldFiles() })
	if err := held.checkDatabase(place{d, "app.db"}); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("got %v, want EMFILE", err)
	}
	if held.none() {
		t.Error("no file is held, as far as it knows")
	}
}

// The database may be opened, and its WAL not, or the index of that.
func TestProbeSeesTheServiceOrHasNoDescriptors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.db")
	service, err := sqlite3.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	if err := service.Exec("PRAGMA journal_mode=wal; CREATE TABLE t (v); SELECT * FROM t"); err != nil {
		t.Fatal(err)
	}
	d, err := openDir(afero.NewOsFs(), filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	seen, missed := 0, 0
	for limit := range 100 {
		belowDescriptor(t, limit, func() { err = probeRunning(t.Context(), place{d, "app.db"}) })
		switch {
		case errors.Is(err, ErrServiceRunning):
			seen++
		case isShortage(err):
			missed++
		default:
			t.Errorf("below %d: got %v, want ErrServiceRunning or EMFILE", limit, err)
		}
	}
	if seen == 0 || missed == 0 {
		t.Errorf("seen %d times, and missed %d times", seen, missed)
	}
}
