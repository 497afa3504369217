package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/spf13/afero"

	"github.com/atocore/backup"
)

// A world is a service's state in a directory of its own, with a
// configuration file beside it.
type world struct {
	root     string
	now      time.Time
	terminal bool
	noConfig bool // leaves out -config
}

const configJSON = `{
  "dir": "backups",
  "sources": [
    {"name": "db", "kind": "database", "path": "data/app.db"},
    {"name": "config", "kind": "file", "path": "config/registry.json", "optional": true},
    {"name": "chroma", "kind": "tree", "path": "chroma", "on_request": true}
  ]
}`

func newWorld(t *testing.T) *world {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir()) // which is behind a link on macOS
	if err != nil {
		t.Fatal(err)
	}
	w := &world{root: root, now: time.Date(2026, 4, 11, 13, 0, 0, 0, time.UTC)}
	w.write(t, "backup.json", configJSON)
	w.write(t, "config/registry.json", `{"projects": ["p1"]}`)
	w.write(t, "chroma/collection/data.bin", strings.Repeat("\x00\x01", 512))
	w.exec(t, "PRAGMA journal_mode=WAL; CREATE TABLE memories (body TEXT); INSERT INTO memories VALUES ('baseline')")
	return w
}

func (w *world) path(name string) string { return filepath.Join(w.root, filepath.FromSlash(name)) }

func (w *world) snapshot(stamp, name string) string {
	return w.path("backups/snapshots/" + stamp + "/" + name)
}

func (w *world) write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(w.path(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.path(name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (w *world) read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(w.path(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// damage flips a bit in the middle of a file of a snapshot.
func (w *world) damage(t *testing.T, stamp, name string) {
	t.Helper()
	data, err := os.ReadFile(w.snapshot(stamp, name))
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(w.snapshot(stamp, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// stamps returns the names of what is in the store.
func (w *world) stamps(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(w.path("backups/snapshots"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// open connects to the live database, as the service would.
func (w *world) open(t *testing.T) *sqlite3.Conn {
	t.Helper()
	if err := os.MkdirAll(w.path("data"), 0o755); err != nil {
		t.Fatal(err)
	}
	c, err := backup.OpenDB(afero.NewOsFs(), w.path("data/app.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (w *world) exec(t *testing.T, sql string) {
	t.Helper()
	c := w.open(t)
	if err := c.Exec(sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// memories returns what the live database holds.
func (w *world) memories(t *testing.T) string {
	t.Helper()
	c := w.open(t)
	defer c.Close()
	stmt, _, err := c.Prepare("SELECT body FROM memories ORDER BY rowid")
	if err != nil {
		t.Fatal(err)
	}
	defer stmt.Close()
	var rows []string
	for stmt.Step() {
		rows = append(rows, stmt.ColumnText(0))
	}
	if err := stmt.Err(); err != nil {
		t.Fatal(err)
	}
	return strings.Join(rows, ",")
}

// An outcome is what a run of the command left.
type outcome struct {
	code           int
	stdout, stderr string
}

// run runs a verb with the world's configuration.
func (w *world) run(t *testing.T, args ...string) outcome {
	t.Helper()
	if !w.noConfig {
		args = slices.Insert(slices.Clone(args), 1, "-config", w.path("backup.json"))
	}
	var stdout, stderr bytes.Buffer
	p := &program{stdout: &stdout, stderr: &stderr, terminal: w.terminal, now: func() time.Time { return w.now }}
	const patience = 30 * time.Second // a wait for a lock that will not come ends, too
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	code := p.run(ctx, args)
	return outcome{code, stdout.String(), stderr.String()}
}

// must runs a verb that has to exit with code.
func (w *world) must(t *testing.T, code int, args ...string) outcome {
	t.Helper()
	got := w.run(t, args...)
	if got.code != code {
		t.Fatalf("%q: exit code %d, want %d\n%s%s", args, got.code, code, got.stdout, got.stderr)
	}
	return got
}

// create takes a snapshot a minute later, and returns its stamp.
func (w *world) create(t *testing.T, args ...string) string {
	t.Helper()
	w.now = w.now.Add(time.Minute)
	var snap backup.Snapshot
	w.must(t, exitDone, append([]string{"create", "-json"}, args...)...).decode(t, &snap)
	return snap.Stamp
}

// decode reads the one JSON document of an outcome.
func (o outcome) decode(t *testing.T, v any) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(o.stdout))
	if err := dec.Decode(v); err != nil {
		t.Fatalf("stdout is no JSON: %v\n%s", err, o.stdout)
	}
	if _, err := dec.Token(); err != io.EOF {
		t.Fatalf("more than one document on stdout:\n%s", o.stdout)
	}
}

// fields returns the keys of the one JSON document.
func (o outcome) fields(t *testing.T) map[string]any {
	t.Helper()
	var fields map[string]any
	o.decode(t, &fields)
	return fields
}

// contains reports what of want is not in got.
func contains(t *testing.T, got string, want ...string) {
	t.Helper()
	for _, s := range want {
		if !strings.Contains(got, s) {
			t.Errorf("no %q in:\n%s", s, got)
		}
	}
}
