package backup_test

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/afero"

	"github.com/atocore/backup"
	"github.com/atocore/backup/internal/crashfs"
)

// failNextSync makes the first sync of a path that ends in suffix fail that
// comes after a rename to a path that ends in renamed.
func failNextSync(fsys *crashfs.FS, renamed, suffix string) {
	armed := false
	fsys.SetHook(func(op crashfs.Op) crashfs.Fault {
		if op.Kind == crashfs.OpRename && strings.HasSuffix(op.To, renamed) {
			armed = true
		}
		if armed && op.Kind == crashfs.OpSync && strings.HasSuffix(op.Path, suffix) {
			armed = false
			return crashfs.Fault{Effect: crashfs.FailBefore, Err: syscall.EIO}
		}
		return crashfs.Fault{}
	})
}

func TestCreateWhoseLastSyncFailsIsOfUnknownDurability(t *testing.T) {
	w := crashWorld(t)
	s := w.crashStore(t)
	failNextSync(w.crashFs(), "/backup-metadata.json", "Z")
	snap, err := s.Create(t.Context(), nil)
	if !errors.Is(err, backup.ErrDurabilityUnknown) || !errors.Is(err, syscall.EIO) {
		t.Fatalf("error %v, want durability unknown, and why", err)
	}
	if snap == nil {
		t.Fatal("the snapshot that is there was not returned")
	}
	w.crashFs().SetHook(nil)
	if report, err := s.Validate(t.Context(), snap.Stamp, nil); err != nil || !report.Valid {
		t.Errorf("it was undone: %v, %v", report.Err(), err)
	}
}

func TestRestoreWhoseLastSyncFailsIsOfUnknownDurability(t *testing.T) {
	w := crashWorld(t)
	s := w.crashStore(t)
	snap, err := s.Create(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := w.live(t)
	w.mutate(t)
	removed := false
	w.crashFs().SetHook(func(op crashfs.Op) crashfs.Fault {
		removed = removed || op.Kind == crashfs.OpRemove && strings.HasSuffix(op.Path, "/restore-journal.json")
		if removed && op.Kind == crashfs.OpSync {
			return crashfs.Fault{Effect: crashfs.FailBefore, Err: syscall.EIO}
		}
		return crashfs.Fault{}
	})
	r, err := s.Restore(t.Context(), snap.Stamp, confirmed)
	if !errors.Is(err, backup.ErrDurabilityUnknown) || r == nil {
		t.Fatalf("%+v, %v, want a restoration of unknown durability", r, err)
	}
	w.crashFs().SetHook(nil)
	if got := w.live(t); got != want {
		t.Errorf("live state:\n%s\nwant:\n%s", got, want)
	}
}

// Some file systems have no such notion as a sync of a directory.
func TestDirectorySyncUnsupported(t *testing.T) {
	for _, unsupported := range []error{syscall.EINVAL, syscall.ENOTSUP, syscall.ENOSYS, errors.ErrUnsupported} {
		w := newWorld(t, afero.NewMemMapFs(), "/srv")
		w.small(t)
		dirs := 0
		s := w.faulty(t, func(op, p string) error {
			if isDir, err := afero.IsDir(w.fs, p); op == "sync" && err == nil && isDir {
				dirs++
				return unsupported
			}
			return nil
		})
		snap, err := s.Create(t.Context(), nil)
		if err != nil || dirs == 0 {
			t.Errorf("%v: create: %v; %d directories", unsupported, err, dirs)
			continue
		}
		if _, err := s.Restore(t.Context(), snap.Stamp, confirmed); err != nil {
			t.Errorf("%v: restore: %v", unsupported, err)
		}
	}
}

func TestNoSpaceIsToldBeforeAnythingIsWritten(t *testing.T) {
	w := crashWorld(t)
	s := w.crashStore(t)
	if _, err := s.Create(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	want := w.names(t, ".")
	w.crashFs().SetCapacity(1 << 20)
	ops := len(w.crashFs().Log())
	if _, err := s.Create(t.Context(), nil); !errors.Is(err, backup.ErrNoSpace) {
		t.Fatalf("error %v, want no space", err)
	}
	for _, op := range w.crashFs().Log()[ops:] {
		if op.Kind == crashfs.OpWrite || op.Kind == crashfs.OpMkdir {
			t.Errorf("written: %s", op)
		}
	}
	if got := w.names(t, "."); len(got) != len(want) {
		t.Errorf("left %v, want %v", got, want)
	}
}
