//go:build unix

package aferovfs_test

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/ncruces/go-sqlite3"
	"github.com/spf13/afero"
)

// Opening a pipe would wait for somebody to write to it.
func TestOpenRefusesPipe(t *testing.T) {
	dir := t.TempDir()
	name := register(t, afero.NewBasePathFs(afero.NewOsFs(), dir))
	exec(t, open(t, uri(name, "/a.db")), fillSQL) // or SQLite deletes its journal
	for _, name := range []string{"pipe.db", "a.db-journal"} {
		if err := syscall.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
			t.Skipf("mkfifo: %v", err)
		}
	}
	_, err := sqlite3.Open(uri(name, "/pipe.db", "mode", "ro"))
	if !errors.Is(err, sqlite3.CANTOPEN) {
		t.Errorf("got %v, want CANTOPEN", err)
	}
	checkPathError(t, err, "/pipe.db")
	err = open(t, uri(name, "/a.db")).Exec("DELETE FROM t")
	if !errors.Is(err, sqlite3.CANTOPEN) {
		t.Errorf("journal: got %v, want CANTOPEN", err)
	}
	checkPathError(t, err, "/a.db-journal")
}
