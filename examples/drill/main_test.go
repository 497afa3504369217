package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
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

// The original keeps its rows, and its connections. (Its log may be checkpointed
// meanwhile, as it may be at any time.)
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
	var out strings.Builder
	if err := run(t.Context(), &out, db, false); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	if !strings.Contains(out.String(), "users 1") {
		t.Errorf("the drill was not on a copy of the database:\n%s", &out)
	}
	if err := conn.Exec("INSERT INTO users VALUES ('after')"); err != nil {
		t.Error(err)
	}
	if got, want := rows(t, conn, "SELECT name FROM users"), []string{"in the write-ahead log", "after"}; !slices.Equal(got, want) {
		t.Errorf("the original has %q, want %q", got, want)
	}
	if got := rows(t, conn, "PRAGMA integrity_check"); !slices.Equal(got, []string{"ok"}) {
		t.Errorf("the original: %q", got)
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

func rows(t *testing.T, conn *sqlite3.Conn, sql string) []string {
	t.Helper()
	stmt, _, err := conn.Prepare(sql)
	if err != nil {
		t.Fatal(err)
	}
	defer stmt.Close()
	var all []string
	for stmt.Step() {
		all = append(all, stmt.ColumnText(0))
	}
	if err := stmt.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}
