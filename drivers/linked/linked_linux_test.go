// Package linked tests how the library tells whether a driver that takes
// POSIX locks is part of the program: in a program as users build it, and, in
// the packages below, in one that has no such driver, and in a test that has
// no other.
package linked

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// TestBuilt: in a program as go build makes it, an idle connection in
// rollback mode, which has no lock, is known for what it is.
func TestBuilt(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip(err)
	}
	tags := map[string]string{"sqlite": "modernc"} // by driver
	if haveCgo {
		tags["sqlite3"] = ""
	}
	for driver, tag := range tags {
		dir := t.TempDir()
		program := filepath.Join(dir, "idlehost")
		args := []string{"build", "-tags=" + tag, "-o", program, "../internal/idlehost"}
		if out, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput(); err != nil {
			t.Fatalf("go %q: %v\n%s", args, err, out)
		}
		got, err := exec.CommandContext(t.Context(), program, dir).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, got)
		}
		if want := driver + " true\n"; string(got) != want {
			t.Errorf("go %q: it says %q, want %q", args, got, want)
		}
	}
}
