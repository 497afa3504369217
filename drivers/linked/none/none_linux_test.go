// Package none tests a program that has no foreign driver: there the locks
// alone tell.
package none

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/ncruces/go-sqlite3"
	"golang.org/x/sys/unix"

	"github.com/atocore/backup"
)

// TestLocks: a file with a POSIX lock of this process is refused, whatever
// it is, and keeps the lock. One that is merely open is not.
func TestLocks(t *testing.T) {
	if got := sql.Drivers(); len(got) > 0 {
		t.Fatalf("drivers %q", got)
	}
	sources := map[string]func(path string) backup.Source{
		"database": func(path string) backup.Source {
			return backup.Source{Name: "db", Kind: backup.Database, Path: path}
		},
		"file": func(path string) backup.Source {
			return backup.Source{Name: "db", Kind: backup.File, Path: path}
		},
		"tree": func(path string) backup.Source {
			return backup.Source{Name: "db", Kind: backup.Tree, Path: filepath.Dir(path)}
		},
	}
	for name, source := range sources {
		for _, suffix := range []string{"", "-shm"} {
			if suffix != "" && name == "file" {
				continue // it is another file
			}
			t.Run(name+suffix, func(t *testing.T) {
				path := makeDatabase(t)
				if name == "file" { // one that is a database is refused for that
					path = filepath.Join(t.TempDir(), "text")
					if err := os.WriteFile(path, []byte("text"), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				f, err := os.OpenFile(path+suffix, os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				if err := create(t, source(path)); err != nil {
					t.Errorf("open: %v", err)
				}
				lock := unix.Flock_t{Type: unix.F_RDLCK, Start: 128, Len: 1}
				if err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &lock); err != nil {
					t.Fatal(err)
				}
				if err := create(t, source(path)); !errors.Is(err, backup.ErrForeignDriver) {
					t.Errorf("locked: got %v, want %v", err, backup.ErrForeignDriver)
				}
				if !locked(t, f) {
					t.Error("the lock is gone")
				}
			})
		}
	}
}

// makeDatabase makes one in WAL mode that the library's own driver has open.
func makeDatabase(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "app.db")
	c, err := sqlite3.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Exec("PRAGMA journal_mode=WAL; CREATE TABLE t (x)"); err != nil {
		t.Fatal(err)
	}
	return path
}

func create(t *testing.T, src backup.Source) error {
	t.Helper()
	s, err := backup.New(backup.Config{Dir: filepath.Join(t.TempDir(), "backups"), Sources: []backup.Source{src}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Create(t.Context(), nil)
	return err
}

// locked reports whether the process has a lock on f, as others see it: by
// the lock of another open file description, which conflicts with it.
func locked(t *testing.T, f *os.File) bool {
	t.Helper()
	other, err := os.OpenFile(f.Name(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() }) // which drops the lock
	lock := unix.Flock_t{Type: unix.F_WRLCK, Start: 128, Len: 1}
	err = unix.FcntlFlock(other.Fd(), unix.F_OFD_GETLK, &lock)
	if err != nil {
		t.Fatal(err)
	}
	return lock.Type != unix.F_UNLCK
}
