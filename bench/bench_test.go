package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	if !childMain() {
		os.Exit(m.Run())
	}
}

// TestQuick measures everything that can be measured here, small and once,
// and whether all took part who should.
func TestQuick(t *testing.T) {
	for _, tool := range []string{"go", "cp", "sync", "sha256sum", "mkdir"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("measures beside tools that are not there:", err)
		}
	}
	opts := options{dir: t.TempDir(), quick: true, runs: 1, size: 1, out: filepath.Join(t.TempDir(), "RESULTS.md")}
	if err := opts.complete(""); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	l, err := newLab(t.Context(), opts, &out)
	if err != nil {
		t.Fatal(err)
	}
	results, err := l.measure(t.Context())
	if cerr := l.close(); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
	t.Log(out.String())
	for _, r := range results {
		if len(r.samples) == 0 && !strings.Contains(r.absent, "had not ended") {
			t.Errorf("%s: %s: %s", r.workload, r.contender, r.absent)
		}
	}
	if left, err := os.ReadDir(opts.dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestTargetsAreMeasured finds a target that names no contender.
func TestTargetsAreMeasured(t *testing.T) {
	l := &lab{dir: t.TempDir(), xfs: t.TempDir()}
	known := make(map[[2]string]bool)
	for _, w := range l.workloads() {
		for _, c := range w.contenders {
			if known[[2]string{w.name, c.name}] {
				t.Errorf("%s: %s: twice", w.name, c.name)
			}
			known[[2]string{w.name, c.name}] = true
		}
	}
	for _, target := range targets {
		for _, name := range []string{target.ours, target.rival} {
			if name != "" && !known[[2]string{target.workload, name}] {
				t.Errorf("%s: nobody called %q does %q", target.claim, name, target.workload)
			}
		}
	}
}
