package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ncruces/go-sqlite3"
)

func TestDrill(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	t.Setenv("TMP", temp) // Windows
	var out strings.Builder
	if err := run(t.Context(), &out, "", false); err != nil {
		t.Errorf("%v\n%s", err, &out)
	}
	t.Log("\n" + out.String())
	if left, _ := os.ReadDir(temp); len(left) > 0 {
		t.Errorf("%v was left behind", left)
	}
}

// The original keeps its bytes, and its connections.
func TestDrillOnCopy(t *testing.T) {
	db := filepath.Join(t.TempDir(), "original.db")
	conn, err := sqlite3.Open(db)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	err = conn.Exec(`PRAGMA journal_mode = WAL;
		CREATE TABLE users (name TEXT); INSERT INTO users VALUES ('in the write-ahead log')`)
	if err != nil {
		t.Fatal(err)
	}
	before := readAll(t, db, db+"-wal")

	var out strings.Builder
	if err := run(t.Context(), &out, db, false); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	if !strings.Contains(out.String(), "users 1") {
		t.Errorf("the drill was not on a copy of the database:\n%s", &out)
	}
	if !bytes.Equal(readAll(t, db, db+"-wal"), before) {
		t.Error("the original has changed")
	}
	if err := conn.Exec("INSERT INTO users VALUES ('after')"); err != nil {
		t.Error(err)
	}
}

func TestDrillFails(t *testing.T) {
	db := filepath.Join(t.TempDir(), "no.db")
	if err := os.WriteFile(db, bytes.Repeat([]byte("x"), 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := run(t.Context(), &out, db, false); err == nil {
		t.Error("no error")
	}
	if !strings.HasPrefix(out.String(), "FAIL") {
		t.Errorf("got %q", &out)
	}
}

func readAll(t *testing.T, names ...string) []byte {
	t.Helper()
	var all []byte
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
	}
	return all
}
