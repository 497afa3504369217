package backup_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atocore/backup"
)

// openBelow returns the files below a directory that this process has open, but
// for the store's lock, which it keeps.
func openBelow(t *testing.T, dir string) (open []string) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name()))
		if err == nil && strings.HasPrefix(to, dir+"/") { // that of ReadDir is closed
			open = append(open, to)
		}
	}
	return open
}

// Wherever Progress is when it cancels, or panics, in the end nothing is open that
// was not: a file system that is still in use cannot be unmounted, and on Windows no
// directory be removed. (The garbage collector, which would close it some time, is
// not there.)
func TestNothingStaysOpen(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	w := osWorld(t)
	makeFiles(t, w.path("tree"), 300)
	w.bookkeeping(t, "tree/app.db", "wal", 1)
	w.bookkeeping(t, "app.db", "wal", 1)
	var hook func()
	s := w.store(t, withSources(w.treeSource("tree"), w.database("app.db")), func(cfg *backup.Config) {
		cfg.Progress = func(backup.Progress) { hook() }
	})
	hook = func() {}
	stamp := mustCreate(t, s).Stamp
	operations := map[string]func(ctx context.Context) error{
		"create": func(ctx context.Context) error {
			snap, err := s.Create(ctx, nil)
			if err == nil {
				err = s.Delete(ctx, snap.Stamp)
			}
			return err
		},
		"validate": func(ctx context.Context) error {
			_, err := s.Validate(ctx, stamp, nil)
			return err
		},
		"restore": func(ctx context.Context) error {
			_, err := s.Restore(ctx, stamp, &backup.RestoreOptions{ConfirmServiceStopped: true, SkipSafetySnapshot: true})
			return err
		},
	}
	onCores(t, func(t *testing.T) {
		for name, operate := range operations {
			calls := 0
			hook = func() { calls++ }
			if err := operate(t.Context()); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			before := openBelow(t, w.root)
			for at := 1; at <= calls; at += 1 + calls/5 {
				for _, end := range []string{"cancel", "panic"} {
					ctx, cancel := context.WithCancel(t.Context())
					n := 0
					hook = func() {
						if n++; n == at && end == "panic" {
							panic("a bug")
						} else if n == at {
							cancel()
						}
					}
					err := recovered(func() error { return operate(ctx) })
					cancel()
					hook = func() {}
					if _, err := s.Recover(t.Context()); err != nil {
						t.Fatal(err)
					}
					if diff := cmp.Diff(openBelow(t, w.root), before); diff != "" {
						t.Errorf("%s, %s in call %d of %d: %v; open (-got +want):\n%s", name, end, at, calls, err, diff)
					}
				}
			}
		}
	})
}

// recovered returns what fn returns, or what it panicked with.
func recovered(fn func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return fn()
}
