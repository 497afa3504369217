//go:build cgo

// Package mattn tests a program that has mattn/go-sqlite3, and no other
// foreign driver. It is one that go test makes, which knows nothing of the
// modules that it is made of.
package mattn

import (
	"database/sql"
	"errors"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	_ "github.com/mattn/go-sqlite3"

	"github.com/atocore/backup"
)

func TestIdle(t *testing.T) {
	if diff := cmp.Diff(sql.Drivers(), []string{"sqlite3"}); diff != "" {
		t.Fatalf("drivers (-got +want):\n%s", diff)
	}
	for _, mode := range []string{"wal", "delete"} {
		t.Run(mode, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "app.db")
			db, err := sql.Open("sqlite3", path)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if _, err := db.ExecContext(t.Context(), "PRAGMA journal_mode="+mode+"; CREATE TABLE t (x)"); err != nil {
				t.Fatal(err)
			}
			s, err := backup.New(backup.Config{
				Dir:     filepath.Join(t.TempDir(), "backups"),
				Sources: []backup.Source{{Name: "db", Kind: backup.Database, Path: path}},
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Create(t.Context(), nil); !errors.Is(err, backup.ErrForeignDriver) {
				t.Errorf("Create: got %v, want %v", err, backup.ErrForeignDriver)
			}
		})
	}
}
